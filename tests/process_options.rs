//! The options of process mode, and the settings behind them: what is refused,
//! what has no effect on threads, what the report says of them. And `--report`
//! itself, which is opened before the task runs.

use crate::support::command::{Wrun, open, scratch, write};
use crate::support::{MODES, Schema, builder, guest, repo, wrun};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;
use wrun::{ErrorKind, Jail, Mode, ProcessOptions, Start, Task};

fn echo() -> std::path::PathBuf {
    repo("guest-tasks/echo/echo.wat")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn options_that_cannot_be_are_refused() {
    for (options, word) in [
        (&["--retries", "101"][..], "101"),
        (&["--retries", "-1"], "-1"),
        (&["--reuse", "0"], "0"),
        (&["--workers", "0"], "0"),
        (&["--jail", "moderate"], "best-effort"),
        (&["--start", "clone"], "fork"),
        (&["--idle-timeout", "0"], "--idle-timeout"),
        (&["--grace", "soon"], "--grace"),
        (&["--uid", "0"], "--uid"),
        (&["--uid", "4294967295"], "--uid"),
        (&["--uid", "nobody"], "--uid"),
        (&["--uid", "7-5"], "N-M"),
        (&["--uid", "0-5"], "N-M"),
        (&["--uid", "5-"], "N-M"),
        (&["--uid", "5-7", "--jail", "off"], "--jail off"),
        (&["--gid", "65534"], "--uid"),
        (&["--uid", "65534", "--jail", "off"], "--jail off"),
        (&["--uid", "65534", "--mode", "thread"], "--mode process"),
        (&["--jail", "strict", "--mode", "thread"], "--mode process"),
        (
            &["--jail", "best-effort", "--mode", "thread"],
            "--mode process",
        ),
    ] {
        let ran = Wrun::new().args(options).arg(echo()).run();
        ran.expect_code(2, &format!("{options:?}"));
        assert!(ran.stderr.contains(word), "{options:?}: {ran}");
        assert!(ran.stdout.is_empty(), "{options:?}: {ran}");
    }
}

#[test]
fn only_root_runs_tasks_as_others() {
    let mut command = std::process::Command::new(wrun());
    command
        .args(["--no-cache", "--uid", "65534"])
        .arg(echo())
        .stdin(std::process::Stdio::null());
    if is_root() {
        command.uid(65534).gid(65534);
    }
    let output = match command.output() {
        Ok(output) => output,
        // The program may lie where others may not go.
        Err(error) => return println!("SKIPPED: cannot run wrun as nobody: {error}"),
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("requires root"), "{stderr}");
    if !is_root() {
        let error = builder(Mode::Process)
            .process(ProcessOptions::default().identity(65534, 65534))
            .build();
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Jail);
    }
    let error = builder(Mode::Process)
        .process(
            ProcessOptions::default()
                .jail(Jail::Off)
                .identity(65534, 65534),
        )
        .build()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Jail, "{error}");
    assert!(!error.is_retryable());
    // Threads have no say in it.
    builder(Mode::Thread)
        .process(ProcessOptions::default().identity(1, 1))
        .build()
        .unwrap();
}

#[test]
fn options_that_concern_speed_are_accepted_in_both_modes() {
    for mode in MODES {
        let ran = Wrun::mode(mode)
            .args(["--jail", "off", "--retries", "2", "--start", "exec"])
            .args(["--spares", "0", "--reuse", "2", "--workers", "2"])
            .args(["--idle-timeout", "5s", "--grace", "1s"])
            .arg(echo())
            .stdin("x")
            .run();
        ran.expect_code(0, mode);
        assert_eq!(ran.text(), "x", "{mode}: {ran}");
    }
}

#[test]
fn settings_hold_for_the_library_too() {
    for mode in crate::support::BOTH {
        let runner = builder(mode)
            .process(
                ProcessOptions::default()
                    .jail(Jail::Off)
                    .start(Start::Exec)
                    .spares(0)
                    .reuse(0)
                    .idle_timeout(Duration::from_secs(5)),
            )
            .compile_timeout(Duration::from_secs(600))
            .compile_memory(4 << 30)
            .build()
            .unwrap();
        let echo = guest(&runner, "echo/echo.wat");
        let report = runner.blocking_run(Task::new(&echo).input("x")).unwrap();
        assert_eq!(report.stdout, "x");
        let process = mode == Mode::Process;
        assert_eq!(report.jail_mode, process.then_some(Jail::Off));
        assert_eq!(report.jail.map(|it| it.layers), process.then(Vec::new));
        assert!(process || report.stats.usage.is_none());
        assert!(process || report.stats.start_method.is_none());
    }
}

#[test]
fn the_report_tells_of_the_jail() {
    let schema = Schema::load();
    for mode in MODES {
        let folder = scratch();
        let path = folder.path().join("report.json");
        let ran = Wrun::mode(mode)
            .args(["--stats", "--jail", "off", "--report"])
            .arg(&path)
            .arg(echo())
            .run();
        ran.expect_code(0, mode);
        let report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        schema.check(&report).unwrap();
        let (jail, row) = match mode {
            "process" => (json!({"mode": "off", "layers": []}), true),
            _ => (Value::Null, false),
        };
        assert_eq!(report["jail"], jail, "{mode}: {report}");
        let has_row = ran.stderr.lines().any(|line| line == "  jail      off");
        assert_eq!(has_row, row, "{mode}: {ran}");
        for field in ["usage", "start_method"] {
            let known = !report["stats"][field].is_null();
            assert!(mode == "process" || !known, "{mode}: {field}: {report}");
        }
    }
}

// --- the report's own file ------------------------------------------------

#[test]
fn a_report_that_cannot_be_written_costs_no_run() {
    for mode in MODES {
        for report in ["/no/such/directory/report", "/"] {
            let ran = Wrun::mode(mode)
                .args(["--report", report])
                .arg(repo("guest-tasks/hello-command/hello-command.wat"))
                .run();
            ran.expect_code(125, &format!("{mode}: --report {report}"));
            assert!(ran.stdout.is_empty(), "{mode}: the task ran: {ran}");
            assert!(ran.stderr.starts_with("wrun: cannot write "), "{ran}");
        }
    }
}

#[test]
fn a_report_is_there_whole_or_as_it_was() {
    for mode in MODES {
        let folder = scratch();
        let path = folder.path().join("report.json");
        let run = |task: &Path| Wrun::mode(mode).arg("--report").arg(&path).arg(task).run();
        let broken = repo("guest-tasks/hostile/not-wasm.wasm");
        run(&broken).expect_code(126, mode);
        assert!(!path.exists(), "{mode}: a report of nothing");
        let old = "x".repeat(10_000);
        fs::write(&path, &old).unwrap();
        run(&broken).expect_code(126, mode);
        assert_eq!(fs::read_to_string(&path).unwrap(), old, "{mode}");
        run(&echo()).expect_code(0, mode);
        let report = fs::read_to_string(&path).unwrap();
        assert!(
            report.ends_with("}\n") && !report.contains("xx"),
            "{mode}: {report}"
        );
    }
}

#[test]
fn a_report_overwrites_nothing_that_is_read_or_written() {
    let folder = scratch();
    let text = fs::read(echo()).unwrap();
    let task = write(folder.path(), "task.wat", &text);
    let input = write(folder.path(), "input", "input");
    let output = folder.path().join("output");
    for mode in MODES {
        for report in [&task, &input, &output] {
            let ran = Wrun::mode(mode)
                .arg("--report")
                .arg(report)
                .arg("--input")
                .arg(&input)
                .arg("--output")
                .arg(&output)
                .arg(&task)
                .run();
            ran.expect_code(2, mode);
            assert!(ran.stderr.contains("would overwrite"), "{mode}: {ran}");
        }
        assert_eq!(fs::read(&task).unwrap(), text, "{mode}");
        assert_eq!(fs::read(&input).unwrap(), b"input", "{mode}");
    }
}

#[test]
fn a_report_goes_into_a_pipe() {
    for mode in MODES {
        let folder = scratch();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let running = Wrun::mode(mode)
            .arg("--report")
            .arg(&pipe)
            .arg(echo())
            .start();
        let mut json = String::new();
        std::io::Read::read_to_string(&mut open(&pipe), &mut json).unwrap();
        running.end().expect_code(0, mode);
        let report: Value = serde_json::from_str(&json).unwrap();
        Schema::load().check(&report).unwrap();
    }
}

#[test]
fn a_task_that_cannot_be_loaded_in_time_has_an_outcome() {
    std::thread::scope(|scope| {
        for mode in MODES {
            scope.spawn(move || {
                let folder = scratch();
                // Opening a file blocks until there is a writer.
                let task = folder.path().join("task.wasm");
                let made = std::process::Command::new("mkfifo").arg(&task).status();
                assert!(made.unwrap().success());
                let path = folder.path().join("report.json");
                let ran = Wrun::mode(mode)
                    .args(["--timeout", "1s", "--report"])
                    .arg(&path)
                    .arg(&task)
                    .run();
                ran.expect_code(124, mode);
                let report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                Schema::load().check(&report).unwrap();
                assert_eq!(
                    report["outcome"],
                    json!({"kind": "limit-exceeded", "limit": "compile-time", "limit_value": 10_000_000_000_u64}),
                    "{mode}: {report}"
                );
                assert_eq!(report["task"]["name"], json!("task.wasm"), "{mode}");
            });
        }
    });
}
