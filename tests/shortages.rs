//! What becomes of tasks where the system gives no more: limits that `wrun` was started
//! with, on threads, memory, descriptors and the size of files. The runner says in one
//! line what it lacked, and lives where it is a library.

use crate::support::command::{Ran, Wrun, scratch, write};
use crate::support::{BOTH, MODES, alone, builder, guest, repo, still_works, tool, wat, wrun};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::Path;
use std::process::Command;
use wrun::{DirGrant, Input, Jail, Mode, ProcessOptions, RegionKind, Stdio, Task};

/// A user without other processes, so that none of them counts.
const USER: &str = "61234";

/// `wrun` with a limit (`--nproc=4`, as `prlimit` has it), as another user where that is
/// wanted and possible.
fn limited(limit: &str, user: bool) -> Wrun {
    let mut run = Wrun::program(Path::new("prlimit")).arg(limit);
    if user {
        run = run
            .args(["setpriv", "--clear-groups"])
            .args([format!("--reuid={USER}"), format!("--regid={USER}")]);
    }
    run.arg(wrun())
}

/// Whether another user can start `wrun` here.
fn can_be_another() -> bool {
    if !tool::available("setpriv") {
        return false;
    }
    let tried = Command::new("setpriv")
        .args(["--clear-groups", "--reuid", USER, "--regid", USER])
        .arg(wrun())
        .arg("--version")
        .output();
    tried.is_ok_and(|it| it.status.success())
}

/// A runner that lacks something says what, in one line, and exits with 125; otherwise
/// its task is done.
#[track_caller]
fn judge(ran: &Ran, what: &str) {
    if let Some(wrong) = ran.misbehaviour() {
        panic!("{what}: {wrong}");
    }
    // Neither was started: its code does not fit the limit.
    if ran.stderr.contains("error while loading shared libraries") {
        return;
    }
    match ran.code() {
        0 => assert_eq!(ran.text(), "text", "{what}: {ran}"),
        125 => {
            assert_eq!(ran.stderr.lines().count(), 1, "{what}: {ran}");
            assert!(ran.stdout.is_empty(), "{what}: {ran}");
        }
        code => panic!("{what}: exit code {code}; {ran}"),
    }
}

/// What each limit does to a small task, cached and not.
fn sweep(option: &str, values: &[u64], user: bool) {
    let echo = repo("guest-tasks/echo/echo.wat");
    for (mode, start) in [("thread", "exec"), ("process", "exec"), ("process", "fork")] {
        let mut done = 0;
        for value in values {
            for cached in [true, false] {
                let mut run = limited(&format!("--{option}={value}:{value}"), user);
                // Another user cannot write to the cache, which does not matter here.
                run = run.args(["--quiet", "--start", start]);
                if !cached {
                    run = run.arg("--no-cache");
                }
                let run = run.args(["--mode", mode]).arg(&echo).stdin("text");
                let ran = run.run();
                judge(&ran, &format!("{mode}: {option} {value}, cached {cached}"));
                done += usize::from(ran.code() == 0);
            }
        }
        // The last value is enough.
        assert!(done > 0, "{mode}: {option}");
    }
}

#[test]
fn too_few_threads_are_told() {
    let user = can_be_another();
    if !user {
        println!("SKIPPED: limits on processes of a user: cannot be another user");
        return;
    }
    sweep("nproc", &[1, 2, 3, 4, 5, 6, 8, 12, 100], true);
}

#[test]
fn too_little_memory_is_told() {
    const MIB: u64 = 1 << 20;
    // With 1 MiB, the kernel does not start the program: its own data is a little more.
    let values = [2, 3, 4, 5, 6, 8, 10, 14, 20, 30, 48, 1 << 14];
    sweep("data", &values.map(|it| it * MIB), false);
}

#[test]
fn too_few_descriptors_are_told() {
    sweep(
        "nofile",
        &[3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 24, 1000],
        false,
    );
}

#[test]
fn files_that_may_not_grow_are_told() {
    sweep("fsize", &[0, 1, 4096, 1 << 16, 1 << 30], false);
}

/// A task that makes a region, and returns the number of the error, or 0.
fn makes_a_region(bytes: u64) -> String {
    format!(
        r#"(module
    (import "wrun:task/regions@0.1.0" "[static]region.create" (func $create (param i64 i32 i32)))
    (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "run") (param i32 i32) (result i32)
      (call $create (i64.const {bytes}) (i32.const 2) (i32.const 64))
      (i32.store8 (i32.const 4096)
        (i32.add (i32.const 48) (i32.add (i32.mul (i32.load8_u (i32.const 64)) (i32.const 10))
          (i32.mul (i32.load8_u (i32.const 64)) (i32.load8_u (i32.const 68))))))
      (i32.store (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (i32.const 4096))
      (i32.store (i32.const 24) (i32.const 1))
      (i32.const 16)))"#
    )
}

/// A command that writes a byte at an offset of a new file in its directory, and exits
/// with the number of the error.
fn writes_at(offset: u64) -> String {
    format!(
        r#"(module
    (import "wasi_snapshot_preview1" "path_open"
      (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_pwrite"
      (func $write (param i32 i32 i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\20\00\00\00\01\00\00\00")
    (data (i32.const 16) "file")
    (func (export "_start")
      (if (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 4) (i32.const 1)
            (i64.const 0x1fffffff) (i64.const 0x1fffffff) (i32.const 0) (i32.const 64))
        (then (call $exit (i32.const 99))))
      (call $exit (call $write (i32.load (i32.const 64)) (i32.const 0) (i32.const 1)
        (i64.const {offset}) (i32.const 100)))))"#
    )
}

/// WASI 0.1's `fbig`.
const FBIG: i32 = 22;

#[test]
fn a_guest_is_told_that_a_file_may_not_grow() {
    const LIMIT: u64 = 64 << 20;
    let scratch = scratch();
    let writes = write(scratch.path(), "writes.wat", writes_at(LIMIT + 1));
    let regions = write(scratch.path(), "region.wat", makes_a_region(2 * LIMIT));
    let limit = format!("--fsize={LIMIT}:{LIMIT}");
    let mut said = Vec::new();
    for (mode, jail) in [
        ("thread", None),
        ("process", Some("strict")),
        ("process", Some("best-effort")),
        ("process", Some("off")),
    ] {
        for start in ["exec", "fork"] {
            let what = format!("{mode}, jail {jail:?}, {start}");
            let directory = scratch.path().join("d");
            let _ = std::fs::remove_dir_all(&directory);
            std::fs::create_dir(&directory).unwrap();
            let run = |file: &Path| {
                let mut run = limited(&limit, false).args(["--mode", mode, "--start", start]);
                if let Some(jail) = jail {
                    run = run.args(["--jail", jail]);
                }
                let grant = format!("{}::/d", directory.display());
                run.args(["--dir", &grant]).arg(file).run()
            };
            run(&writes).expect_code(FBIG, &what);
            let ran = run(&regions);
            ran.expect_code(0, &what);
            said.push(ran.text());
        }
    }
    // An error, and the same one.
    assert!(
        said.iter().all(|it| *it == said[0] && it != "0"),
        "{said:?}"
    );
}

#[test]
fn output_that_may_not_grow_is_told() {
    let scratch = scratch();
    let flood = repo("guest-tasks/cat/cat.wasm");
    let output = scratch.path().join("output");
    for mode in MODES {
        let limit = 32 << 20;
        let run = limited(&format!("--fsize={limit}:{limit}"), false)
            .args(["--mode", mode, "--output"])
            .arg(&output)
            .arg(&flood)
            .stdin(vec![7; 40 << 20]);
        let ran = run.run();
        ran.expect_code(125, mode);
        assert_eq!(ran.stderr.lines().count(), 1, "{mode}: {ran}");
        assert!(ran.stderr.contains("File too large"), "{mode}: {ran}");
        assert!(ran.stderr.contains("ulimit -f"), "{mode}: {ran}");
    }
}

#[test]
fn processor_time_that_is_used_up_is_told() {
    let scratch = scratch();
    let spin =
        "(module (memory (export \"memory\") 1) (func (export \"_start\") (loop $l (br $l))))";
    let spin = write(scratch.path(), "spin.wat", spin);
    for (start, codes) in [
        (["--mode", "thread"], &[152][..]),
        // The time is the worker's, which the kernel ends at the soft limit.
        (["--start", "fork"], &[152]),
        // Or, where it is the first process of a namespace, at the hard one.
        (["--start", "exec"], &[152, 137]),
    ] {
        let run = limited("--cpu=1:3", false).args(start);
        let ran = run.arg(&spin).run();
        if let Some(wrong) = ran.misbehaviour() {
            panic!("{start:?}: {wrong}");
        }
        assert_eq!(ran.stderr.lines().count(), 1, "{start:?}: {ran}");
        assert!(codes.contains(&ran.code()), "{start:?}: {ran}");
        let line = match start[1] {
            "thread" => {
                "the task was ended: wrun has used up its processor time (ulimit -t)".into()
            }
            _ => format!(
                "the task crashed: the limit on processor time (ulimit -t) ended the worker, by \
                 signal {}",
                ran.code() - 128
            ),
        };
        assert_eq!(ran.stderr, format!("wrun: {line}\n"), "{start:?}");
    }
}

#[test]
fn processor_time_that_is_used_up_by_compiling_is_told() {
    let scratch = scratch();
    let task = write(scratch.path(), "bomb.wasm", crate::compiling::large_bomb());
    for (mode, code, told) in [
        (
            "thread",
            152,
            "wrun has used up its processor time (ulimit -t) while it loaded the task",
        ),
        (
            "process",
            125,
            "cannot compile the task: the limit of 1 s on processor time (ulimit -t) ended the \
             compiler",
        ),
    ] {
        let run = limited("--cpu=1:1", false);
        // In thread mode the hard limit would end `wrun` itself.
        let run = match mode {
            "thread" => limited("--cpu=1:30", false),
            _ => run,
        };
        let ran = run.args(["--mode", mode]).arg(&task).run();
        ran.expect_code(code, mode);
        assert!(
            ran.stderr.starts_with("wrun: ") && ran.stderr.contains(told),
            "{mode}: {ran}"
        );
    }
}

#[test]
fn memory_that_is_not_given_is_not_a_limit_of_the_task() {
    let scratch = scratch();
    // Grows until it cannot, and traps.
    let grows = r#"(module (memory (export "memory") 1)
        (func (export "_start")
          (loop $l (br_if $l (i32.ne (memory.grow (i32.const 64)) (i32.const -1))))
          unreachable))"#;
    let grows = write(scratch.path(), "grows.wat", grows);
    for mode in MODES {
        for jail in ["strict", "off"] {
            let mut run = limited("--data=67108864:67108864", false).args(["--mode", mode]);
            if mode == "process" {
                run = run.args(["--jail", jail]);
            }
            let ran = run.args(["--max-memory", "1GiB"]).arg(&grows).run();
            ran.expect_code(134, mode);
            assert!(!ran.stderr.contains("limit"), "{mode}, {jail}: {ran}");
        }
    }
}

/// Lowers what this process may have, as far as a test may take it back.
fn soft(resource: Resource, limit: u64) {
    let maximum = getrlimit(resource).maximum;
    let current = Some(limit);
    setrlimit(resource, Rlimit { current, maximum }).unwrap();
}

#[test]
fn a_library_lives_where_files_may_not_grow() {
    const LIMIT: u64 = 64 << 20;
    alone(
        "shortages::a_library_lives_where_files_may_not_grow",
        || {
            let scratch = scratch();
            soft(Resource::Fsize, LIMIT);
            for mode in BOTH {
                for jail in [Jail::Strict, Jail::Off] {
                    let runner = builder(mode)
                        .process(ProcessOptions::default().jail(jail))
                        .build()
                        .unwrap();
                    runner.region(2 * LIMIT, RegionKind::Exclusive).unwrap_err();
                    let task = wat(&runner, "writes", &writes_at(LIMIT + 1));
                    let grant = DirGrant::new(scratch.path()).guest("/d");
                    let report = runner.blocking_run(Task::new(&task).dir(grant)).unwrap();
                    let exited = wrun::Outcome::Exited(u8::try_from(FBIG).unwrap());
                    assert_eq!(report.outcome, exited, "{mode}");
                    still_works(&runner);
                }
            }
        },
    );
}

#[test]
fn a_runner_without_threads_is_an_error_and_not_a_panic() {
    if !can_be_another() {
        println!("SKIPPED: limits on processes of a user: cannot be another user");
        return;
    }
    const NAME: &str = "shortages::a_runner_without_threads_is_an_error_and_not_a_panic";
    alone(NAME, || {
        let runner = builder(Mode::Thread).build().unwrap();
        let artifact = guest(&runner, "echo/echo.wat");
        // Root is held to no limit on processes; another user, once it has the
        // program's threads, is.
        rustix::thread::set_thread_gid(rustix::fs::Gid::from_raw(61_234)).unwrap();
        rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(61_234)).unwrap();
        soft(Resource::Nproc, 1);
        assert!(std::thread::Builder::new().spawn(|| ()).is_err());
        for mode in BOTH {
            let error = builder(mode).build().unwrap_err();
            assert_eq!(error.kind(), wrun::ErrorKind::System, "{mode}: {error}");
            assert!(error.to_string().contains("ulimit -u"), "{mode}: {error}");
        }
        // What is there goes on, and ends, in asynchronous code too.
        let report = runner
            .blocking_run(Task::new(&artifact).input("x"))
            .unwrap();
        assert!(report.outcome.is_completed(), "{}", report.outcome);
        let local = tokio::runtime::Builder::new_current_thread();
        let local = { local }.build().unwrap();
        local.block_on(async {
            let loaded = runner.load(repo("guest-tasks/hello/hello.wat")).await;
            assert!(loaded.is_ok() || loaded.is_err_and(|it| !it.to_string().contains("bug")));
            drop(runner);
        });
    });
}

#[test]
fn a_host_that_dies_of_broken_pipes_lives() {
    const NAME: &str = "shortages::a_host_that_dies_of_broken_pipes_lives";
    alone(NAME, || {
        wrun::die_of_broken_pipes();
        for mode in BOTH {
            let runner = builder(mode).build().unwrap();
            // It ends at once, and never reads.
            let ends = wat(
                &runner,
                "ends",
                r#"(module
                    (import "wasi_snapshot_preview1" "fd_read"
                      (func $read (param i32 i32 i32 i32) (result i32)))
                    (memory (export "memory") 1)
                    (data (i32.const 0) "\20\00\00\00\01\00\00\00")
                    (func (export "_start")
                      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 64)))))"#,
            );
            for _ in 0..20 {
                let input = || Input::reader(tokio::io::repeat(7));
                let report = runner
                    .blocking_run(Task::new(&ends).input(input()))
                    .unwrap();
                assert!(report.outcome.is_completed(), "{mode}: {}", report.outcome);
                let task = Task::new(&ends).input(input()).stdout(Stdio::Null);
                let report = runner
                    .blocking_submit(task)
                    .unwrap()
                    .blocking_report()
                    .unwrap();
                assert!(report.outcome.is_completed(), "{mode}: {}", report.outcome);
            }
            still_works(&runner);
        }
    });
}
