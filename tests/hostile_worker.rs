//! A worker that was taken over: it speaks the protocol of `docs/wire.md`, and
//! lies in it. Whatever it does, the runner gives one outcome in bounded time,
//! nothing panics, and the worker is gone.
//!
//! The worker is a Python program, because it must be able to say what wrun's own
//! code would never say. Without Python the tests say that they skip.

use crate::processes::eventually;
use crate::support::{repo, wrun};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use wrun::{Crash, Error, ErrorKind, Limit, Limits, Mode, Outcome, Report, Runner, Task};

const PRELUDE: &str = r#"
import os, socket, struct, sys, time

# Not this time: who compiles is the honest one.
if sys.argv[3:] == ["compile"]:
    os.execv(WRUN, [WRUN] + sys.argv[1:])

fds = socket.recv_fds(socket.socket(fileno=0), 1, 8)[1]
stdin, orders, says, code = fds
open(os.path.dirname(os.path.abspath(sys.argv[0])) + "/pid", "w").write(str(os.getpid()))

def varint(n):
    out = b""
    while n >= 0x80:
        out += bytes([n & 0x7f | 0x80])
        n >>= 7
    return out + bytes([n])

def frame(body):
    return struct.pack("<I", len(body)) + body

def say(data):
    while data:
        data = data[os.write(says, data):]

def hello(version=1):
    say(b"wrunwork" + struct.pack("<I", version))

def loaded():
    say(frame(b"\x00"))

def order():
    os.read(orders, 1 << 16)

def done(output=b"", stdout=0, stderr=0, seconds=0):
    time_spent = varint(seconds) + varint(0)
    fate = b"\x00" + time_spent + time_spent + b"\x00\x00\x00\x00\x00"
    say(frame(b"\x05" + fate + varint(len(output)) + output + varint(stdout) + varint(stderr)))

def live():
    time.sleep(600)
"#;

struct Hostile {
    directory: tempfile::TempDir,
    program: PathBuf,
}

/// A worker that does this after it has taken its descriptors; none without
/// Python.
fn worker(script: &str) -> Option<Hostile> {
    let python = Command::new("python3")
        .args([
            "-c",
            "import socket, sys; socket.recv_fds; print(sys.executable)",
        ])
        .output()
        .ok()
        .filter(|output| output.status.success());
    let Some(python) = python else {
        println!("SKIPPED: no python3 with socket.recv_fds");
        return None;
    };
    let python = String::from_utf8(python.stdout).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("worker");
    // Neither site packages nor the environment: it has none.
    std::fs::write(
        &program,
        format!(
            "#!{} -IS\nWRUN = {:?}\n{PRELUDE}\n{script}\n",
            python.trim(),
            wrun()
        ),
    )
    .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    Some(Hostile { directory, program })
}

impl Hostile {
    fn run(&self, limits: Limits) -> Result<Report, Error> {
        let runner = Runner::builder()
            .mode(Mode::Process)
            .spares(0)
            .worker(&self.program)
            .build()
            .unwrap();
        let echo = runner.load(repo("guest-tasks/echo/echo.wat")).unwrap();
        let result = runner.run(Task::new(&echo).input("x").limits(limits));
        // The runner lives: what is gone now, it ended.
        self.is_gone();
        result
    }

    #[track_caller]
    fn is_gone(&self) {
        let pid = std::fs::read_to_string(self.directory.path().join("pid")).unwrap();
        let process = Path::new("/proc").join(pid);
        assert!(
            eventually(Duration::from_secs(20), || !process.exists()),
            "the worker lives on"
        );
    }
}

fn patience() -> Limits {
    Limits::default().timeout(Duration::from_secs(60))
}

#[track_caller]
fn assert_broke_the_protocol(result: Result<Report, Error>, how: &str) {
    match result.unwrap().outcome {
        Outcome::Crashed(Crash::Protocol(what)) => assert!(what.contains(how), "{what}"),
        other => panic!("{other}"),
    }
}

#[test]
fn an_honest_one_is_believed() {
    let Some(worker) = worker("hello(); loaded(); order(); done(b'hi'); live()") else {
        return;
    };
    let report = worker.run(patience()).unwrap();
    assert!(report.outcome.is_completed(), "{}", report.outcome);
    assert_eq!(report.stdout, "hi");
}

#[test]
fn another_version_is_named() {
    let Some(worker) = worker("hello(77); loaded(); live()") else {
        return;
    };
    let error = worker.run(patience()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoWorker);
    assert!(error.to_string().contains("protocol 77"), "{error}");
}

#[test]
fn lengths_and_rubbish_are_violations() {
    for (script, how) in [
        ("order(); say(b'\\xff' * 4); live()", "over the cap"),
        ("order(); say(frame(b'')); live()", "does not decode"),
        (
            "order(); say(frame(b'\\xff' * 9)); live()",
            "does not decode",
        ),
        ("order(); say(frame(b'\\x03\\x00')); live()", "too many"),
        ("order(); loaded(); live()", "loaded its task again"),
        (
            "order(); say(frame(b'\\x03')); live()",
            "asked for input again",
        ),
    ] {
        let Some(worker) = worker(&format!("hello(); loaded(); {script}")) else {
            return;
        };
        assert_broke_the_protocol(worker.run(patience()), how);
    }
}

#[test]
fn times_beyond_all_clocks_are_cut() {
    let script = "hello(); loaded(); order(); done(seconds=2**64 - 1); live()";
    let Some(worker) = worker(script) else {
        return;
    };
    let report = worker.run(patience()).unwrap();
    assert!(report.outcome.is_completed(), "{}", report.outcome);
    assert!(report.stats.run <= report.stats.total, "{:?}", report.stats);
}

#[test]
fn output_that_was_promised_and_does_not_come_is_a_lie() {
    let script = "hello(); loaded(); order(); done(stdout=1000); live()";
    let Some(worker) = worker(script) else {
        return;
    };
    assert_broke_the_protocol(worker.run(patience()), "promised more output");
}

#[test]
fn output_over_its_limit_is_no_completed_task() {
    let script = "hello(); loaded(); order(); done(b'x' * 5000); live()";
    let Some(worker) = worker(script) else {
        return;
    };
    let report = worker.run(patience().max_output(1000)).unwrap();
    assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Output));
    assert_eq!(report.stdout.len(), 1000);
}

#[test]
fn silence_ends_with_the_deadline_and_a_closed_pipe_sooner() {
    let Some(silent) = worker("hello(); loaded(); live()") else {
        return;
    };
    let report = silent
        .run(Limits::default().timeout(Duration::from_millis(500)))
        .unwrap();
    assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Deadline));
    let Some(closed) = worker("hello(); loaded(); order(); os.close(says); live()") else {
        return;
    };
    assert_broke_the_protocol(closed.run(patience()), "lived on");
}

#[test]
fn a_flood_of_progress_does_not_keep_it_alive() {
    let script = "hello(); loaded(); order()\nwhile True: say(frame(b'\\x04\\x01\\x00') * 1000)";
    let Some(worker) = worker(script) else {
        return;
    };
    let report = worker
        .run(Limits::default().timeout(Duration::from_millis(500)))
        .unwrap();
    assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Deadline));
}
