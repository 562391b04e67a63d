//! What a person at a terminal sees, and others do not.

use crate::compiling::large_bomb;
use crate::support::command::{PATIENCE, scratch, shared_cache, write};
use crate::support::{MODES, repo, within, wrun};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// What a terminal gets of `wrun ARGS...`, whose stdin and, if so wanted, stdout is
/// elsewhere.
pub(crate) fn terminal(args: &[&str], redirect: &str) -> String {
    terminal_of("", args, redirect)
}

/// The same, with a command before it.
fn terminal_of(before: &str, args: &[&str], redirect: &str) -> String {
    let mut words = vec![wrun().display().to_string()];
    words.extend(args.iter().map(|arg| (*arg).to_owned()));
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(format!("{before}{} {redirect}", quoted.join(" ")))
        .arg("/dev/null")
        .env("WRUN_CACHE_DIR", shared_cache())
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn progress_is_shown_on_a_terminal_and_gone_at_the_end() {
    let scratch = scratch();
    let input = write(scratch.path(), "input", vec![7; 32 << 20]);
    let input = input.display().to_string();
    let task = repo("guest-tasks/context/context.wasm");
    let task = task.display().to_string();
    for mode in MODES {
        let args = ["--mode", mode, "--input", &input, &task];
        let seen = terminal(&args, "> /dev/null");
        assert!(seen.contains("context.wasm ["), "{mode}: {seen:?}");
        assert!(seen.contains("/33,554,432 "), "{mode}: {seen:?}");
        // The last thing is an empty line, and the cursor at its beginning.
        assert!(seen.ends_with("\r\u{1b}[J\r"), "{mode}: {seen:?}");

        let quiet = ["--no-progress", "--mode", mode, "--input", &input, &task];
        assert_eq!(terminal(&quiet, "> /dev/null"), "", "{mode}: not wanted");
        assert_eq!(
            terminal(&args, "> /dev/null 2>&1"),
            "",
            "{mode}: no terminal"
        );

        // Output is whole, with the line or without.
        let seen = terminal(&args, "");
        assert!(
            seen.contains("\nbytes 33554432\r\nsum 234881024\r\n"),
            "{mode}: {seen:?}"
        );
    }
}

#[test]
fn that_a_task_is_compiled_is_shown_on_a_terminal_and_gone_at_the_end() {
    let scratch = scratch();
    let task = write(scratch.path(), "bomb.wasm", large_bomb());
    let task = task.display().to_string();
    let limit = ["--compile-timeout", "3500ms"];
    let commands = MODES.map(|mode| vec!["run", "--mode", mode]);
    let commands = commands
        .into_iter()
        .chain([vec!["compile", "-o", "/dev/null"]]);
    for command in commands {
        let args = |more: &[&'static str]| [&command, more, &limit, &[&*task]].concat();
        let seen = terminal(&args(&[]), "|| true");
        for second in 1..3 {
            let line = format!("compiling bomb.wasm: {second} s");
            assert!(seen.contains(&line), "{command:?}: {seen:?}");
        }
        let message = format!("wrun: {task}: compiling the task takes");
        let (drawn, _) = seen.split_once(&message).unwrap();
        let (_, end) = drawn.rsplit_once("bomb.wasm: ").unwrap();
        let end = end.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        assert!(
            end.starts_with("s\r") && end.ends_with("\r\u{1b}[J\r"),
            "{command:?}: {seen:?}"
        );
        for (more, redirect) in [(&["--quiet"][..], "|| true"), (&[], "2> /dev/null || true")] {
            let seen = terminal(&args(more), redirect);
            assert!(
                !seen.contains("compiling bomb.wasm"),
                "{command:?} {more:?}: {seen:?}"
            );
        }
    }
}

#[test]
fn an_artifact_is_not_written_to_a_terminal_by_any_name() {
    let task = repo("guest-tasks/echo/echo.wat").display().to_string();
    for name in ["-", "/dev/stdout", "/dev/tty"] {
        let seen = terminal(&["compile", "-o", name, &task], "; echo code $?");
        let said = format!("wrun: -o {name}: refusing to write an artifact to a terminal");
        assert!(seen.starts_with(&said), "{name}: {seen:?}");
        assert!(seen.ends_with("code 2\r\n"), "{name}: {seen:?}");
    }
}

/// Whatever the terminal's width becomes: what is drawn is shorter, and the cursor is at
/// its beginning, so that the next drawing erases all of it.
#[test]
fn progress_fits_the_terminal() {
    let scratch = scratch();
    let input = write(scratch.path(), "input", vec![7; 32 << 20]);
    let input = input.display().to_string();
    let task = repo("guest-tasks/context/context.wasm");
    let task = task.display().to_string();
    for mode in MODES {
        for width in [20, 50] {
            let stty = format!("stty cols {width} && ");
            let args = ["--mode", mode, "--input", &input, &task];
            let seen = terminal_of(&stty, &args, "> /dev/null");
            let drawn: Vec<_> = seen.split("\u{1b}[J").collect();
            assert!(drawn.len() > 1, "{mode}: nothing is drawn: {seen:?}");
            for line in &drawn {
                assert!(line.ends_with('\r'), "{mode}: {line:?}");
                let line = line.trim_matches('\r');
                assert!(line.chars().count() < width, "{mode}: {width}: {line:?}");
            }
            assert!(seen.contains("context.wasm"), "{mode}: {seen:?}");
        }
    }
}

/// Says once how far it is, and goes on for ever.
const TELLS: &str = r#"
(module
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (func (export "run") (param i32 i32) (result i32)
    (call $progress (i64.const 3) (i32.const 1) (i64.const 7))
    (loop $l (br $l))
    unreachable))
"#;

/// What a terminal gets of `wrun ARGS...` in a shell with jobs, where a person presses
/// Ctrl-Z once the line says `shown`, and the shell says STOPPED, then `fg`, then END.
fn suspended(args: &[&str], shown: &str) -> String {
    let quoted: Vec<_> = args.iter().map(|word| format!("'{word}'")).collect();
    let wrun = format!("'{}' {}", wrun().display(), quoted.join(" "));
    let script = format!("{wrun} > /dev/null; echo STOPPED; fg > /dev/null; echo END");
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(format!("sh -mc \"{script}\""))
        .arg("/dev/null")
        .env("WRUN_CACHE_DIR", shared_cache())
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut stdout = terminal.stdout.take().unwrap();
    let heard = seen.clone();
    let reading = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = stdout.read(&mut bytes) {
            heard.lock().unwrap().extend(&bytes[..len]);
        }
    });
    let text = || String::from_utf8_lossy(&seen.lock().unwrap()).into_owned();
    let mut stdin = terminal.stdin.take().unwrap();
    for (word, key) in [(shown, &b"\x1a"[..]), ("END\r\n", b"")] {
        if !within(PATIENCE, || text().contains(word)) {
            let _ = terminal.kill();
            panic!("{args:?}: no {word:?} in {:?}", text());
        }
        stdin.write_all(key).unwrap();
    }
    drop(stdin);
    terminal.wait().unwrap();
    reading.join().unwrap();
    text()
}

/// Ctrl-Z leaves no line behind on the shell's terminal, and `fg` brings it back.
#[test]
fn progress_is_not_shown_while_the_job_is_stopped() {
    let scratch = scratch();
    let task = write(scratch.path(), "tells.wat", TELLS)
        .display()
        .to_string();
    let bomb = write(scratch.path(), "bomb.wasm", large_bomb());
    let bomb = bomb.display().to_string();
    let compiling = [
        "compile",
        "-o",
        "/dev/null",
        "--compile-timeout",
        "3500ms",
        &bomb,
    ];
    let runs = MODES.map(|mode| vec!["run", "--mode", mode, "--timeout", "3s", &task]);
    let runs = runs.map(|args| (args, "] 3/7 "));
    let all = runs
        .into_iter()
        .chain([(compiling.to_vec(), "bomb.wasm: ")]);
    for (args, shown) in all {
        let seen = suspended(&args, shown);
        let (before, after) = seen.split_once("STOPPED\r\n").unwrap();
        // The terminal echoes the key at the beginning of the line, which is erased.
        assert!(before.ends_with("\r^Z\r\u{1b}[J"), "{args:?}: {seen:?}");
        let again = after.strip_prefix("\r\u{1b}[J").unwrap_or(after);
        let (line, _) = again.trim_start_matches('\r').split_once('\r').unwrap();
        let line = line.trim_start_matches("\u{1b}[J");
        assert!(line.contains(shown), "{args:?}: {seen:?}");
    }
}

/// Writes `text` to stdout and then to stderr.
fn writes(text: &[u8]) -> String {
    let data: String = text.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let len = text.len();
    format!(
        r#"
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "{data}")
  (func (export "_start")
    (i32.store (i32.const 8) (i32.const 16))
    (i32.store (i32.const 12) (i32.const {len}))
    (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0)))
    (drop (call $write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 0)))))
"#
    )
}

/// Says of each standard stream whether it is a terminal (2) or of unknown kind (0).
const KINDS: &str = r#"
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_get"
    (func $fdstat (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\10\00\00\00\04\00\00\00")
  (func $kind (param $fd i32)
    (drop (call $fdstat (local.get $fd) (i32.const 32)))
    (i32.store8 offset=16 (local.get $fd)
      (i32.add (i32.const 48) (i32.load8_u (i32.const 32)))))
  (func (export "_start")
    (call $kind (i32.const 0))
    (call $kind (i32.const 1))
    (call $kind (i32.const 2))
    (i32.store8 (i32.const 19) (i32.const 10))
    (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0)))))
"#;

#[test]
fn a_task_does_not_command_the_terminal() {
    let scratch = scratch();
    for (text, safe) in [
        (&b"a\x1b[2Jb\x07\xc2\x9bc\n"[..], "a?[2Jb?\u{bf}c\r\n"),
        (b"\x1b]0;title\x07\x1b[6n\n", "?]0;title??[6n\r\n"),
        (
            b"\x1b[1;32mok\x1b[0m\x1b[K\n",
            "\x1b[1;32mok\x1b[0m\x1b[K\r\n",
        ),
        // What it leaves is taken back.
        (
            b"\x1b[31m\x1b[?25lred\n",
            "\x1b[31m\x1b[?25lred\r\n\x1b[0m\x1b[?25h",
        ),
    ] {
        let task = write(scratch.path(), "writes.wat", writes(text));
        let task = task.display().to_string();
        let raw = String::from_utf8_lossy(text).replace('\n', "\r\n");
        for mode in MODES {
            let args = ["--mode", mode, &task];
            assert_eq!(terminal(&args, "2> /dev/null"), safe, "{mode}: stdout");
            assert_eq!(terminal(&args, "> /dev/null"), safe, "{mode}: stderr");
            let args = ["--terminal", "safe", "--mode", mode, &task];
            let seen = terminal(&args, "");
            // Both are one stream to a terminal, so that what they left is at the end.
            let (left, once) = match safe.split_once("\r\n") {
                Some((_, left)) => (left, safe.strip_suffix(left).unwrap()),
                None => ("", safe),
            };
            assert_eq!(seen, format!("{once}{once}{left}"), "{mode}");
            let args = ["--terminal", "raw", "--mode", mode, &task];
            assert_eq!(terminal(&args, ""), format!("{raw}{raw}"), "{mode}: raw");
        }
    }
}

#[test]
fn a_terminal_is_one_to_the_task() {
    let scratch = scratch();
    let task = write(scratch.path(), "kinds.wat", KINDS);
    let task = task.display().to_string();
    let output = scratch.path().join("output");
    let output = output.display().to_string();
    for mode in MODES {
        for how in ["safe", "raw"] {
            let args = ["--terminal", how, "--mode", mode, &task];
            for (redirect, seen) in [
                ("", "222\r\n"),
                ("< /dev/null", "022\r\n"),
                ("2> /dev/null", "220\r\n"),
                ("< /dev/null 2> /dev/null", "020\r\n"),
                ("| cat", "202\r\n"),
                ("2>&1 < /dev/null | cat", "000\r\n"),
            ] {
                assert_eq!(terminal(&args, redirect), seen, "{mode}, {how}: {redirect}");
            }
        }
        // Files are not terminals.
        let args = [
            "--mode",
            mode,
            "--input",
            "/dev/null",
            "--output",
            &output,
            &task,
        ];
        assert_eq!(terminal(&args, ""), "");
        assert_eq!(std::fs::read_to_string(&output).unwrap(), "002\n");
    }
}

#[test]
fn a_task_knows_the_size_of_the_terminal() {
    let task = repo("guest-tasks/env/env.wasm");
    let task = task.display().to_string();
    for mode in MODES {
        let sized = |args: &[&str], redirect: &str| {
            let mut all = vec!["--mode", mode];
            all.extend(args);
            all.push(&task);
            let seen = terminal_of("stty cols 101 rows 41 && ", &all, redirect);
            let mut lines: Vec<_> = seen.lines().map(str::to_owned).collect();
            lines.retain(|line| !line.is_empty());
            lines.sort();
            lines
        };
        assert_eq!(
            sized(&[], ""),
            ["env COLUMNS=101", "env LINES=41"],
            "{mode}"
        );
        let raw = sized(&["--terminal", "raw"], "");
        assert_eq!(
            raw,
            ["env COLUMNS=101", "env LINES=41", "env TERM=xterm"],
            "{mode}"
        );
        let own = sized(&["--env", "COLUMNS=7"], "");
        assert_eq!(own, ["env COLUMNS=7", "env LINES=41"], "{mode}");
        let none = sized(&[], "2>&1 | cat");
        assert!(none.is_empty(), "{mode}: {none:?}");
    }
}
