//! New attempts after a worker died: which tasks get one, what an attempt sees of
//! those before, and what ends them all. Workers die here because the test kills
//! them.

use crate::support::command::{Ran, Wrun, open, scratch, write};
use crate::support::processes::{Process, descendants, own_copy, running, serves, signal};
use crate::support::{BOTH, Schema, guest, repo, runner, wat, within};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use wrun::{
    Artifact, Crash, Input, Limit, Limits, Mode, Outcome, ProcessOptions, Report, Runner, Start,
    Stdio, Task, TaskHandle,
};

/// What should take no time at all, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// Says `attempt` on stderr and its attempt's number by progress; waits until it
/// is cancelled in each attempt before number `last`; returns its input.
fn persistent(last: u32) -> String {
    format!(
        r#"(module
        (import "wrun:task/context@0.1.0" "info" (func $info (param i32)))
        (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
        (import "wrun:task/context@0.1.0" "subscribe-cancelled" (func $cancelled (result i32)))
        (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
        (import "wasi:cli/stderr@0.2.12" "get-stderr" (func $stderr (result i32)))
        (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-write-and-flush"
            (func $write (param i32 i32 i32 i32)))
        (memory (export "memory") 64)
        (data (i32.const 16) "attempt\n")
        (global $free (mut i32) (i32.const 4096))
        (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
            (local $at i32)
            (local.set $at (global.get $free))
            (global.set $free
                (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 7))
                    (i32.const -8)))
            (local.get $at))
        (func (export "run") (param $input i32) (param $length i32) (result i32)
            (call $write (call $stderr) (i32.const 16) (i32.const 8) (i32.const 64))
            (call $info (i32.const 128))
            (call $progress
                (i64.extend_i32_u (i32.load (i32.const 136))) (i32.const 0) (i64.const 0))
            (if (i32.lt_u (i32.load (i32.const 136)) (i32.const {last}))
                (then (call $block (call $cancelled))))
            (i32.store (i32.const 4) (local.get $input))
            (i32.store (i32.const 8) (local.get $length))
            (i32.const 0)))"#
    )
}

/// A runner whose workers are told from all other processes, and one at a time
/// for each task.
pub(crate) struct Stage {
    pub(crate) runner: Runner,
    program: PathBuf,
    _folder: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let folder = scratch();
        let program = own_copy(folder.path());
        let runner = Runner::builder()
            .mode(Mode::Process)
            .process(
                ProcessOptions::default()
                    .worker(&program)
                    .start(Start::Exec)
                    .spares(0),
            )
            .max_running(1)
            .build()
            .unwrap();
        Stage {
            runner,
            program,
            _folder: folder,
        }
    }

    pub(crate) fn persistent(&self, last: u32) -> Artifact {
        wat(&self.runner, "persistent.wat", &persistent(last))
    }

    pub(crate) fn submit(&self, task: Task) -> TaskHandle {
        self.runner.blocking_submit(task).unwrap()
    }

    /// The worker that runs, once it is another than those `before`.
    fn worker(&self, before: &BTreeSet<Process>) -> BTreeSet<Process> {
        let mut workers = BTreeSet::new();
        let came = within(SOON, || {
            workers = running(&self.program);
            // Before that its death would be a start that failed, and no attempt.
            workers.retain(|(pid, _)| serves(*pid));
            !workers.is_empty() && workers.is_disjoint(before)
        });
        assert!(came, "no worker but {before:?}");
        workers
    }

    /// Kills the processes that run tasks.
    pub(crate) fn kill(&self) -> usize {
        // Before a worker serves, its death is a start that failed, and no attempt.
        kill_leaves(
            running(&self.program)
                .into_iter()
                .filter(|(pid, _)| serves(*pid)),
        )
    }

    /// Kills workers as soon as they are there, while `during` runs.
    fn kill_on<T>(&self, during: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    self.kill();
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            let value = during();
            done.store(true, Ordering::Relaxed);
            value
        })
    }
}

/// Kills those of the processes that have no children: the ones that run tasks.
fn kill_leaves(processes: impl Iterator<Item = Process>) -> usize {
    let leaves: Vec<Process> = processes
        .filter(|(pid, _)| descendants(*pid).is_empty())
        .collect();
    leaves
        .into_iter()
        .filter(|leaf| signal(*leaf, rustix::process::Signal::KILL))
        .count()
}

#[track_caller]
pub(crate) fn await_attempt(handle: &TaskHandle, attempt: u64) {
    assert!(
        within(SOON, || handle.progress().done == attempt),
        "no attempt {attempt}, but {:?}",
        handle.progress()
    );
}

fn crashed(attempts: std::ops::RangeInclusive<u32>) -> Vec<String> {
    attempts
        .map(|it| format!("attempt {it} crashed: the worker died of signal 9"))
        .collect()
}

fn killed() -> Outcome {
    Outcome::Crashed(Crash::Signal(9))
}

#[test]
fn a_crashed_task_begins_anew() {
    let stage = Stage::new();
    let task = stage.persistent(3);
    // One that travels with the order, and one that is streamed to the worker.
    for len in [5, 1 << 20] {
        let input = vec![b'i'; len];
        // Enough for what one attempt writes, and not for two.
        let limits = Limits::default().max_output(8.max(len as u64));
        let mut handle = stage.submit(
            Task::new(&task)
                .input(input.clone())
                .limits(limits)
                .retries(5),
        );
        for attempt in 1..3 {
            await_attempt(&handle, attempt);
            assert_eq!(stage.kill(), 1);
        }
        let report = handle.blocking_report().unwrap();
        assert!(report.outcome.is_completed(), "{}", report.outcome);
        assert!(report.stdout == input, "{} bytes", report.stdout.len());
        assert_eq!(report.stderr, "attempt\n", "what an earlier attempt said");
        assert_eq!(report.attempt, 3);
        assert_eq!(report.notes, crashed(1..=2));
    }
}

#[test]
fn without_retries_there_is_one_attempt() {
    let stage = Stage::new();
    let mut handle = stage.submit(Task::new(&stage.persistent(2)));
    await_attempt(&handle, 1);
    stage.kill();
    let report = handle.blocking_report().unwrap();
    assert_eq!(report.outcome, killed());
    assert_eq!((report.attempt, report.notes.len()), (1, 0));
}

#[test]
fn there_are_no_more_attempts_than_were_allowed() {
    let stage = Stage::new();
    let task = Task::new(&stage.persistent(100)).retries(2);
    let mut handle = stage.submit(task);
    for attempt in 1..=3 {
        await_attempt(&handle, attempt);
        stage.kill();
    }
    let report = handle.blocking_report().unwrap();
    assert_eq!(report.outcome, killed());
    assert_eq!(report.attempt, 3);
    assert_eq!(report.notes, crashed(1..=2));
    // What the last one said is kept.
    assert_eq!(report.stderr, "attempt\n");
    assert_eq!(Task::MAX_RETRIES, 100);
}

#[test]
fn nothing_but_a_crash_is_tried_again() {
    for mode in BOTH {
        let runner = runner(mode);
        let deadline = Limits::default().timeout(Duration::from_millis(300));
        for (path, limits) in [
            ("hostile/fail.wat", Limits::default()),
            ("hostile/unreachable.wat", Limits::default()),
            ("hostile/exit-code.wat", Limits::default()),
            ("hostile/endless-loop.wat", deadline),
            ("hostile/memory-bomb.wat", Limits::default()),
            ("echo/echo.wat", Limits::default()),
        ] {
            let task = Task::new(&guest(&runner, path))
                .args(["7"])
                .limits(limits)
                .retries(5);
            let report = runner.blocking_run(task).unwrap();
            let what = format!("{mode}: {path}: {}", report.outcome);
            assert_eq!(report.attempt, 1, "{what}");
            assert_eq!(report.notes, Vec::<String>::new(), "{what}");
        }
    }
}

#[tokio::test]
async fn a_stream_is_read_once() {
    let stage = Stage::new();
    let cat = guest_of(&stage, "cat/cat.wasm").await;
    let submit = async |input| {
        let task = Task::new(&cat).input(input).retries(50);
        stage.runner.submit(task).await.unwrap()
    };
    // Nothing was read out of it: it is whole.
    let (mut stdin, reader) = tokio::io::duplex(1);
    let handle = submit(Input::reader(reader)).await;
    let first = stage.worker(&BTreeSet::new());
    stage.kill();
    stage.worker(&first);
    stdin.write_all(b"whole").await.unwrap();
    drop(stdin);
    let report = outcome(handle).await;
    assert!(report.outcome.is_completed(), "{}", report.outcome);
    assert_eq!(report.stdout, "whole");
    assert_eq!(report.attempt, 2);

    // One that ends before it gives anything is still what it was.
    let handle = submit(Input::reader(tokio::io::empty())).await;
    let report = outcome(handle).await;
    assert!(report.outcome.is_completed(), "{}", report.outcome);

    // Some of it is lost.
    let (mut stdin, reader) = tokio::io::duplex(1);
    let handle = submit(Input::reader(reader)).await;
    stdin.write_all(b"torn").await.unwrap();
    stage.kill();
    let report = outcome(handle).await;
    assert_eq!(report.outcome, killed());
    assert_eq!(
        report.notes,
        ["no new attempt: its input is a stream, and some of it was read"]
    );
}

#[tokio::test]
async fn a_stream_is_written_once() {
    let stage = Stage::new();
    let task = {
        let text = persistent(2).into_bytes();
        stage
            .runner
            .blocking_load_bytes("persistent.wat", text)
            .unwrap()
    };
    for (stdio, attempt) in [(Stdio::Stream, 1), (Stdio::Null, 2)] {
        let task = Task::new(&task).stderr(stdio).retries(5);
        let mut handle = stage.runner.submit(task).await.unwrap();
        let mut stderr = handle.take_stderr();
        await_attempt(&handle, 1);
        if let Some(stderr) = &mut stderr {
            assert_eq!(stderr.next_chunk().await.unwrap(), "attempt\n");
        }
        stage.kill();
        let report = outcome(handle).await;
        assert_eq!(report.attempt, attempt, "{stdio:?}: {}", report.outcome);
        let expected: &[&str] = match stdio {
            Stdio::Stream => {
                &["no new attempt: its output is a stream, and some of it was handed on"]
            }
            _ => &["attempt 1 crashed: the worker died of signal 9"],
        };
        assert_eq!(report.notes, expected, "{stdio:?}");
        if let Some(stderr) = &mut stderr {
            assert_eq!(stderr.next_chunk().await, None, "written twice");
        }
    }
}

async fn outcome(mut handle: TaskHandle) -> Report {
    match tokio::time::timeout(SOON, handle.report()).await {
        Ok(report) => report.unwrap(),
        Err(_) => panic!("no outcome in {SOON:?}"),
    }
}

async fn guest_of(stage: &Stage, path: &str) -> Artifact {
    let path = repo("guest-tasks").join(path);
    stage.runner.load(path).await.unwrap()
}

#[test]
fn one_deadline_ends_all_attempts() {
    let stage = Stage::new();
    let time = Duration::from_secs(1);
    let limits = Limits::default().timeout(time);
    let task = Task::new(&stage.persistent(1000))
        .limits(limits)
        .retries(Task::MAX_RETRIES);
    let report = stage.kill_on(|| stage.submit(task).blocking_report().unwrap());
    assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Deadline));
    assert!(report.attempt > 1, "attempt {}", report.attempt);
    assert!(report.stats.total >= time, "{:?}", report.stats);
}

#[test]
fn killing_and_cancelling_end_all_attempts() {
    let stage = Stage::new();
    let endless = guest(&stage.runner, "hostile/endless-loop.wat");
    let task = || Task::new(&endless).retries(Task::MAX_RETRIES);
    // Its second attempt, in another worker than the first.
    let again = || {
        let handle = stage.submit(task());
        let first = stage.worker(&BTreeSet::new());
        kill_leaves(first.iter().copied());
        stage.worker(&first);
        handle
    };
    let mut handle = again();
    handle.kill();
    let report = handle.blocking_report().unwrap();
    assert_eq!(report.outcome, Outcome::Cancelled);
    assert!(report.attempt > 1, "attempt {}", report.attempt);

    let mut handle = again();
    let report = stage.kill_on(|| {
        handle.cancel();
        handle.blocking_report().unwrap()
    });
    assert_eq!(report.outcome, killed());
    assert_eq!(
        report.notes.last().map(String::as_str),
        Some("no new attempt: the task was asked to stop")
    );
}

#[tokio::test]
async fn a_new_attempt_keeps_its_place() {
    let stage = Stage::new();
    let text = persistent(3).into_bytes();
    let task = stage
        .runner
        .blocking_load_bytes("persistent.wat", text)
        .unwrap();
    let echo = guest_of(&stage, "echo/echo.wat").await;
    let first = stage.runner.submit(Task::new(&task).retries(5)).await;
    let first = first.unwrap();
    let mut second = stage.runner.submit(Task::new(&echo)).await.unwrap();
    let mut second = Box::pin(second.report());
    for attempt in 1..3 {
        await_attempt(&first, attempt);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut second).await;
        assert!(early.is_err(), "the second ran beside the first: {early:?}");
        stage.kill();
    }
    assert!(outcome(first).await.outcome.is_completed());
    assert!(second.await.unwrap().outcome.is_completed());
}

// --- the command ----------------------------------------------------------

/// A command whose first worker is killed, and its report.
fn killed_once(what: &str, command: Wrun) -> (Ran, Value) {
    let folder = scratch();
    let path = folder.path().join("report.json");
    // What it says on stderr would be passed on, and be the end of it.
    let speaks = "(call $write (call $stderr) (i32.const 16) (i32.const 8) (i32.const 64))";
    let text = persistent(2);
    assert!(text.contains(speaks));
    let task = write(folder.path(), "persistent.wat", text.replace(speaks, ""));
    let running = command.arg("--report").arg(&path).arg(task).start();
    running.await_task("process");
    assert!(
        within(SOON, || {
            let all = descendants(running.pid()).into_iter();
            kill_leaves(all.filter(|(pid, _)| serves(*pid))) > 0
        }),
        "{what}: no process to kill"
    );
    let ran = running.end();
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{what}: no report: {error}; {ran}"));
    let report: Value =
        serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{what}: {error}: {ran}"));
    Schema::load().check(&report).unwrap();
    (ran, report)
}

#[test]
fn the_command_tries_again_with_files_and_without_input() {
    let folder = scratch();
    let input = write(folder.path(), "input", "from a file");
    let command = || Wrun::mode("process").args(["--retries", "3", "--stats"]);
    for (what, command, output) in [
        ("no input", command(), ""),
        ("stdin", command().stdin_from(open(&input)), "from a file"),
        (
            "--input",
            command().arg("--input").arg(&input),
            "from a file",
        ),
    ] {
        let (ran, report) = killed_once(what, command);
        ran.expect_code(0, what);
        assert_eq!(ran.text(), output, "{what}: {ran}");
        assert_eq!(report["task"]["attempt"], json!(2), "{what}: {report}");
        assert_eq!(report["notes"], json!(crashed(1..=1)), "{what}: {report}");
        assert!(
            ran.stderr.contains("  note      attempt 1 crashed: "),
            "{what}: {ran}"
        );
    }
    let (ran, report) = killed_once("no retries", Wrun::mode("process"));
    ran.expect_code(137, "no retries");
    assert_eq!(report["notes"], json!([]), "{report}");
}

#[test]
fn the_command_says_why_there_is_no_new_attempt() {
    let mut running = Wrun::mode("process")
        .args(["--retries", "3"])
        .arg(repo("guest-tasks/cat/cat.wasm"))
        .stdin("")
        .start();
    let mut stdin = running.child.stdin.take().unwrap();
    stdin.write_all(b"once").unwrap();
    let mut echoed = [0; 4];
    let stdout = running.child.stdout.as_mut().unwrap();
    stdout.read_exact(&mut echoed).unwrap();
    kill_leaves(descendants(running.pid()).into_iter());
    let ran = running.end();
    ran.expect_code(137, "a worker that was killed");
    assert_eq!(
        ran.stderr,
        "wrun: the task crashed: the worker died of signal 9\n  \
         no new attempt: its input is a stream, and some of it was read\n"
    );
}
