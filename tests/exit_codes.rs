//! The table of exit codes, `docs/exit-codes.md`: each code, in both modes.

use crate::support::command::{Ran, Wrun, scratch};
use crate::support::processes::descendants;
use crate::support::{MODES, repo, within};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

/// Runs a guest with options in a mode; also gives its report, if there is one.
fn guest(mode: &str, options: &[&str], guest: &str, args: &[&str]) -> (Ran, Option<Value>) {
    let scratch = scratch();
    let report = scratch.path().join("report.json");
    let ran = Wrun::mode(mode)
        .arg("--report")
        .arg(&report)
        .args(options)
        .arg(repo("guest-tasks").join(guest))
        .args(args)
        .run();
    let report = fs::read(report).ok();
    let report = report.map(|bytes| serde_json::from_slice(&bytes).unwrap());
    (ran, report)
}

#[test]
fn a_commands_own_code_passes_through() {
    let mut wrong = String::new();
    for mode in MODES {
        for code in 0..=255 {
            let ran = Wrun::mode(mode)
                .arg(repo("guest-tasks/hostile/exit-code.wat"))
                .arg(code.to_string())
                .run();
            if ran.code() != code || !ran.stderr.is_empty() || !ran.stdout.is_empty() {
                let _ = writeln!(wrong, "{mode}: {} instead of {code}; {ran}", ran.code());
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Guest, options, exit code, kind of outcome, limit.
type Row<'a> = (&'a str, &'a [&'a str], i32, &'a str, Option<&'a str>);

#[test]
fn what_becomes_of_a_task_has_its_code() {
    let table: [Row<'_>; 9] = [
        ("echo/echo.wat", &[], 0, "completed", None),
        ("hostile/fail.wat", &[], 1, "failed", None),
        (
            "hostile/endless-loop.wat",
            &["--timeout", "200ms"],
            124,
            "limit-exceeded",
            Some("deadline"),
        ),
        (
            "hostile/endless-sleep-run.wat",
            &["--timeout", "200ms"],
            124,
            "limit-exceeded",
            Some("deadline"),
        ),
        ("hostile/unreachable.wat", &[], 134, "trapped", None),
        (
            "hostile/memory-bomb.wat",
            &["--max-memory", "64MiB"],
            137,
            "limit-exceeded",
            Some("memory"),
        ),
        (
            "hostile/fuel-burner.wat",
            &["--fuel", "100000"],
            137,
            "limit-exceeded",
            Some("fuel"),
        ),
        (
            "hostile/stdout-flood.wat",
            &["--max-output", "1MiB"],
            137,
            "limit-exceeded",
            Some("output"),
        ),
        (
            "hostile/huge-output.wat",
            &["--max-output", "1MiB"],
            137,
            "limit-exceeded",
            Some("output"),
        ),
    ];
    for mode in MODES {
        for (file, options, code, kind, limit) in table {
            let (ran, report) = guest(mode, options, file, &[]);
            let what = format!("{mode}: {file}");
            ran.expect_code(code, &what);
            let report = report.unwrap_or_else(|| panic!("{what}: no report"));
            assert_eq!(report["outcome"]["kind"], json!(kind), "{what}: {report}");
            assert_eq!(report["outcome"]["limit"], json!(limit), "{what}: {report}");
        }
    }
}

#[test]
fn input_over_its_limit_is_137() {
    for mode in MODES {
        for task in ["echo/echo.wat", "cat/cat.wasm"] {
            let ran = Wrun::mode(mode)
                .args(["--max-input", "10"])
                .arg(repo("guest-tasks").join(task))
                .stdin("eleven bytes and more")
                .run();
            ran.expect_code(137, &format!("{mode}: {task}"));
            assert!(
                ran.stderr.contains("input limit"),
                "{mode}: {task}: stderr does not name the limit; {ran}"
            );
        }
    }
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &["--no-such-option", "x.wasm"][..],
        &["--mode", "fiber", "x.wasm"],
        &[],
        &["run"],
        &["compile", "x.wasm"],
    ] {
        Wrun::new().args(args).run().expect_code(2, "usage");
    }
    for mode in MODES {
        let echo = repo("guest-tasks/echo/echo.wat");
        for option in [
            ["--dir", "/no/such/directory"],
            ["--env", "NO_SUCH_VARIABLE_HERE"],
            ["--input", "/no/such/file"],
        ] {
            let ran = Wrun::mode(mode).args(option).arg(&echo).run();
            ran.expect_code(2, &format!("{mode}: {option:?}"));
        }
    }
}

#[test]
fn the_runners_own_failure_is_125() {
    for mode in MODES {
        let cases = [
            (["--output", "/dev/full"], "hello-command/hello-command.wat"),
            (["--output", "/dev/full"], "hello/hello.wat"),
            (["--output", "/no/such/directory/out"], "hello/hello.wat"),
            (["--report", "/no/such/directory/report"], "hello/hello.wat"),
            (["--report", "/dev/full"], "hello/hello.wat"),
        ];
        for (option, task) in cases {
            let ran = Wrun::mode(mode)
                .args(option)
                .arg(repo("guest-tasks").join(task))
                .run();
            ran.expect_code(125, &format!("{mode}: {option:?} {task}"));
            assert!(
                ran.stderr.starts_with("wrun: cannot write "),
                "{mode}: {option:?} {task}: {ran}"
            );
        }
    }
}

#[test]
fn no_task_is_126_and_no_file_is_127() {
    for mode in MODES {
        let (ran, report) = guest(mode, &[], "hostile/not-wasm.wasm", &[]);
        ran.expect_code(126, mode);
        assert!(
            report.is_none(),
            "{mode}: a report of a task that never was"
        );
        let (ran, report) = guest(mode, &[], "hostile/there-is-no-such-file.wasm", &[]);
        ran.expect_code(127, mode);
        assert!(
            report.is_none(),
            "{mode}: a report of a task that never was"
        );
    }
}

#[test]
fn a_signal_to_wrun_is_128_plus_n() {
    for mode in MODES {
        for task in ["hostile/endless-loop.wat", "hostile/endless-sleep-run.wat"] {
            for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
                let what = format!("{mode}: {task}: {signal:?}");
                let scratch = scratch();
                let path = scratch.path().join("report.json");
                let running = Wrun::mode(mode)
                    .args(["--grace", "100ms", "--report"])
                    .arg(&path)
                    .arg(repo("guest-tasks").join(task))
                    .start();
                running.await_task(mode);
                running.signal(signal);
                let ran = running.end();
                ran.expect_code(code, &what);
                let report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                assert_eq!(
                    report["outcome"],
                    json!({"kind": "cancelled"}),
                    "{what}: {report}"
                );
                assert_eq!(
                    ran.stderr, "wrun: the task was interrupted\n",
                    "{what}: {ran}"
                );
            }
        }
    }
}

#[test]
fn a_worker_that_dies_of_a_signal_is_128_plus_n() {
    // Not SIGSEGV: the engine has a handler for that one, which lets the faulting
    // instruction fault again, and a signal that was sent has none. A worker that
    // was started by exec is the first process of its namespace, which the kernel
    // lets ignore all but SIGKILL.
    for (start, signal, number) in [
        ("fork", Signal::KILL, 9),
        ("fork", Signal::QUIT, 3),
        ("fork", Signal::ABORT, 6),
        ("fork", Signal::TERM, 15),
        ("exec", Signal::KILL, 9),
    ] {
        let scratch = scratch();
        let path = scratch.path().join("report.json");
        let running = Wrun::mode("process")
            .args(["--start", start, "--report"])
            .arg(&path)
            .arg(repo("guest-tasks/hostile/endless-loop.wat"))
            .start();
        running.await_task("process");
        let pid = rustix::process::Pid::from_raw(computing(running.pid())).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        let ran = running.end();
        let what = format!("a worker that was started by {start}, killed by {signal:?}");
        ran.expect_code(128 + number, &what);
        let report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            report["outcome"]["kind"],
            json!("crashed"),
            "{what}: {report}"
        );
        assert_eq!(
            report["outcome"]["signal"],
            json!(number),
            "{what}: {report}"
        );
        assert_eq!(
            ran.stderr,
            format!("wrun: the task crashed: the worker died of signal {number}\n"),
            "{what}"
        );
    }
}

/// The process below `runner` that runs the endless loop: it has no children, and
/// uses processor time, more than starting takes.
fn computing(runner: i32) -> i32 {
    let mut found = None;
    let came = within(Duration::from_secs(60), || {
        let processes = descendants(runner);
        found = processes.into_iter().map(|(pid, _)| pid).find(|&pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let ticks = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(11)?.parse::<u64>().ok());
            ticks > Some(50) && descendants(pid).is_empty()
        });
        found.is_some()
    });
    assert!(came, "no worker ever computed");
    found.unwrap()
}

#[test]
fn help_and_version_are_0() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["run", "--help"],
        &["inspect", "--help"],
        &["compile", "--help"],
    ] {
        let ran = Wrun::new().args(args).run();
        ran.expect_code(0, &format!("{args:?}"));
        assert!(!ran.stdout.is_empty(), "{args:?} prints nothing on stdout");
        assert!(ran.stderr.is_empty(), "{args:?}: {ran}");
    }
}
