//! Where results go that an option names a file for: nothing of the user's is lost, and
//! nothing waits for a pipe's other end longer than it was told to.

use crate::support::command::{PATIENCE, Wrun, scratch, write};
use crate::support::{MODES, repo, tool};
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

fn echo() -> PathBuf {
    repo("guest-tasks/echo/echo.wat")
}

fn pipe_in(folder: &Path) -> PathBuf {
    let pipe = folder.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    pipe
}

/// The arguments that make each command write a result to `to`.
fn commands(task: &Path, to: &Path) -> Vec<Vec<OsString>> {
    let line = |words: &[&str]| {
        let words = words.iter().map(OsString::from);
        let files = [to, task].map(|path| path.as_os_str().to_owned());
        words.chain(files).collect()
    };
    let mut all = Vec::new();
    for mode in MODES {
        for option in ["--output", "--report"] {
            all.push(line(&["--mode", mode, option]));
        }
    }
    all.push(line(&["compile", "-o"]));
    all.push(line(&["compare", "--json"]));
    all.push(line(&["compare", "--html"]));
    all
}

#[test]
fn no_result_overwrites_its_task() {
    let folder = scratch();
    let text = fs::read(echo()).unwrap();
    let task = write(folder.path(), "task.wat", &text);
    let [hard, soft] = ["hard.wat", "soft.wat"].map(|name| folder.path().join(name));
    fs::hard_link(&task, &hard).unwrap();
    symlink("task.wat", &soft).unwrap();
    let dotted = folder.path().join(".").join("task.wat");
    for to in [&task, &hard, &soft, &dotted] {
        for line in commands(&task, to) {
            let ran = Wrun::new().args(&line).run();
            ran.expect_code(2, &format!("{line:?}"));
            assert!(ran.stderr.contains("would overwrite"), "{line:?}: {ran}");
        }
    }
    assert_eq!(fs::read(&task).unwrap(), text);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

/// Each file that a command reads beside its task.
#[test]
fn no_result_overwrites_what_is_read() {
    let folder = scratch();
    let folder = folder.path();
    let ca = fs::read(repo("tests/data/tls/ca.pem")).unwrap();
    let (task, read) = (
        write(folder, "task.wat", fs::read(echo()).unwrap()),
        write(folder, "read", &ca),
    );
    let mut child = OsString::from("child=");
    child.push(&read);
    let options: [[OsString; 2]; 3] = [
        ["--http-ca".into(), read.clone().into()],
        ["--input".into(), read.clone().into()],
        ["--task".into(), child],
    ];
    for option in &options {
        for mut line in commands(&task, &read) {
            if line[0] == "compile" {
                continue;
            }
            let at = if line[0] == "compare" { 1 } else { 0 };
            line.splice(at..at, option.clone());
            let ran = Wrun::new().args(&line).run();
            ran.expect_code(2, &format!("{line:?}"));
            assert!(ran.stderr.contains("would overwrite"), "{line:?}: {ran}");
            assert_eq!(fs::read(&read).unwrap(), ca, "{line:?}");
        }
    }
    assert_eq!(fs::read_dir(folder).unwrap().count(), 2);
}

/// A shell opens files, too: one that is stdin is read, one that is stdout is written.
#[test]
fn what_a_shell_opens_is_not_overwritten() {
    let folder = scratch();
    let text = fs::read(echo()).unwrap();
    let ca = fs::read(repo("tests/data/tls/ca.pem")).unwrap();
    let reset = || {
        write(folder.path(), "task.wat", &text);
        write(folder.path(), "ca", &ca);
        write(folder.path(), "in", "the input");
    };
    let mut lines: Vec<String> = Vec::new();
    for mode in MODES {
        for rest in [
            "--report in task.wat < in",
            "--output in task.wat < in",
            "--input - --output ./in task.wat < in",
            "task.wat < in 1<>task.wat",
            "task.wat < in >> task.wat",
            "--output other --report - task.wat < in 1<>task.wat",
            "--http-ca ca task.wat < in 1<>ca",
            "--input in task.wat 1<>in",
            // It would read what it writes.
            "task.wat < in >> in",
        ] {
            lines.push(format!("--mode {mode} {rest}"));
        }
    }
    for rest in [
        "compile task.wat -o - 1<>task.wat",
        "inspect task.wat 1<>task.wat",
        "compare --json in --input - task.wat < in",
        "compare --html in --input - task.wat < in",
        "compare task.wat 1<>task.wat",
        "compare --json - task.wat 1<>task.wat",
        "serve --access-log json task.wat 1<>task.wat",
    ] {
        lines.push(rest.to_owned());
    }
    for line in lines {
        reset();
        let script = format!("exec \"$0\" {line}");
        let mut sh = Wrun::program(Path::new("sh"))
            .args(["-c", &script])
            .arg(crate::support::wrun());
        sh.command.current_dir(folder.path());
        let ran = sh.run();
        ran.expect_code(2, &line);
        assert!(ran.stderr.contains("would overwrite"), "{line}: {ran}");
        for (name, content) in [("task.wat", &text), ("ca", &ca)] {
            let now = fs::read(folder.path().join(name)).unwrap();
            assert!(now == *content, "{line}: {name}");
        }
        let now = fs::read(folder.path().join("in")).unwrap();
        assert_eq!(now, b"the input", "{line}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "{line}");
    }
    // A filter that replaces what it has read, as others do.
    for mode in MODES {
        reset();
        let script = format!("exec \"$0\" --mode {mode} task.wat < in 1<>in");
        let mut sh = Wrun::program(Path::new("sh"))
            .args(["-c", &script])
            .arg(crate::support::wrun());
        sh.command.current_dir(folder.path());
        sh.run().expect_code(0, mode);
        let now = fs::read(folder.path().join("in")).unwrap();
        assert_eq!(now, b"the input", "{mode}");
    }
}

#[test]
fn results_of_one_command_have_files_of_their_own() {
    let folder = scratch();
    let [one, two] = [folder.path().join("x"), folder.path().join(".").join("x")];
    for mode in MODES {
        let ran = Wrun::mode(mode)
            .arg("--output")
            .arg(&one)
            .arg("--report")
            .arg(&two)
            .arg(echo())
            .run();
        ran.expect_code(2, mode);
        assert!(ran.stderr.contains("would overwrite"), "{mode}: {ran}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A command that prints `half`, and then does something.
fn says(then: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\04\00\00\00")
            (data (i32.const 16) "half")
            (func (export "_start")
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                {then}))"#
    )
}

#[test]
fn output_that_is_not_whole_replaces_nothing() {
    let folder = scratch();
    let to = folder.path().join("to");
    for (name, then, code) in [
        ("traps.wat", "unreachable", 134),
        ("spins.wat", "(loop $on (br $on))", 124),
        ("leaves.wat", "", 0),
    ] {
        let task = write(folder.path(), name, says(then));
        for mode in MODES {
            for old in [None, Some("what was there")] {
                let what = format!("{mode}: {name}, {old:?}");
                let _ = fs::remove_file(&to);
                if let Some(old) = old {
                    fs::write(&to, old).unwrap();
                }
                let ran = Wrun::mode(mode)
                    .args(["--timeout", "1s", "--output"])
                    .arg(&to)
                    .arg(&task)
                    .run();
                ran.expect_code(code, &what);
                let new = fs::read_to_string(&to).ok();
                if code == 0 {
                    assert_eq!(new.as_deref(), Some("half"), "{what}");
                } else {
                    assert_eq!(new.as_deref(), old, "{what}");
                    assert!(ran.stderr.contains("was not written"), "{what}: {ran}");
                }
            }
        }
    }
    // Nothing is left beside them.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
}

/// Of a file that may be written to, in a directory that may not: the same holds.
#[test]
fn a_file_that_cannot_be_replaced_is_written_when_output_is_whole() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let Some(start) = crate::support::command::ordinary(folder.path()) else {
        return;
    };
    let traps = write(folder.path(), "traps.wat", says("unreachable"));
    let leaves = write(folder.path(), "leaves.wat", says(""));
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    let to = write(&closed, "to", "");
    let open_to_all = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    open_to_all(&to, 0o666);
    open_to_all(&closed, 0o555);
    let old = "what was there, and is longer";
    // Here only the owner of a file may replace it.
    let sticky = folder.path().join("sticky");
    fs::create_dir(&sticky).unwrap();
    let others = write(&sticky, "to", old);
    open_to_all(&others, 0o666);
    open_to_all(&sticky, 0o1777);
    for mode in MODES {
        fs::write(&others, old).unwrap();
        let wrun = start(mode).arg("--output").arg(&others);
        wrun.arg(&leaves).run().expect_code(0, mode);
        assert_eq!(fs::read_to_string(&others).unwrap(), "half", "{mode}");
        assert_eq!(fs::read_dir(&sticky).unwrap().count(), 1, "{mode}");
    }
    for mode in MODES {
        let run = |task: &Path, options: &[&str], temporary: &str| {
            fs::write(&to, old).unwrap();
            let wrun = start(mode).args(options).arg("--output").arg(&to);
            wrun.arg(task).env("TMPDIR", temporary).run()
        };
        let new = || fs::read_to_string(&to).unwrap();
        run(&leaves, &[], "/tmp").expect_code(0, mode);
        assert_eq!(new(), "half", "{mode}");
        let ran = run(&traps, &[], "/tmp");
        ran.expect_code(134, mode);
        assert_eq!(new(), old, "{mode}");
        assert!(ran.stderr.contains("was not written"), "{mode}: {ran}");
        // Nowhere else is a place for it.
        run(&leaves, &[], "/proc").expect_code(0, mode);
        assert_eq!(new(), "half", "{mode}");
        let ran = run(&traps, &[], "/proc");
        ran.expect_code(134, mode);
        assert_eq!(new(), "half", "{mode}");
        assert!(
            ran.stderr.contains("has a part of the output"),
            "{mode}: {ran}"
        );
        // A report is whole when it is written.
        fs::write(&to, old).unwrap();
        let ran = start(mode).arg("--report").arg(&to).arg(&leaves).run();
        ran.expect_code(0, mode);
        assert!(new().ends_with("}\n"), "{mode}: {}", new());
        assert_eq!(fs::read_dir(&closed).unwrap().count(), 1, "{mode}");
    }
    open_to_all(&closed, 0o755);
}

#[test]
fn an_artifact_goes_to_stdout() {
    let folder = scratch();
    let file = folder.path().join("echo.wrun");
    let ran = Wrun::new()
        .args(["compile", "-o"])
        .arg(&file)
        .arg(echo())
        .run();
    ran.expect_code(0, "to a file");
    let ran = Wrun::new().args(["compile", "-o", "-"]).arg(echo()).run();
    ran.expect_code(0, "to stdout");
    assert!(ran.stdout == fs::read(&file).unwrap(), "the same artifact");
    for mode in MODES {
        let ran = Wrun::mode(mode)
            .arg("--allow-precompiled")
            .arg(&file)
            .stdin("precompiled")
            .run();
        ran.expect_code(0, mode);
        assert_eq!(ran.text(), "precompiled", "{mode}");
    }
}

#[test]
fn a_pipe_without_a_partner_delays_no_command() {
    for mode in MODES {
        for option in ["--output", "--report", "--input"] {
            let what = format!("{mode}: {option}");
            let folder = scratch();
            let pipe = pipe_in(folder.path());
            // The deadline ends it.
            let ran = Wrun::mode(mode)
                .args(["--timeout", "1s", option])
                .arg(&pipe)
                .arg(echo())
                .run();
            let code = if option == "--input" { 124 } else { 125 };
            ran.expect_code(code, &what);
            if option != "--input" {
                assert!(ran.stderr.contains("opened the pipe"), "{what}: {ran}");
            }
            // Without one, a signal does.
            let mut running = Wrun::mode(mode)
                .args(["--grace", "0", option])
                .arg(&pipe)
                .arg(echo())
                .start();
            drop(running.child.stdin.take());
            assert!(
                !running.ends_within(std::time::Duration::from_millis(500)),
                "{what}: it does not wait"
            );
            running.signal(Signal::TERM);
            assert!(running.ends_within(PATIENCE), "{what}: it goes on");
        }
    }
}

/// Whatever a command reads: a deadline or a signal ends the wait.
#[test]
fn a_file_that_is_a_pipe_without_a_writer_keeps_no_command() {
    let folder = scratch();
    let pipe = pipe_in(folder.path()).display().to_string();
    let echo = echo().display().to_string();
    let app = repo("guest-tasks/http-hello/http-hello.wasm");
    let (app, child) = (app.display().to_string(), format!("child={pipe}"));
    let artifact = folder.path().join("artifact").display().to_string();
    for mode in MODES {
        let ran = Wrun::mode(mode)
            .args(["--timeout", "1s", "--http-ca", &pipe, &echo])
            .run();
        ran.expect_code(124, mode);
        assert!(ran.stderr.contains("--http-ca"), "{mode}: {ran}");
    }
    // They read a task more than once.
    for args in [
        &["compare", &pipe][..],
        &["compare", "--task", &child, &echo],
    ] {
        let ran = Wrun::new().args(args).run();
        ran.expect_code(2, &format!("{args:?}"));
        assert!(ran.stderr.contains("expected a regular file"), "{ran}");
    }
    let tls = ["--tls-cert", &pipe, "--tls-key", &pipe];
    let lines: [&[&str]; 12] = [
        &["--mode", "thread", &pipe],
        &["--mode", "process", &pipe],
        &["--mode", "process", "--task", &child, &echo],
        &["--mode", "process", "--http-ca", &pipe, &echo],
        &["compare", "--input", &pipe, &echo],
        &["compare", "--http-ca", &pipe, &echo],
        &["compile", "-o", &artifact, &pipe],
        &["inspect", &pipe],
        &["serve", "--config", &pipe],
        &["serve", "--http-ca", &pipe, &app],
        &["serve", "--addr", "127.0.0.1:0", &pipe],
        &[
            "serve",
            "--addr",
            "127.0.0.1:0",
            tls[0],
            tls[1],
            tls[2],
            tls[3],
            &app,
        ],
    ];
    for line in lines {
        for signal in [Signal::TERM, Signal::INT] {
            let mut running = Wrun::new().args(line).start();
            drop(running.child.stdin.take());
            assert!(
                !running.ends_within(std::time::Duration::from_millis(300)),
                "{line:?}: it does not wait"
            );
            running.signal(signal);
            assert!(running.ends_within(PATIENCE), "{line:?}: it goes on");
            let code = if signal == Signal::INT { 130 } else { 143 };
            running.end().expect_code(code, &format!("{line:?}"));
        }
    }
}

#[test]
fn a_pipe_with_a_partner_is_used() {
    for mode in MODES {
        let folder = scratch();
        let pipe = pipe_in(folder.path());
        let reading = {
            let pipe = pipe.clone();
            std::thread::spawn(move || fs::read(pipe).unwrap())
        };
        let ran = Wrun::mode(mode)
            .arg("--output")
            .arg(&pipe)
            .arg(echo())
            .stdin("through a pipe")
            .run();
        ran.expect_code(0, mode);
        assert_eq!(reading.join().unwrap(), b"through a pipe", "{mode}");
        let writing = {
            let pipe = pipe.clone();
            std::thread::spawn(move || {
                let mut file = fs::File::options().write(true).open(pipe).unwrap();
                file.write_all(b"and back").unwrap();
            })
        };
        let ran = Wrun::mode(mode).arg("--input").arg(&pipe).arg(echo()).run();
        writing.join().unwrap();
        ran.expect_code(0, mode);
        assert_eq!(ran.text(), "and back", "{mode}");
    }
}

#[test]
fn what_a_descriptor_is_called_is_written_through_it() {
    for mode in MODES {
        let folder = scratch();
        let path = folder.path().join("file");
        let file = fs::File::create(&path).unwrap();
        let ran = Wrun::mode(mode)
            .args(["--output", "/dev/stdout"])
            .arg(echo())
            .stdin("through a descriptor")
            .stdout_to(file)
            .run();
        ran.expect_code(0, mode);
        let mut text = String::new();
        fs::File::open(&path)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "through a descriptor", "{mode}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_folder_that_may_not_be_written_to_is_said_to_be_one() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let program = crate::support::processes::own_copy(folder.path());
    let task = write(folder.path(), "echo.wat", fs::read(echo()).unwrap());
    let [closed, read_only] = [("closed", 0o000), ("read-only", 0o555)].map(|(name, mode)| {
        let folder = folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        folder
    });
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if rustix::process::geteuid().is_root() && !tool::available("setpriv") {
        return;
    }
    // Root may write anywhere.
    let run = |line: &[OsString]| match rustix::process::geteuid().is_root() {
        false => Wrun::program(&program).args(line).run(),
        true => Wrun::program(Path::new("setpriv"))
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(line)
            .run(),
    };
    for (to, why) in [
        (closed.join("new"), "Permission denied (os error 13)"),
        (read_only.join("new"), "Permission denied (os error 13)"),
        (
            folder.path().join("missing/new"),
            "No such file or directory (os error 2)",
        ),
    ] {
        for line in commands(&task, &to) {
            let ran = run(&line);
            if ran.stderr.starts_with("setpriv: ") {
                println!("SKIPPED: setpriv cannot start a program of another user");
                return;
            }
            ran.expect_code(125, &format!("{line:?}"));
            let said = format!("wrun: cannot write {}: {why}\n", to.display());
            assert_eq!(ran.stderr, said, "{line:?}");
        }
    }
}
