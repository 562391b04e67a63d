//! Bytes on their way through `wrun`: as they are produced, in bounded memory, in
//! both directions, and never further than the task reads.

use crate::support::command::{PATIENCE, Running, Wrun, open, scratch, write};
use crate::support::processes::{descendants, peak_memory};
use crate::support::{MODES, repo};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

fn guest(name: &str) -> std::path::PathBuf {
    repo("guest-tasks").canonicalize().unwrap().join(name)
}

/// Reads exactly this many bytes, or fails when they do not come.
#[track_caller]
fn read_exactly(mut source: impl Read + Send + 'static, len: usize, what: &str) -> Vec<u8> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = vec![0; len];
        let result = source.read_exact(&mut bytes).map(|()| bytes);
        let _ = sender.send((result, source));
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok((Ok(bytes), _)) => bytes,
        Ok((Err(error), _)) => panic!("{what}: {error}"),
        Err(_) => panic!("{what}: nothing came for {} s", PATIENCE.as_secs()),
    }
}

#[test]
fn a_line_comes_back_before_stdin_ends() {
    for mode in MODES {
        let mut running = Wrun::mode(mode)
            .arg(guest("cat/cat.wasm"))
            .stdin("")
            .start();
        let mut stdin = running.child.stdin.take().unwrap();
        let stdout = running.child.stdout.take().unwrap();
        for line in ["first\n", "second line\n", "x"] {
            stdin.write_all(line.as_bytes()).unwrap();
            // A descriptor of its own, so that the next round can read on.
            let stdout = stdout.as_fd_clone();
            let back = read_exactly(stdout, line.len(), &format!("{mode}: {line:?}"));
            assert_eq!(String::from_utf8_lossy(&back), line, "{mode}");
        }
        drop(stdin);
        running.end().expect_code(0, mode);
    }
}

/// Another handle on the same pipe.
trait FdClone {
    fn as_fd_clone(&self) -> File;
}

impl<T: std::os::fd::AsFd> FdClone for T {
    fn as_fd_clone(&self) -> File {
        File::from(self.as_fd().try_clone_to_owned().unwrap())
    }
}

/// The peak of resident memory of wrun and of each process below it.
struct Watch<'a> {
    running: &'a Running,
    peaks: BTreeMap<i32, u64>,
}

impl Watch<'_> {
    fn look(&mut self) {
        let root = self.running.pid();
        let below = descendants(root).into_iter().map(|(pid, _)| pid);
        for pid in below.chain([root]) {
            if let Some(peak) = peak_memory(pid) {
                let known = self.peaks.entry(pid).or_default();
                *known = peak.max(*known);
            }
        }
    }

    fn most(&self) -> u64 {
        self.peaks.values().copied().max().unwrap_or_default()
    }
}

/// Starts `cat`, sends one byte through it, and tells its memory then.
fn started_cat(mode: &str) -> (Running, u64) {
    let mut running = Wrun::mode(mode)
        .arg(guest("cat/cat.wasm"))
        .stdin("")
        .start();
    let stdin = running.child.stdin.as_mut().unwrap();
    stdin.write_all(b"x").unwrap();
    let stdout = running.child.stdout.as_ref().unwrap().as_fd_clone();
    read_exactly(stdout, 1, mode);
    let mut watch = Watch {
        running: &running,
        peaks: BTreeMap::new(),
    };
    watch.look();
    let before = watch.most();
    (running, before)
}

#[test]
fn a_gibibyte_streams_in_bounded_memory() {
    const TOTAL: u64 = 1 << 30;
    const MORE: u64 = 200 << 20;
    for mode in MODES {
        let (mut running, before) = started_cat(mode);
        let mut stdin = running.child.stdin.take().unwrap();
        let mut stdout = running.child.stdout.take().unwrap();
        let over = AtomicBool::new(false);
        let most = std::thread::scope(|scope| {
            scope.spawn(move || {
                // Blocks that differ, so that one that is lost or doubled shows.
                let mut block = vec![0u8; 1 << 20];
                for number in 0..TOTAL >> 20 {
                    block[..8].copy_from_slice(&number.to_le_bytes());
                    if stdin.write_all(&block).is_err() {
                        return;
                    }
                }
            });
            let running = &running;
            let over = &over;
            let reading = scope.spawn(move || {
                let mut block = vec![0u8; 1 << 20];
                let mut blocks = 0u64;
                while stdout.read_exact(&mut block).is_ok() {
                    if block[..8] != blocks.to_le_bytes() {
                        break;
                    }
                    blocks += 1;
                }
                over.store(true, Ordering::Release);
                blocks << 20
            });
            let mut watch = Watch {
                running,
                peaks: BTreeMap::new(),
            };
            while !over.load(Ordering::Acquire) {
                watch.look();
                std::thread::sleep(Duration::from_millis(20));
            }
            let through = reading.join().unwrap();
            assert_eq!(through, TOTAL, "{mode}: bytes that came through in order");
            watch.most()
        });
        running.end().expect_code(0, mode);
        assert!(before > 0, "{mode}: no memory was measured");
        assert!(
            most < before + MORE,
            "{mode}: the peak went from {before} to {most} bytes over {TOTAL} bytes of stream"
        );
    }
}

#[test]
fn a_slow_reader_makes_the_task_wait_not_the_memory_grow() {
    for mode in MODES {
        let mut running = Wrun::mode(mode)
            .arg(guest("hostile/stdout-flood.wat"))
            .start();
        let stdout = running.child.stdout.take().unwrap();
        read_exactly(stdout.as_fd_clone(), 1 << 20, mode);
        let mut watch = Watch {
            running: &running,
            peaks: BTreeMap::new(),
        };
        watch.look();
        let before = watch.most();
        // Unread, the flood would fill gigabytes meanwhile.
        std::thread::sleep(Duration::from_secs(1));
        watch.look();
        let most = watch.most();
        assert!(
            most < before + (64 << 20),
            "{mode}: the peak went from {before} to {most} bytes while nothing was read"
        );
        drop(stdout);
        running.end().expect_code(128 + 13, mode);
    }
}

#[test]
fn large_output_is_whole_when_its_reader_is_slow() {
    let scratch = scratch();
    // 8 MiB out of `run`, and out of a command.
    let input: Vec<u8> = (0..8u32 << 20).map(|n| (n % 251) as u8).collect();
    let file = write(scratch.path(), "input", &input);
    for mode in MODES {
        for task in ["echo/echo.wat", "cat/cat.wasm"] {
            let mut running = Wrun::mode(mode)
                .arg("--input")
                .arg(&file)
                .arg(guest(task))
                .start();
            let mut stdout = running.child.stdout.take().unwrap();
            let mut output = Vec::new();
            let mut block = vec![0; 300_000];
            loop {
                std::thread::sleep(Duration::from_millis(10));
                match stdout.read(&mut block).unwrap() {
                    0 => break,
                    len => output.extend_from_slice(&block[..len]),
                }
            }
            running.end().expect_code(0, &format!("{mode}: {task}"));
            assert!(
                output == input,
                "{mode}: {task}: {} bytes came of {}, or others",
                output.len(),
                input.len()
            );
        }
    }
}

#[test]
fn stderr_passes_as_it_is_written() {
    let scratch = scratch();
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read"
            (func $read (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\06\00\00\00")
        (data (i32.const 16) "words\n")
        (func (export "_start")
            (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 64)))
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 64)))))"#;
    let task = write(scratch.path(), "stderr.wat", text);
    for mode in MODES {
        let mut running = Wrun::mode(mode).arg(&task).stdin("").start();
        let stderr = running.child.stderr.take().unwrap();
        // While the task waits for its input.
        let words = read_exactly(stderr, 6, &format!("{mode}: stderr"));
        assert_eq!(words, b"words\n", "{mode}");
        drop(running.child.stdin.take());
        running.end().expect_code(0, mode);
    }
}

#[test]
fn input_and_output_files() {
    let scratch = scratch();
    let input = write(scratch.path(), "input", b"from a file\0\xff".repeat(50_000));
    for mode in MODES {
        for task in ["echo/echo.wat", "cat/cat.wasm"] {
            let what = format!("{mode}: {task}");
            let output = scratch.path().join(format!("{mode}.out"));
            // What was there is replaced, also where it was longer.
            fs::write(&output, vec![b'?'; 2_000_000]).unwrap();
            let ran = Wrun::mode(mode)
                .arg("--input")
                .arg(&input)
                .arg("--output")
                .arg(&output)
                .arg(guest(task))
                .stdin("not this")
                .run();
            ran.expect_code(0, &what);
            assert!(
                ran.stdout.is_empty() && ran.stderr.is_empty(),
                "{what}: {ran}"
            );
            assert!(
                fs::read(&output).unwrap() == fs::read(&input).unwrap(),
                "{what}: the output is not the input"
            );
            let ran = Wrun::mode(mode)
                .args(["--input", "-"])
                .arg(guest(task))
                .stdin("this")
                .run();
            ran.expect_code(0, &what);
            assert_eq!(ran.text(), "this", "{what}");
            // A file on stdin itself, and a pipe.
            let ran = Wrun::mode(mode)
                .arg(guest(task))
                .stdin_from(open(&input))
                .run();
            ran.expect_code(0, &what);
            assert!(ran.stdout == fs::read(&input).unwrap(), "{what}: stdin");
        }
    }
}

/// What a shell makes of a line, with `$wrun` and the guests in variables.
fn shell(script: &str, mode: &str, stdin: impl Into<Stdio>) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new("timeout");
    let output = command
        .args([&PATIENCE.as_secs().to_string(), "bash", "-c", script])
        .env("wrun", crate::support::wrun())
        .env("mode", mode)
        .env("guests", guest(""))
        .env("WRUN_CACHE_DIR", crate::support::command::shared_cache())
        .stdin(stdin)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn head_ends_a_task_that_would_write_forever() {
    for mode in MODES {
        for task in ["hostile/stdout-flood.wat", "cat/cat.wasm"] {
            let script = format!(
                r#""$wrun" --mode $mode "$guests/{task}" < /dev/zero | head -c 10 | tr '\0' x | wc -c
                echo "${{PIPESTATUS[@]}}""#
            );
            let (code, stdout, stderr) = shell(&script, mode, Stdio::null());
            assert_eq!(
                (code, stdout.as_str(), stderr.as_str()),
                (Some(0), "10\n141 0 0 0\n", ""),
                "{mode}: {task}"
            );
        }
    }
}

#[test]
fn a_task_that_does_not_read_leaves_stdin_to_the_next_command() {
    let scratch = scratch();
    let file = write(scratch.path(), "lines", "one\ntwo\nthree\n");
    for mode in MODES {
        let script = r#"read first
            "$wrun" --mode $mode "$guests/hostile/exit-code.wat" 3; echo "code $?"
            "$wrun" --mode $mode "$guests/hello-command/hello-command.wat"; echo
            read second; echo "$first $second""#;
        let expected = "code 3\nhello, command\none two\n";
        // From a file, where an offset would move, and from a pipe.
        let (code, stdout, stderr) = shell(script, mode, open(&file));
        assert_eq!(
            (code, stdout.as_str()),
            (Some(0), expected),
            "{mode}: {stderr}"
        );
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"one\ntwo\nthree\n").unwrap();
        drop(writer);
        let (code, stdout, stderr) = shell(script, mode, reader);
        assert_eq!(
            (code, stdout.as_str()),
            (Some(0), expected),
            "{mode}: {stderr}"
        );
    }
}

#[test]
fn a_task_that_ends_early_does_not_wait_for_its_stdin() {
    let scratch = scratch();
    // Reads one byte, then ends, while stdin stays open.
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_read"
            (func $read (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\10\00\00\00\01\00\00\00")
        (func (export "_start")
            (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 64)))))"#;
    let task = write(scratch.path(), "one-byte.wat", text);
    for mode in MODES {
        let mut running = Wrun::mode(mode).arg(&task).stdin("").start();
        let mut stdin = running.child.stdin.take().unwrap();
        stdin.write_all(b"more than a byte").unwrap();
        assert!(
            running.ends_within(PATIENCE),
            "{mode}: wrun waits for a stdin that its task does not read"
        );
        running.end().expect_code(0, mode);
        drop(stdin);
    }
}

#[test]
fn a_pipeline_of_tasks() {
    for mode in MODES {
        let script = r#"run() { "$wrun" --mode $mode "$@"; }
            run "$guests/cat/cat.wasm" < "$guests/inputs/article.md" |
            run "$guests/gzip/gzip.wasm" | run "$guests/gzip/gzip.wasm" -d |
            run "$guests/wordcount/wordcount.wasm""#;
        let (code, stdout, stderr) = shell(script, mode, Stdio::null());
        assert_eq!(
            (code, stdout.as_str(), stderr.as_str()),
            (Some(0), "138 918 5485\n", ""),
            "{mode}"
        );
    }
}
