//! Requested ends: SIGTERM, and a runner that shuts down in time. What
//! can finish does, with its output and its own code; the rest is killed.

use crate::support::command::{PATIENCE, Running, Wrun, scratch, write};
use crate::support::{BOTH, MODES, builder, guest, repo};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};
use wrun::{ErrorKind, Limits, Outcome, Task};

/// What should take no time at all, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// Reads stdin to its end, writes a dot, exits with 7. Knows nothing of stopping.
const STOIC: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read"
        (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\01\00\00\00\20\00\00\00\40\00\00\00.")
    (func (export "_start")
        (loop $more
            (drop (call $read (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 128)))
            (br_if $more (i32.load (i32.const 128))))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 128)))
        (call $exit (i32.const 7))))"#;

/// A task that was started, with `options`.
fn started(mode: &str, options: &[&str], task: &str) -> Running {
    let running = Wrun::mode(mode)
        .args(options)
        .arg(repo("guest-tasks").join(task))
        .start();
    running.await_task(mode);
    running
}

#[test]
fn sigterm_lets_a_task_that_listens_finish() {
    for mode in MODES {
        let scratch = scratch();
        let path = scratch.path().join("report.json");
        let path = path.to_str().unwrap();
        let running = started(mode, &["--report", path], "patient/patient.wasm");
        running.signal(Signal::TERM);
        let ran = running.end();
        ran.expect_code(0, mode);
        assert_eq!(ran.text(), "cancelled in time\n", "{mode}: {ran}");
        assert!(ran.stderr.is_empty(), "{mode}: {ran}");
        let report: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(report["outcome"]["kind"], json!("completed"), "{mode}");
    }
}

#[test]
fn sigterm_ends_a_task_that_cannot_hear_at_once() {
    let scratch = scratch();
    let stoic = write(scratch.path(), "stoic.wat", STOIC);
    let spins = repo("guest-tasks/hostile/endless-loop.wat");
    for mode in MODES {
        for task in [&stoic, &spins] {
            let mut running = Wrun::mode(mode).args(["--grace", "1h"]).arg(task);
            // Neither delivers nor ends.
            running.command.stdin(std::process::Stdio::piped());
            let mut running = running.start();
            running.await_task(mode);
            running.signal(Signal::TERM);
            assert!(running.ends_within(PATIENCE), "{mode}: it has its grace");
            let ran = running.end();
            ran.expect_code(143, mode);
            assert_eq!(ran.stderr, "wrun: the task was interrupted\n", "{mode}");
        }
    }
}

#[test]
fn grace_ends() {
    for mode in MODES {
        for (grace, task) in [
            ("300ms", "hostile/deaf-to-cancel.wat"),
            ("0", "hostile/endless-loop.wat"),
        ] {
            let running = started(mode, &["--grace", grace], task);
            let asked = Instant::now();
            running.signal(Signal::TERM);
            let ran = running.end();
            ran.expect_code(143, &format!("{mode}: {task}"));
            assert_eq!(ran.stderr, "wrun: the task was interrupted\n", "{mode}");
            if grace != "0" {
                assert!(asked.elapsed() >= Duration::from_millis(300), "{mode}");
            }
        }
    }
}

#[test]
fn a_second_signal_ends_grace() {
    for mode in MODES {
        for second in [Signal::TERM, Signal::INT] {
            let what = format!("{mode}: SIGTERM, then {second:?}");
            let mut running = started(mode, &["--grace", "1h"], "hostile/deaf-to-cancel.wat");
            running.signal(Signal::TERM);
            assert!(!running.ends_within(Duration::from_millis(200)), "{what}");
            running.signal(second);
            assert!(running.ends_within(PATIENCE), "{what}: it goes on");
            running.end().expect_code(143, &what);
        }
    }
}

/// `timeout` signals its child and then its process group, of which the child is a part.
#[test]
fn a_signal_that_is_sent_twice_is_one_request() {
    let grace = Duration::from_millis(1500);
    for mode in MODES {
        for _ in 0..3 {
            let running = started(mode, &["--grace", "1500ms"], "hostile/deaf-to-cancel.wat");
            let asked = Instant::now();
            running.signal(Signal::TERM);
            // Otherwise the kernel may make one of both.
            std::thread::sleep(Duration::from_millis(1));
            running.signal_group(Signal::TERM);
            running.end().expect_code(143, mode);
            assert!(asked.elapsed() >= grace, "{mode}: {:?}", asked.elapsed());
        }
    }
}

#[test]
fn the_deadline_counts_on_during_grace() {
    for mode in MODES {
        let options = ["--grace", "1h", "--timeout", "1s"];
        let running = started(mode, &options, "hostile/deaf-to-cancel.wat");
        running.signal(Signal::TERM);
        running.end().expect_code(124, mode);
    }
}

#[tokio::test]
async fn a_runner_shuts_down_in_time() {
    for mode in BOTH {
        let runner = builder(mode).max_running(2).build().unwrap();
        let load = async |path| {
            let path = repo("guest-tasks").join(path);
            runner.load(path).await.unwrap()
        };
        let echo = load("echo/echo.wat").await;
        let endless = load("hostile/endless-loop.wat").await;
        let mut finished = runner.submit(Task::new(&echo)).await.unwrap();
        let mut left = Vec::new();
        // Two that run and one that waits for a place.
        for _ in 0..3 {
            left.push(runner.submit(Task::new(&endless)).await.unwrap());
        }
        let finished = finished.report().await.unwrap();
        assert!(finished.outcome.is_completed(), "{}", finished.outcome);
        let began = Instant::now();
        let killed = runner.shutdown_within(Duration::from_millis(300)).await;
        assert_eq!(killed, 3, "in {mode} mode");
        assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
        for mut handle in left {
            let report = handle.report().await.unwrap();
            assert_eq!(report.outcome, Outcome::Cancelled, "in {mode} mode");
        }
    }
}

#[test]
fn a_runner_whose_tasks_end_kills_none() {
    for mode in BOTH {
        let runner = builder(mode).build().unwrap();
        let patient = guest(&runner, "patient/patient.wasm");
        let limits = Limits::default().timeout(SOON);
        let task = Task::new(&patient).input("100").limits(limits);
        let mut handle = runner.blocking_submit(task).unwrap();
        let began = Instant::now();
        let killed = runner.blocking_shutdown_within(Duration::from_secs(3600));
        assert_eq!(killed.unwrap(), 0, "in {mode} mode");
        assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
        assert_eq!(
            handle.blocking_report().unwrap().stdout,
            "nobody cancelled\n"
        );
    }
}

#[tokio::test]
async fn shutting_down_does_not_block_asynchronous_code() {
    for mode in BOTH {
        let runner = builder(mode).build().unwrap();
        let error = runner.blocking_shutdown_within(SOON).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BlockingInAsync, "{error}");
    }
}
