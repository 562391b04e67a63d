//! Standard streams that others share: pipes with `O_NONBLOCK`, as Node and ssh leave
//! them, and a stdout and stderr that are the same.

use crate::support::command::{PATIENCE, Wrun, open, scratch, write};
use crate::support::processes::await_rest;
use crate::support::{BOTH, MODES, runner, wat};
use rustix::fs::{OFlags, fcntl_getfl};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio as To;
use std::time::Duration;
use wrun::{Limit, Limits, Outcome, Stdio, Task};

/// Copies stdin to stdout; a read that fails is its exit code.
const CAT: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $x (param i32)))
    (memory (export "memory") 1)
    (func (export "_start") (local $e i32)
      (loop $l
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 4096))
        (local.set $e (call $r (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (if (local.get $e) (then (call $x (local.get $e))))
        (if (i32.load (i32.const 8)) (then
          (i32.store (i32.const 4) (i32.load (i32.const 8)))
          (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          (br $l))))))"#;

/// Pieces of 64 KiB that [`flood`] writes.
const PIECES: usize = 40;
const PIECE: usize = 64 << 10;

/// Writes 40 pieces to a descriptor.
fn flood(descriptor: u32) -> String {
    format!(
        r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 2)
    (func (export "_start") (local $i i32)
      (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const {PIECE}))
      (memory.fill (i32.const 1024) (i32.const 65) (i32.const {PIECE}))
      (loop $l
        (if (call $w (i32.const {descriptor}) (i32.const 0) (i32.const 1) (i32.const 8))
          (then unreachable))
        (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
          (i32.const {PIECES}))))))"#
    )
}

/// Writes "o\n" to stdout and "e\n" to stderr by turns, fifty times.
const ORDER: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\20\00\00\00\02\00\00\00")
    (data (i32.const 8) "\22\00\00\00\02\00\00\00")
    (data (i32.const 32) "o\0ae\0a")
    (func (export "_start") (local $i i32)
      (loop $l
        (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))
        (drop (call $w (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 100)))
        (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
          (i32.const 50))))))"#;

/// A task that prints "e\n" and returns this many bytes of "o".
fn prints_and_returns(len: usize) -> String {
    let pages = len / 65536 + 2;
    format!(
        r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") {pages})
    (data (i32.const 8) "\22\00\00\00\02\00\00\00")
    (data (i32.const 34) "e\0a")
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "run") (param i32 i32) (result i32)
      (drop (call $w (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 100)))
      (memory.fill (i32.const 4096) (i32.const 111) (i32.const {len}))
      (i32.store (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (i32.const 4096))
      (i32.store (i32.const 24) (i32.const {len}))
      (i32.const 16)))"#
    )
}

fn is_nonblocking(fd: impl AsFd) -> bool {
    fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
}

/// A pipe whose ends do not block, in any process.
fn pipe() -> (OwnedFd, OwnedFd) {
    let flags = rustix::pipe::PipeFlags::NONBLOCK | rustix::pipe::PipeFlags::CLOEXEC;
    rustix::pipe::pipe_with(flags).unwrap()
}

/// All that comes of a pipe that does not block, read slowly.
fn read_slowly(reader: &OwnedFd) -> Vec<u8> {
    let mut all = Vec::new();
    let mut bytes = vec![0; PIECE];
    loop {
        match rustix::io::read(reader, &mut bytes) {
            Ok(0) => return all,
            Ok(len) => {
                all.extend_from_slice(&bytes[..len]);
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn output_waits_for_room_where_a_pipe_does_not_block() {
    let scratch = scratch();
    for mode in MODES {
        for (descriptor, name) in [(1, "stdout"), (2, "stderr")] {
            let guest = write(scratch.path(), "flood.wat", flood(descriptor));
            let (reader, writer) = pipe();
            let ours = writer.try_clone().unwrap();
            let run = Wrun::mode(mode).arg(guest);
            let run = match descriptor {
                1 => run.stdout_to(writer),
                _ => {
                    let mut run = run;
                    run.command.stderr(writer);
                    run
                }
            };
            let running = run.start();
            assert!(is_nonblocking(&ours), "{mode}: {name} is as it was");
            drop(ours);
            let read = read_slowly(&reader);
            running.end().expect_code(0, mode);
            assert_eq!(read.len(), PIECES * PIECE, "{mode}: {name}");
        }
    }
}

#[test]
fn input_that_comes_late_is_waited_for_where_a_pipe_does_not_block() {
    let scratch = scratch();
    let guest = write(scratch.path(), "cat.wat", CAT);
    for mode in MODES {
        for retries in ["0", "1"] {
            let (reader, writer) = pipe();
            let running = Wrun::mode(mode)
                .args(["--retries", retries])
                .arg(&guest)
                .stdin_from(reader.try_clone().unwrap())
                .start();
            running.await_task(mode);
            for _ in 0..3 {
                std::thread::sleep(Duration::from_millis(50));
                rustix::io::write(&writer, b"line\n").unwrap();
            }
            drop(writer);
            let ran = running.end();
            ran.expect_code(0, mode);
            assert_eq!(ran.text(), "line\nline\nline\n", "{mode}");
            assert!(is_nonblocking(&reader), "{mode}: stdin is as it was");
        }
    }
}

#[test]
fn messages_of_wrun_wait_for_room() {
    let scratch = scratch();
    let guest = write(scratch.path(), "order.wat", ORDER);
    let guest = guest.display().to_string();
    let args: [&[&str]; 3] = [
        &["--report", "-", "--output", "/dev/null", &guest],
        &["completions", "bash"],
        &["--help"],
    ];
    for args in args {
        let what = format!("{args:?}");
        let whole = Wrun::new().args(args).run();
        whole.expect_code(0, &what);
        let (reader, writer) = pipe();
        let full = fill(&writer);
        let mut run = Wrun::new().args(args).stdout_to(writer);
        run.command.stderr(To::null());
        let running = run.start();
        // Until it waits for room.
        await_rest("wrun", PATIENCE, running.pid());
        let read = read_slowly(&reader);
        running.end().expect_code(0, &what);
        let said = &read[full..];
        // Reports differ in numbers.
        match args[0] {
            "--report" => assert!(said.starts_with(b"{") && said.ends_with(b"}\n"), "{what}"),
            _ => assert_eq!(said, whole.stdout, "{what}"),
        }
    }
}

/// Fills a pipe that does not block; how many bytes it takes.
fn fill(writer: &OwnedFd) -> usize {
    let mut full = 0;
    while let Ok(len) = rustix::io::write(writer, &[b'-'; 4096]) {
        full += len;
    }
    full
}

#[test]
fn a_full_stderr_keeps_no_signal_from_ending_wrun() {
    let scratch = scratch();
    let guest = write(
        scratch.path(),
        "trap.wat",
        "(module (memory (export \"memory\") 1) (func (export \"_start\") unreachable))",
    );
    for mode in MODES {
        for blocking in [true, false] {
            let (reader, writer) = pipe();
            fill(&writer);
            rustix::io::ioctl_fionbio(&writer, !blocking).unwrap();
            let mut run = Wrun::mode(mode).arg(&guest);
            run.command.stderr(writer);
            let mut running = run.start();
            // It has a message to write, and its pipe is not read.
            assert!(
                !running.ends_within(Duration::from_secs(2)),
                "{mode}: it waits"
            );
            running.signal(rustix::process::Signal::INT);
            assert!(running.ends_within(PATIENCE), "{mode}: blocking {blocking}");
            drop(reader);
        }
    }
}

#[test]
fn the_order_of_stdout_and_stderr_is_kept_where_they_are_one() {
    let scratch = scratch();
    let command = write(scratch.path(), "order.wat", ORDER);
    let expected = "o\ne\n".repeat(50);
    for mode in MODES {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut run = Wrun::mode(mode)
            .arg(&command)
            .stdout_to(writer.try_clone().unwrap());
        run.command.stderr(writer);
        run.run().expect_code(0, mode);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, expected, "{mode}: a pipe");

        for append in [false, true] {
            let path = write(scratch.path(), "both", "before\n");
            let mut file = match append {
                true => File::options().append(true).open(&path).unwrap(),
                false => File::create(&path).unwrap(),
            };
            if !append {
                file.write_all(b"before\n").unwrap();
            }
            let mut run = Wrun::mode(mode)
                .arg(&command)
                .stdout_to(file.try_clone().unwrap());
            run.command.stderr(file);
            run.run().expect_code(0, mode);
            let text = fs::read_to_string(&path).unwrap();
            assert_eq!(
                text,
                format!("before\n{expected}"),
                "{mode}: append {append}"
            );
        }

        // Two that differ are two.
        let ran = Wrun::mode(mode).arg(&command).run();
        ran.expect_code(0, mode);
        assert_eq!(ran.text(), "o\n".repeat(50), "{mode}");
        assert_eq!(ran.stderr, "e\n".repeat(50), "{mode}");
    }
}

#[test]
fn printed_output_comes_before_returned_output_in_one_file() {
    let scratch = scratch();
    for len in [2, 1_000_000] {
        let task = write(scratch.path(), "task.wat", prints_and_returns(len));
        for mode in MODES {
            let both = File::create(scratch.path().join("both")).unwrap();
            let mut run = Wrun::mode(mode)
                .arg(&task)
                .stdout_to(both.try_clone().unwrap());
            run.command.stderr(both);
            run.run().expect_code(0, mode);
            let text = fs::read_to_string(scratch.path().join("both")).unwrap();
            assert_eq!(text.len(), 2 + len, "{mode}: {len}");
            assert!(text.starts_with("e\noo"), "{mode}: {len}");
        }
    }
}

#[test]
fn a_library_joins_them_too_and_each_keeps_its_limit() {
    for mode in BOTH {
        let runner = runner(mode);
        let order = wat(&runner, "order", ORDER);
        let joined = |limits: Limits| {
            let task = Task::new(&order).limits(limits);
            let task = task.stdout(Stdio::Stream).stderr(Stdio::Stdout);
            let mut handle = runner.blocking_submit(task).unwrap();
            assert!(handle.take_stderr().is_none(), "{mode}: one stream");
            let mut stream = handle.take_stdout().unwrap();
            let mut seen = Vec::new();
            while let Some(chunk) = stream.blocking_next_chunk() {
                seen.extend_from_slice(&chunk);
            }
            (
                handle.blocking_report().unwrap().outcome,
                String::from_utf8(seen).unwrap(),
            )
        };
        let (outcome, seen) = joined(Limits::default());
        assert!(outcome.is_completed(), "{mode}: {outcome}");
        assert_eq!(seen, "o\ne\n".repeat(50), "{mode}");

        let mut tight = Limits::default();
        tight.max_output = Some(100);
        let (outcome, seen) = joined(tight.clone());
        assert!(outcome.is_completed(), "{mode}: 100 bytes each: {outcome}");
        assert_eq!(seen.len(), 200, "{mode}");
        tight.max_output = Some(99);
        let (outcome, seen) = joined(tight);
        assert_eq!(outcome, Outcome::LimitExceeded(Limit::Output), "{mode}");
        assert!(seen.len() < 200, "{mode}: {}", seen.len());

        for task in [
            Task::new(&order).stderr(Stdio::Stdout),
            Task::new(&order).stdout(Stdio::Stdout),
        ] {
            let error = runner.blocking_run(task).unwrap_err();
            assert_eq!(error.kind(), wrun::ErrorKind::InvalidTask, "{mode}");
        }
    }
}

#[test]
fn a_file_is_read_as_ever() {
    let scratch = scratch();
    let guest = write(scratch.path(), "cat.wat", CAT);
    let input = write(scratch.path(), "input", vec![b'x'; 1 << 20]);
    for mode in MODES {
        let ran = Wrun::mode(mode).arg(&guest).stdin_from(open(&input)).run();
        ran.expect_code(0, mode);
        assert_eq!(ran.stdout.len(), 1 << 20, "{mode}");
    }
}
