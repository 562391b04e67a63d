//! The worker that the command forks before it has read anything: it has nothing of its program,
//! the walls of a worker that is started, and it is gone when it is not needed.

use crate::support::command::{Wrun, scratch, write};
use crate::support::processes::{descendants, own_copy, running};
use crate::support::within;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const EMPTY: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
const SPIN: &str = r#"(module (memory (export "memory") 1)
    (func (export "_start") (loop $forever (br $forever))))"#;

/// Where the program lies in a process's memory.
fn base(pid: i32, program: &Path) -> Option<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let name = program.to_str()?;
    let line = maps.lines().find(|line| line.ends_with(name))?;
    Some(line.split('-').next()?.to_owned())
}

/// Whether a process has these bytes anywhere in the memory that it may read.
fn has(pid: i32, secret: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut looked_at = 0;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else {
            continue;
        };
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        let mut bytes = vec![0; usize::try_from(end - start).unwrap().min(64 << 20)];
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            looked_at += bytes.len();
            if bytes.windows(secret.len()).any(|window| window == secret) {
                return true;
            }
        }
    }
    assert!(looked_at > 64 << 10, "no memory of {pid}: {maps}");
    false
}

/// The one process below, once it runs a guest that never ends.
fn worker_of(pid: i32) -> i32 {
    let mut found = None;
    let is_there = within(PATIENCE, || {
        let below = descendants(pid);
        found = below.first().map(|(pid, _)| *pid);
        below.len() == 1
            && found.is_some_and(|pid| {
                // It is no longer dumpable, and computes.
                let status = fs::read_to_string(format!("/proc/{pid}/status"));
                let is_sealed = |status: String| status.contains("Seccomp:\t2");
                status.is_ok_and(is_sealed) && crate::support::processes::processor_time(pid) > 10
            })
    });
    assert!(is_there, "no worker");
    found.unwrap()
}

#[test]
fn the_early_worker_has_nothing_of_its_program() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may look into a worker");
        return;
    }
    let folder = scratch();
    let program = own_copy(folder.path());
    let task = write(folder.path(), "spin.wat", SPIN);
    let report = folder.path().join("argument-7b5e1c.json");
    let leak = fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let mut all = Vec::new();
    for (way, is_early) in [(&["--reuse", "1"][..], true), (&["--start", "exec"], false)] {
        let running = Wrun::program(&program)
            .env("ENVIRONMENT_A4C0", "variable-2d9f63")
            .args(way)
            .arg("--report")
            .arg(&report)
            .arg(&task)
            .start();
        let pid = running.pid();
        let worker = worker_of(pid);
        // The program itself has both, so that they would be found.
        assert!(has(pid, b"variable-2d9f63") && has(pid, b"argument-7b5e1c"));
        for secret in ["variable-2d9f63", "ENVIRONMENT_A4C0", "argument-7b5e1c"] {
            assert!(!has(worker, secret.as_bytes()), "{way:?}: {secret}");
        }
        let environment = fs::read(format!("/proc/{worker}/environ")).unwrap();
        assert!(environment.iter().all(|byte| *byte == 0));
        let line = fs::read(format!("/proc/{worker}/cmdline")).unwrap();
        let line = String::from_utf8_lossy(&line);
        assert!(line.starts_with("wrun-worker\0__wrun-worker"), "{line:?}");
        // Its descriptors are sockets, pipes, an event loop's, memory files, and the null device.
        let mut kinds: Vec<_> = fs::read_dir(format!("/proc/{worker}/fd"))
            .unwrap()
            .map(|entry| fs::read_link(entry.unwrap().path()).unwrap())
            .map(|target| {
                let target = target.to_string_lossy();
                target.split([':', '-']).next().unwrap().to_owned()
            })
            .collect();
        kinds.sort();
        // The same program at the same place: it was forked, and not started.
        let places = (base(pid, &program), base(worker, &program));
        assert!(places.0.is_some());
        assert_eq!(places.0 == places.1, is_early, "{places:?}");
        let limits = fs::read_to_string(format!("/proc/{worker}/limits")).unwrap();
        let limits: Vec<_> = limits
            .lines()
            // What depends on the memory that a process has already.
            .filter(|line| !line.contains("data size") && !line.contains("address space"))
            .map(str::to_owned)
            .collect();
        let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        let walls: Vec<_> = status
            .lines()
            .filter(|line| {
                [
                    "Cap",
                    "NoNewPrivs",
                    "Seccomp",
                    "NSpid",
                    "Groups",
                    "SigBlk",
                    "SigIgn",
                    "SigCgt",
                    "Threads",
                ]
                .iter()
                .any(|it| line.starts_with(it))
            })
            // The second number is the one within.
            .map(|line| match line.strip_prefix("NSpid:") {
                Some(numbers) => format!("NSpid {:?}", numbers.split_whitespace().nth(1)),
                None => line.to_owned(),
            })
            .collect();
        let spaces: Vec<_> = ["user", "pid", "net", "ipc", "mnt", "uts", "cgroup"]
            .iter()
            .map(|kind| {
                let of = |pid| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
                (*kind, of(pid) != of(worker))
            })
            .collect();
        all.push((kinds, limits, walls, spaces));
        running.signal(Signal::INT);
        running.end().expect_code(130, "Ctrl-C");
    }
    let [early, started] = all.as_slice() else {
        panic!("two of them");
    };
    assert_eq!(early, started);
    drop(leak);
}

#[test]
fn its_walls_are_those_of_a_worker_that_is_started() {
    let folder = scratch();
    let task = write(folder.path(), "empty.wat", EMPTY);
    let report = |way: &[&str]| {
        let ran = Wrun::new()
            .args(way)
            .args(["--report", "-", "--output", "/dev/null"])
            .arg(&task)
            .run();
        let report: Value = serde_json::from_str(&ran.expect_code(0, "runs").text()).unwrap();
        assert_eq!(report["notes"], Value::Array(Vec::new()));
        let layers = report["jail"]["layers"].as_array().unwrap().clone();
        assert!(layers.len() > 10);
        layers
            .into_iter()
            .map(|layer| {
                // The user is another one each time.
                let words = layer["detail"].as_str().unwrap();
                let words: String = words.chars().filter(|it| !it.is_ascii_digit()).collect();
                (
                    layer["layer"].to_string(),
                    layer["state"].to_string(),
                    words,
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(report(&[]), report(&["--start", "exec"]));
    let dir = format!("{}:ro", folder.path().display());
    assert_eq!(
        report(&["--dir", &dir]),
        report(&["--dir", &dir, "--start", "exec"])
    );
}

#[test]
fn an_early_worker_that_is_not_needed_is_gone() {
    let folder = scratch();
    let program = own_copy(folder.path());
    let task = write(folder.path(), "empty.wat", EMPTY);
    let task = task.to_str().unwrap();
    for (args, code) in [
        (&["no-such-file.wasm"][..], 127),
        (&["--no-such-option", task], 2),
        (&["--timeout", "never", task], 2),
        (&["--jail=off", task], 0),
        // It is forked for these, and does not fit.
        (&["--quiet", "--mode", "process", "-q", task], 2),
        (&["--workers", "1", task, "--jail", "off"], 0),
        (&["--report", "/nowhere/at/all", task], 125),
        (&[task], 0),
    ] {
        let ran = Wrun::program(&program).args(args).run();
        assert_eq!(ran.code(), code, "{args:?}: {}", ran.stderr);
        let is_gone = within(PATIENCE, || running(&program).is_empty());
        assert!(is_gone, "{args:?}: {:?}", running(&program));
    }
    // A program that dies takes it along.
    let spin = write(folder.path(), "spin.wat", SPIN);
    let running_one = Wrun::program(&program).arg(&spin).start();
    worker_of(running_one.pid());
    running_one.signal(Signal::KILL);
    drop(running_one.end());
    assert!(within(PATIENCE, || running(&program).is_empty()));
}

#[test]
fn what_the_loader_was_told_is_not_in_a_worker() {
    let folder = scratch();
    let program = own_copy(folder.path());
    let spin = write(folder.path(), "spin.wat", SPIN);
    let running = Wrun::program(&program)
        .env("LD_LIBRARY_PATH", "/nowhere/loader-51cc")
        .arg(&spin)
        .start();
    let worker = worker_of(running.pid());
    // It was started, and not forked.
    let places = (base(running.pid(), &program), base(worker, &program));
    if rustix::process::geteuid().is_root() {
        assert_ne!(places.0, places.1);
    }
    running.signal(Signal::INT);
    running.end().expect_code(130, "Ctrl-C");
}
