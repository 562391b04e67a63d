//! What a parent leaves to a process changes nothing: ignored and blocked signals, closed
//! standard streams, a thread that waits for any child.

use crate::support::command::{PATIENCE, scratch, shared_cache, write};
use crate::support::{BOTH, MODES, builder, children, still_works, tool, wat, within, wrun};
use rustix::process::{Pid, Signal, WaitOptions};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wrun::{Crash, Limit, Limits, Mode, Outcome, ProcessOptions, Runner, Start, Task, TrapKind};

const TRAP: &str = r#"(module (memory (export "memory") 1)
    (func (export "_start") (drop (i32.load (i32.const 100000)))))"#;
const SPIN: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#;
const EMPTY: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

/// Ways to run a command: mode, and what else.
const WAYS: [&[&str]; 5] = [
    &["--mode", "thread"],
    &["--mode", "process", "--start", "exec"],
    &["--mode", "process", "--start", "fork"],
    &["--mode", "process", "--jail", "best-effort"],
    &["--mode", "process", "--jail", "off"],
];

/// `wrun` with these options, as a launcher starts it.
fn launched(launcher: &[&str], way: &[&str]) -> Command {
    let mut command = Command::new(launcher[0]);
    command
        .args(&launcher[1..])
        .arg(wrun())
        .args(way)
        .env("WRUN_CACHE_DIR", shared_cache())
        .stdin(Stdio::null());
    command
}

fn output(command: &mut Command, what: &str) -> Output {
    command
        .output()
        .unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Runs `test` in a process of its own that a launcher starts: this test binary again.
fn alone_under(launcher: &[&str], name: &str, test: impl FnOnce()) {
    const ALONE: &str = "WRUN_TEST_UNDER";
    if std::env::var(ALONE).is_ok_and(|alone| alone == name) {
        return test();
    }
    let output = Command::new(launcher[0])
        .args(&launcher[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ALONE, name)
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{name}, {}:\n{stdout}{stderr}",
        output.status
    );
}

#[test]
fn a_command_that_is_started_with_ignored_or_blocked_signals() {
    let scratch = scratch();
    let task = |name, text: &str| write(scratch.path(), name, text);
    let (trap, spin) = (task("trap.wat", TRAP), task("spin.wat", SPIN));
    let empty = task("empty.wat", EMPTY);
    let launchers: [&[&str]; 3] = [
        &["env", "--ignore-signal=CHLD"],
        &["env", "--block-signal"],
        &[
            "env",
            "--block-signal",
            "--ignore-signal=CHLD",
            "--ignore-signal=ALRM",
        ],
    ];
    for launcher in launchers {
        for way in WAYS {
            let what = format!("{launcher:?} {way:?}");
            let ends = |task: &Path, options: &[&str], code: i32| {
                let output = output(launched(launcher, way).args(options).arg(task), &what);
                assert_eq!(
                    output.status.code(),
                    Some(code),
                    "{what} {task:?}: {output:?}"
                );
            };
            ends(&empty, &[], 0);
            ends(&trap, &[], 134);
            ends(&spin, &["--timeout", "300ms"], 124);
        }
    }
}

#[test]
fn blocked_signals_end_a_command_all_the_same() {
    let scratch = scratch();
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\08\00\00\00\01\00\00\00.")
        (func (export "_start")
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
            (loop $forever (br $forever))))"#;
    let task = write(scratch.path(), "write-then-loop.wat", text);
    for mode in MODES {
        for (signal, code) in [(Signal::INT, 130), (Signal::HUP, 129), (Signal::TERM, 143)] {
            let mut child = launched(
                &["env", "--block-signal"],
                &["--mode", mode, "--grace", "0s"],
            )
            .arg(&task)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
            let mut byte = [0];
            let mut stdout = child.stdout.take().unwrap();
            std::io::Read::read_exact(&mut stdout, &mut byte).unwrap();
            let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
            rustix::process::kill_process(pid, signal).unwrap();
            let mut status = None;
            let ended = within(PATIENCE, || {
                status = child.try_wait().unwrap();
                status.is_some()
            });
            if !ended {
                let _ = child.kill();
                let _ = child.wait();
            }
            let code = Some(code);
            assert_eq!(status.and_then(|it| it.code()), code, "{mode}: {signal:?}");
        }
    }
}

#[test]
fn closed_standard_streams_are_nothing_that_a_task_writes_to() {
    let scratch = scratch();
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\08\00\00\00\06\00\00\00whole\0a")
        (func (export "_start")
            (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 16)))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"#;
    let task = write(scratch.path(), "both.wat", text);
    for way in WAYS {
        let script = "exec \"$0\" \"$@\" <&- 2>&-";
        let what = format!("{way:?}");
        let output = output(launched(&["sh", "-c", script], way).arg(&task), &what);
        assert_eq!(output.status.code(), Some(0), "{what}: {output:?}");
        assert_eq!(output.stdout, b"whole\n", "{what}");
    }
}

/// A trap, a deadline, a crash, and whether all is gone afterwards.
fn check(runner: Runner, what: &str) {
    let run = |name: &str, text: &str, set: fn(Task) -> Task| {
        let task = wat(&runner, name, text);
        runner.blocking_run(set(Task::new(&task))).unwrap().outcome
    };
    for _ in 0..3 {
        match run("trap", TRAP, |task| task) {
            Outcome::Trapped(trap) => assert_eq!(trap.kind, TrapKind::MemoryOutOfBounds, "{what}"),
            other => panic!("{what}: {other}"),
        }
        let spun = run("spin", SPIN, |task| {
            task.limits(Limits::default().timeout(Duration::from_millis(100)))
        });
        assert_eq!(spun, Outcome::LimitExceeded(Limit::Deadline), "{what}");
        if runner.mode() == Mode::Process {
            let crashed = run("crash", EMPTY, |task| {
                task.env("WRUN_TEST_PROBE", "segfault")
            });
            match &crashed {
                // Where the kernel tells how, also of a child that another thread reaped.
                Outcome::Crashed(crash) => {
                    assert!(
                        matches!(crash.how(), Crash::Signal(11) | Crash::Lost),
                        "{what}"
                    );
                }
                other => panic!("{what}: {other}"),
            }
        }
        still_works(&runner);
    }
    drop(runner);
    let gone = within(PATIENCE, || children().is_empty());
    assert!(gone, "{what}: left behind: {:?}", children());
}

fn check_all() {
    for start in [Start::Fork, Start::Exec] {
        for mode in BOTH {
            let runner = builder(mode)
                .process(ProcessOptions::default().start(start))
                .build()
                .unwrap();
            check(runner, &format!("{mode} {start:?}"));
        }
    }
}

#[test]
fn an_embedder_that_ignores_the_end_of_children() {
    let name = "heritage::an_embedder_that_ignores_the_end_of_children";
    alone_under(&["env", "--ignore-signal=CHLD"], name, check_all);
}

#[test]
fn an_embedder_whose_threads_block_all_signals() {
    let name = "heritage::an_embedder_whose_threads_block_all_signals";
    alone_under(&["env", "--block-signal"], name, check_all);
}

#[test]
fn an_embedder_with_a_thread_that_waits_for_any_child() {
    let name = "heritage::an_embedder_with_a_thread_that_waits_for_any_child";
    alone_under(&["env"], name, || {
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let thief = std::thread::spawn(move || {
            let mut taken = 0;
            while !ended.load(Ordering::Relaxed) {
                match rustix::process::wait(WaitOptions::empty()) {
                    Ok(_) => taken += 1,
                    // No child, now.
                    Err(_) => std::thread::sleep(Duration::from_micros(50)),
                }
            }
            taken
        });
        check_all();
        over.store(true, Ordering::Relaxed);
        assert!(thief.join().unwrap() > 0, "it took nothing");
    });
}

/// systemd's `MemoryDenyWriteExecute=`.
#[test]
fn a_process_that_may_make_no_code_says_so() {
    if tool::python(&["import ctypes"]).is_none() {
        return;
    }
    let script = "import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) != 0: sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])";
    let scratch = scratch();
    let empty = write(scratch.path(), "empty.wat", EMPTY);
    for mode in MODES {
        let mut command = launched(&["python3", "-c", script], &["--mode", mode]);
        let output = output(command.arg(&empty), mode);
        if output.status.code() == Some(77) {
            println!("SKIPPED: this kernel has no PR_SET_MDWE");
            return;
        }
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{mode}: {text}");
        assert!(text.contains("MemoryDenyWriteExecute"), "{mode}: {text}");
    }
}
