//! Names that users give to the command: of files that are not UTF-8, of settings with few
//! values, of directories that are not absolute.

use crate::support::command::{Wrun, scratch, write};
use crate::support::{MODES, repo};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

fn bytes(text: &[u8]) -> OsString {
    OsString::from_vec(text.to_vec())
}

#[test]
fn files_and_directories_need_not_be_utf_8() {
    let folder = scratch();
    let odd = folder.path().join(OsStr::from_bytes(b"od\xff::d"));
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("file"), "found").unwrap();
    let mut grant = odd.clone().into_os_string();
    grant.push("::/in:ro");
    let task = odd.join(OsStr::from_bytes(b"task\xfe.wasm"));
    fs::copy(repo("guest-tasks/files/files.wasm"), &task).unwrap();
    let echo = odd.join(OsStr::from_bytes(b"echo\xfe.wat"));
    fs::copy(repo("guest-tasks/echo/echo.wat"), &echo).unwrap();
    let [input, output] = ["in", "out"].map(|name| odd.join(OsStr::from_bytes(name.as_bytes())));
    fs::write(&input, "from a file").unwrap();
    for mode in MODES {
        let ran = Wrun::mode(mode)
            .arg("--dir")
            .arg(&grant)
            .arg(&task)
            .args(["read", "/in/file"])
            .run();
        ran.expect_code(0, mode);
        assert_eq!(ran.text(), "found", "{mode}: {ran}");
        let mut started = OsString::from("echo=");
        started.push(&echo);
        let ran = Wrun::mode(mode)
            .arg("--task")
            .arg(started)
            .arg("--input")
            .arg(&input)
            .arg("--output")
            .arg(&output)
            .arg(&echo)
            .run();
        ran.expect_code(0, mode);
        assert_eq!(fs::read(&output).unwrap(), b"from a file", "{mode}");
    }
}

#[test]
fn what_must_be_utf_8_is_refused_by_its_option() {
    let echo = repo("guest-tasks/echo/echo.wat");
    for mode in MODES {
        for (option, value, why) in [
            ("--dir", &b"/tmp/\xff"[..], "HOST::GUEST"),
            ("--dir", b"/tmp::\xff", "HOST::GUEST"),
            ("--env", b"K=\xff", "UTF-8"),
            ("--env", b"ODD", "UTF-8"),
            ("--env", b"NO_SUCH_VARIABLE_HERE", "no such variable"),
            ("--task", b"\xff=x.wasm", "UTF-8"),
        ] {
            let what = format!("{mode}: {option} {}", String::from_utf8_lossy(value));
            let ran = Wrun::mode(mode)
                .arg(option)
                .arg(bytes(value))
                .arg(&echo)
                .env("ODD", bytes(b"\xff"))
                .run();
            ran.expect_code(2, &what);
            assert!(ran.stderr.contains(option), "{what}: {ran}");
            assert!(ran.stderr.contains(why), "{what}: {ran}");
        }
    }
}

/// Every option of every command that takes text.
#[test]
fn a_value_that_is_not_utf_8_is_named_with_its_option() {
    let value = bytes(b"od\xffd");
    for command in ["run", "compile", "compare", "serve"] {
        let help = Wrun::new().args([command, "--help"]).run().text();
        let options: Vec<&str> = help
            .lines()
            .filter_map(|line| {
                let line = line.trim_start().trim_start_matches(|c| c != '-');
                let long = line.find("--").map(|at| &line[at..])?;
                let (option, value) = long.split_once([' ', '['])?;
                value.starts_with(['<', '=']).then_some(option)
            })
            .collect();
        assert!(options.len() >= 4, "{command}: {options:?}");
        for option in &options {
            // What is named here need not exist, and is not looked for.
            let ran = Wrun::new()
                .args([command, option])
                .arg(&value)
                .arg("no-such-task.wasm")
                .run();
            let what = format!("{command} {option}: {ran}");
            assert!(!ran.stderr.contains("in one or more arguments"), "{what}");
            // Files are looked for, and may have any name.
            if ran.stderr.starts_with("error: ") {
                assert!(ran.stderr.contains(option), "{what}");
                let has_value = ran.stderr.contains("od\u{fffd}d");
                assert!(has_value || ran.stderr.contains("required"), "{what}");
            }
        }
        for option in ["--log", "--log-format"] {
            assert!(options.contains(&option), "{command}: {options:?}");
        }
    }
    for (args, why) in [
        (
            &["--timeout"][..],
            "--timeout <TIME>': expected text in UTF-8",
        ),
        (
            &["--mode"],
            "--mode <MODE>': expected one of process, thread",
        ),
        (&["--allow-tcp"], "--allow-tcp <HOST:PORT>': expected text"),
        // It lists them by itself.
        (&["completions"], "<SHELL>'"),
        (&["man"], "[COMMAND]': expected one of run, "),
        // The one before is taken.
        (
            &["--input", "od\u{fffd}d", "--fuel"],
            "--fuel <N>': expected text in UTF-8",
        ),
    ] {
        let task = args[0].starts_with("--").then_some("task.wasm");
        let ran = Wrun::new().args(args).arg(&value).args(task).run();
        ran.expect_code(2, &format!("{args:?}"));
        let said = format!("invalid value 'od\u{fffd}d' for '{why}");
        assert!(ran.stderr.contains(&said), "{args:?}: {ran}");
    }
}

#[test]
fn settings_with_few_values_name_them() {
    for (option, values) in [
        ("--mode", &["process", "thread"][..]),
        ("--jail", &["strict", "best-effort", "off"]),
        ("--start", &["exec", "fork"]),
    ] {
        let ran = Wrun::new().args([option, "maybe", "task.wasm"]).run();
        ran.expect_code(2, option);
        for value in values {
            assert!(ran.stderr.contains(value), "{option} {value}: {ran}");
        }
        for shell in ["bash", "zsh", "fish"] {
            let ran = Wrun::new().args(["completions", shell]).run();
            ran.expect_code(0, shell);
            for value in values {
                assert!(ran.text().contains(value), "{shell}: {option} {value}");
            }
        }
    }
}

#[test]
fn a_directory_whose_name_is_divided_is_recognised() {
    let folder = scratch();
    fs::create_dir(folder.path().join("a::b")).unwrap();
    for mode in MODES {
        for (grant, why) in [
            (
                &b"a::b:ro"[..],
                "the directory a: it does not exist; if a::b is meant, expected a::b::GUEST",
            ),
            (b"c::b", "the directory c: No such file or directory"),
            (
                b"a::b::/\xff",
                "expected HOST::GUEST with a GUEST that is UTF-8",
            ),
        ] {
            let mut wrun = Wrun::mode(mode).arg("--dir").arg(bytes(grant));
            wrun = wrun.arg(repo("guest-tasks/echo/echo.wat").canonicalize().unwrap());
            wrun.command.current_dir(folder.path());
            let ran = wrun.run();
            ran.expect_code(2, mode);
            assert!(ran.stderr.contains(why), "{mode}: {ran}");
        }
    }
}

#[test]
fn a_home_that_is_not_absolute_gets_no_cache() {
    let folder = scratch();
    let task = write(
        folder.path(),
        "t.wat",
        fs::read(repo("guest-tasks/echo/echo.wat")).unwrap(),
    );
    for mode in MODES {
        let mut wrun = Wrun::mode(mode).arg(&task).stdin("x");
        wrun.command
            .env_remove("WRUN_CACHE_DIR")
            .env_remove("XDG_CACHE_HOME")
            .env("HOME", "home")
            .current_dir(folder.path());
        let ran = wrun.run();
        ran.expect_code(0, mode);
        assert_eq!(ran.text(), "x", "{mode}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{mode}");
    }
}

/// What cannot be parsed is an error as others, which `?` and reports take.
#[test]
fn names_that_cannot_be_are_errors() {
    fn check<T: std::str::FromStr>(text: &str, message: &str)
    where
        T::Err: std::error::Error + Send + Sync + 'static,
    {
        let error = anyhow::Error::new(text.parse::<T>().err().expect("an error"));
        assert_eq!(format!("{error:#}"), message);
    }
    check::<wrun::Mode>("x", r#"unknown mode "x": expected "process" or "thread""#);
    check::<wrun::Jail>(
        "",
        r#"unknown jail "": expected "strict", "best-effort" or "off""#,
    );
    check::<wrun::Start>(
        "Fork",
        r#"unknown start method "Fork": expected "fork" or "exec""#,
    );
    check::<wrun::DirGrant>(
        "",
        r#"invalid directory grant "": expected HOST[::GUEST][:ro|:rw]"#,
    );
    check::<wrun::TcpGrant>("x", r#"invalid address "x": expected HOST:PORT"#);
}
