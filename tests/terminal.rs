//! What a person at a terminal sees, and others do not.

use crate::command::{scratch, shared_cache, write};
use crate::compiling::large_bomb;
use crate::support::{MODES, repo, wrun};
use std::process::{Command, Stdio};

/// What a terminal gets of `wrun ARGS...`, whose stdin and, if so wanted, stdout is
/// elsewhere.
fn terminal(args: &[&str], redirect: &str) -> String {
    let mut words = vec![wrun().display().to_string()];
    words.extend(args.iter().map(|arg| (*arg).to_owned()));
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command"])
        .arg(format!("{} {redirect}", quoted.join(" ")))
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
        assert!(seen.ends_with("\r\u{1b}[2K"), "{mode}: {seen:?}");

        let quiet = ["--no-progress", "--mode", mode, "--input", &input, &task];
        assert_eq!(terminal(&quiet, "> /dev/null"), "", "{mode}: not wanted");
        assert_eq!(terminal(&args, "> /dev/null 2>&1"), "", "{mode}: nobody");

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
        let (_, end) = seen.rsplit_once("bomb.wasm: ").unwrap();
        let end = end.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        assert!(
            end.starts_with("s") && end.contains("\r\u{1b}[2Kwrun: compiling the task takes"),
            "{command:?}: {seen:?}"
        );
        for (more, redirect) in [(&["--quiet"][..], "|| true"), (&[], "2> /dev/null || true")] {
            let seen = terminal(&args(more), redirect);
            assert!(
                !seen.contains("bomb.wasm"),
                "{command:?} {more:?}: {seen:?}"
            );
        }
    }
}

#[test]
fn a_task_does_not_command_the_terminal() {
    let hostile = r#"
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\10\00\00\00\0b\00\00\00")
  (data (i32.const 16) "a\1b[2Jb\07\c2\9bc\0a")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0)))
    (drop (call $write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 0)))))
"#;
    let scratch = scratch();
    let task = write(scratch.path(), "hostile.wat", hostile);
    let task = task.display().to_string();
    for mode in MODES {
        let args = ["--mode", mode, &task];
        let shown = "a?[2Jb?\u{bf}c\r\n";
        assert_eq!(terminal(&args, "2> /dev/null"), shown, "{mode}: stdout");
        assert_eq!(terminal(&args, "> /dev/null"), shown, "{mode}: stderr");
        assert_eq!(terminal(&args, ""), format!("{shown}{shown}"), "{mode}");
    }
}
