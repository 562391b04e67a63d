//! `--report` writes what `docs/report.schema.json` describes, for every kind of
//! outcome in both modes, and the schema describes nothing else.

use crate::support::command::{Running, Wrun, scratch, write};
use crate::support::processes::descendants;
use crate::support::{BOTH, MODES, Schema, guest, repo, runner, within};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::time::Duration;

fn schema_text() -> Value {
    let text = fs::read_to_string(repo("docs/report.schema.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A report as a file, of a command that runs to its end.
fn report(mode: &str, options: &[&str], task: &str, args: &[&str]) -> Value {
    let scratch = scratch();
    let path = scratch.path().join("report.json");
    let ran = Wrun::mode(mode)
        .arg("--report")
        .arg(&path)
        .args(options)
        .arg(repo("guest-tasks").join(task))
        .args(args)
        .run();
    let bytes = fs::read(&path)
        .unwrap_or_else(|error| panic!("{mode}: {options:?} {task}: no report: {error}; {ran}"));
    serde_json::from_slice(&bytes).unwrap()
}

/// A report of a task that never ends by itself, after `end` ended it.
fn report_of_endless(mode: &str, end: impl FnOnce(&Running)) -> Value {
    let scratch = scratch();
    let path = scratch.path().join("report.json");
    let running = Wrun::mode(mode)
        .args(["--grace", "100ms", "--report"])
        .arg(&path)
        // A task that has said something has started.
        .arg(write_then_loop(scratch.path()))
        .start();
    let mut running = running;
    let mut byte = [0];
    let mut stdout = running.child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut stdout, &mut byte).unwrap();
    // It may have started a moment before wrun listens for signals.
    running.await_task(mode);
    end(&running);
    let ran = running.end();
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{mode}: no report: {error}; {ran}"));
    serde_json::from_slice(&bytes).unwrap()
}

fn write_then_loop(folder: &std::path::Path) -> std::path::PathBuf {
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
            (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 0) "\08\00\00\00\01\00\00\00.")
        (func (export "_start")
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
            (loop $forever (br $forever))))"#;
    crate::support::command::write(folder, "write-then-loop.wat", text)
}

#[test]
fn every_outcome_is_as_the_schema_says() {
    let schema = Schema::load();
    let mut kinds = BTreeSet::new();
    for mode in MODES {
        let cases: [(&str, &[&str], &str, &[&str]); 15] = [
            ("completed", &[], "echo/echo.wat", &[]),
            ("completed", &["--fuel", "1000000000"], "echo/echo.wat", &[]),
            (
                "completed",
                &["--max-memory", "64MiB"],
                "hostile/memory-greedy-polite.wat",
                &[],
            ),
            ("failed", &[], "hostile/fail.wat", &[]),
            ("exited", &[], "hostile/exit-code.wat", &["255"]),
            ("exited", &[], "files/files.wasm", &["read", "/etc/passwd"]),
            (
                "exited",
                &[],
                "tcp-client/tcp-client.wasm",
                &["127.0.0.1:9"],
            ),
            ("trapped", &[], "hostile/unreachable.wat", &[]),
            ("trapped", &[], "hostile/stack-overflow.wat", &[]),
            ("trapped", &[], "hostile/bad-utf8.wat", &[]),
            (
                "limit-exceeded",
                &["--timeout", "200ms"],
                "hostile/endless-loop.wat",
                &[],
            ),
            (
                "limit-exceeded",
                &["--fuel", "10000"],
                "hostile/fuel-burner.wat",
                &[],
            ),
            (
                "limit-exceeded",
                &["--max-memory", "64MiB"],
                "hostile/memory-bomb.wat",
                &[],
            ),
            (
                "limit-exceeded",
                &["--max-output", "1MiB"],
                "hostile/stdout-flood.wat",
                &[],
            ),
            (
                "limit-exceeded",
                &["--timeout", "1ns"],
                "hostile/endless-loop.wat",
                &[],
            ),
        ];
        let mut reports: Vec<(&str, Value)> = cases
            .iter()
            .map(|(kind, options, task, args)| (*kind, report(mode, options, task, args)))
            .collect();
        reports.push((
            "cancelled",
            report_of_endless(mode, |running| running.signal(Signal::TERM)),
        ));
        if mode == "process" {
            reports.push((
                "crashed",
                report_of_endless(mode, |running| {
                    let mut workers = BTreeSet::new();
                    assert!(within(Duration::from_secs(30), || {
                        workers = descendants(running.pid());
                        !workers.is_empty()
                    }));
                    for worker in workers {
                        crate::support::processes::signal(worker, Signal::KILL);
                    }
                }),
            ));
        }
        for (kind, report) in reports {
            assert_eq!(report["outcome"]["kind"], json!(kind), "{mode}: {report}");
            assert_eq!(report["mode"], json!(mode), "{report}");
            if let Err(why) = schema.check(&report) {
                panic!("{mode}: {report}\n{why}");
            }
            let has_worker = !report["stats"]["worker_pid"].is_null();
            // Whose deadline passes in the queue gets none.
            let never_ran = report["stats"]["run_ns"] == json!(0);
            assert!(
                has_worker == (mode == "process") || never_ran,
                "{mode}: worker_pid: {report}"
            );
            kinds.insert(kind);
        }
    }
    // Every form that the schema has was seen.
    let schema = schema_text();
    let known: BTreeSet<&str> = schema["properties"]["outcome"]["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|form| form["$ref"].as_str()?.strip_prefix("#/$defs/"))
        .collect();
    assert_eq!(kinds, known, "outcomes seen, and outcomes in the schema");
}

#[test]
fn the_schema_refuses_what_no_report_has() {
    let schema = Schema::load();
    let good = report("thread", &[], "echo/echo.wat", &[]);
    schema.check(&good).unwrap();
    let spoiled: [(&str, Value); 17] = [
        ("/schema", json!(2)),
        ("/task/id", json!(0)),
        ("/task/name", Value::Null),
        ("/mode", json!("fiber")),
        ("/outcome", json!({"kind": "exploded"})),
        ("/outcome", json!({"kind": "completed", "code": 0})),
        ("/outcome", json!({"kind": "exited", "code": 0})),
        (
            "/outcome",
            json!({"kind": "crashed", "message": "only processes crash"}),
        ),
        ("/stats/run_ns", json!(-1)),
        ("/stats/run_ns", json!(1.5)),
        ("/stats/worker_pid", json!(7)),
        ("/stats/start_method", json!("fork")),
        ("/stats/usage", json!({})),
        ("/jail", json!({"mode": "strict", "layers": []})),
        ("/notes", json!([""])),
        ("/notes", Value::Null),
        ("/denied", json!([{"access": "path", "target": "/x"}])),
    ];
    for (pointer, value) in spoiled {
        let mut report = good.clone();
        *report.pointer_mut(pointer).unwrap() = value;
        assert!(
            schema.check(&report).is_err(),
            "the schema accepts a wrong {pointer}: {report}"
        );
    }
    let objects = ["", "/task", "/outcome", "/stats"];
    for pointer in objects {
        let mut report = good.clone();
        report.pointer_mut(pointer).unwrap()["surprise"] = json!(1);
        assert!(
            schema.check(&report).is_err(),
            "the schema accepts an unknown field in {pointer:?}"
        );
        for key in good.pointer(pointer).unwrap().as_object().unwrap().keys() {
            let mut report = good.clone();
            let object = report.pointer_mut(pointer).unwrap().as_object_mut();
            object.unwrap().remove(key);
            assert!(
                schema.check(&report).is_err(),
                "the schema accepts a report without {pointer}/{key}"
            );
        }
    }
}

/// A report of the library, and one that it read.
#[test]
fn a_report_is_read_as_it_was_written() {
    use wrun::{Crash, Limits, Mode, Outcome, Report, Task};
    let schema = Schema::load();
    let check = |report: &Report| {
        let json = serde_json::to_value(report).unwrap();
        assert_eq!(json, report.to_json());
        schema.check(&json).unwrap();
        let again: Report = serde_json::from_str(&json.to_string()).unwrap();
        assert_eq!(again, *report, "{json}");
        json
    };
    for mode in BOTH {
        let runner = runner(mode);
        let echo = guest(&runner, "echo/echo.wat");
        let run = |task: Task| check(&runner.blocking_run(task).unwrap());
        assert!(run(Task::new(&echo)).get("stdout").is_none());
        assert_eq!(run(Task::new(&echo).input("text\n"))["stdout"], "text\n");
        let json = run(Task::new(&echo).input(&b"\xff\0"[..]));
        assert_eq!(json["stdout_base64"], "/wA=");
        let of = |path: &str, args: &[&str]| {
            let limits = Limits::default().fuel(100_000_000).max_memory(64 << 20);
            let guest = guest(&runner, path);
            let args = args.iter().copied();
            run(Task::new(&guest).args(args).limits(limits))["outcome"]["kind"].clone()
        };
        assert_eq!(of("hostile/fail.wat", &[]), "failed");
        assert_eq!(of("hostile/exit-code.wat", &["7"]), "exited");
        assert_eq!(of("hostile/div-by-zero.wat", &[]), "trapped");
        assert_eq!(of("hostile/endless-loop.wat", &[]), "limit-exceeded");
        assert_eq!(of("files/files.wasm", &["read", "/x"]), "exited");
        let mut killed = runner
            .blocking_submit(Task::new(&guest(&runner, "hostile/endless-loop.wat")))
            .unwrap();
        killed.kill();
        check(&killed.blocking_report().unwrap());
        // Reports of another version are not guessed at.
        let mut json = runner.blocking_run(Task::new(&echo)).unwrap().to_json();
        json["schema"] = json!(2);
        let error = serde_json::from_value::<Report>(json.clone()).unwrap_err();
        assert!(error.to_string().contains("version 2"), "{error}");
        json["schema"] = json!(1);
        json["added_later"] = json!(true);
        serde_json::from_value::<Report>(json.clone()).unwrap();
        for (field, value) in [("stdout", "ab"), ("stdout_base64", "!")] {
            let mut json = json.clone();
            json["stdout_bytes"] = json!(3);
            json[field] = json!(value);
            assert!(serde_json::from_value::<Report>(json).is_err(), "{field}");
        }
    }
    let said = |how| Crash::Said {
        how: Box::new(how),
        words: "first line\nsecond".to_owned(),
    };
    for crash in [
        Crash::Signal(9),
        Crash::Exit(3),
        Crash::Protocol("a frame of 2 GiB".to_owned()),
        Crash::Lost,
        said(Crash::Signal(6)),
        said(Crash::Lost),
    ] {
        let mut report = Report::new(1, "x", Mode::Process, Outcome::Crashed(crash));
        report.jail_mode = Some(wrun::Jail::BestEffort);
        report.stderr = b"\xfe".as_slice().into();
        check(&report);
    }
}

/// What a task may use, kept as text by those who submit it.
#[test]
fn limits_and_grants_are_read_as_they_were_written() {
    use serde::{Serialize, de::DeserializeOwned};
    use std::os::unix::ffi::OsStrExt;
    use wrun::{DirGrant, Limits, TcpGrant, Terminals};
    fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: T) -> Value {
        let json = serde_json::to_value(&value).unwrap();
        assert_eq!(serde_json::from_str::<T>(&json.to_string()).unwrap(), value);
        json
    }
    let limits = Limits::default()
        .timeout(Duration::from_millis(1_500))
        .fuel(7);
    check(limits.clone());
    let few: Limits = serde_json::from_value(json!({"fuel": 7})).unwrap();
    assert_eq!(few, Limits::default().fuel(7));
    assert_eq!(check(DirGrant::new("/tmp").read_only())["host"], "/tmp");
    check(DirGrant::new(std::ffi::OsStr::from_bytes(b"/tmp/\xff")).guest("/in"));
    check("[::1]:80".parse::<TcpGrant>().unwrap());
    check(Terminals::default());
}

#[test]
fn a_report_on_stdout_is_one_line_and_not_mixed_with_output() {
    let schema = Schema::load();
    let scratch = scratch();
    let folder = scratch.path();
    let task = repo("guest-tasks/hello/hello.wat");
    for mode in MODES {
        let run = |options: &[&str]| {
            let mut wrun = Wrun::mode(mode).args(options).arg(&task).stdin("you\n");
            wrun.command.current_dir(folder);
            wrun
        };
        for options in [
            &["--report", "-", "--output", "output"][..],
            &["--report", "-", "--output", "/dev/null"],
            &["--report", "/dev/stdout", "--output", "output"],
        ] {
            let ran = run(options).run();
            ran.expect_code(0, mode);
            let json = ran.text();
            let report: Value = serde_json::from_str(&json).unwrap();
            schema.check(&report).unwrap();
            assert!(json.ends_with("}\n"), "{mode}: {json:?}");
            assert_eq!(json.lines().count(), 1, "{mode}: {json:?}");
            let output = fs::read_to_string(folder.join("output")).unwrap();
            assert_eq!(output, "hello, you\n", "{mode} {options:?}");
        }
        let line = "wrun: the report and the task's output cannot both go to stdout: use --output \
                    FILE or --report FILE\n";
        for options in [
            &["--report", "-"][..],
            &["--report", "-", "--output", "-"],
            &["--report", "-", "--output", "/dev/stdout"],
            &["--report", "/dev/stdout"],
            &["--report", "/proc/self/fd/1"],
        ] {
            let ran = run(options).run();
            ran.expect_code(2, mode);
            assert_eq!(ran.stderr, line, "{mode} {options:?}");
            assert!(ran.stdout.is_empty(), "{mode} {options:?}: {ran}");
        }
        // The file that stdout is.
        let named = write(folder, "stdout", "");
        let ran = run(&["--report", "stdout"])
            .stdout_to(File::create(&named).unwrap())
            .run();
        ran.expect_code(2, mode);
        assert_eq!(ran.stderr, line, "{mode}");
        // A device that keeps nothing mixes nothing.
        let ran = run(&["--report", "/dev/null"])
            .stdout_to(File::options().write(true).open("/dev/null").unwrap())
            .run();
        ran.expect_code(0, mode);
    }
}

#[test]
fn denials_are_in_the_report_and_on_stderr() {
    for mode in MODES {
        let report = report(mode, &[], "tcp-client/tcp-client.wasm", &["127.0.0.1:9"]);
        assert_eq!(
            report["denied"],
            json!([
                {"access": "tcp-connect", "target": "127.0.0.1:9", "count": 1},
                {"access": "directories", "target": "", "count": 1},
            ]),
            "{mode}: the address of the grant, and nothing else"
        );
        let ran = Wrun::mode(mode)
            .arg("--stats")
            .arg(repo("guest-tasks/tcp-client/tcp-client.wasm"))
            .arg("127.0.0.1:9")
            .run();
        ran.expect_code(1, mode);
        assert!(
            ran.stderr.contains("--allow-tcp 127.0.0.1:9"),
            "{mode}: --stats does not say what to grant: {ran}"
        );
    }
}

#[test]
fn growth_that_was_refused_is_always_told() {
    for mode in MODES {
        let polite = "hostile/memory-greedy-polite.wat";
        let report = report(mode, &["--max-memory", "64MiB"], polite, &[]);
        assert_eq!(report["outcome"]["kind"], json!("completed"), "{report}");
        assert!(
            report["stats"]["memory_growth_refused"].as_u64() > Some(0),
            "{mode}: {report}"
        );
        assert!(
            report["stats"]["peak_memory_bytes"].as_u64() <= Some(64 << 20),
            "{mode}: {report}"
        );
    }
}

#[test]
fn a_jail_and_usage_have_their_form() {
    let schema = Schema::load();
    let mut good = report("process", &[], "echo/echo.wat", &[]);
    schema.check(&good).unwrap();
    let layers: Vec<Value> = wrun::Layer::ALL
        .iter()
        .map(|layer| json!({"layer": layer.name(), "state": "enforced", "detail": "all of it"}))
        .collect();
    good["jail"] = json!({"mode": "best-effort", "layers": layers});
    good["stats"]["start_method"] = json!("fork");
    good["stats"]["usage"] = json!({
        "user_cpu_ns": 1,
        "system_cpu_ns": 1,
        "peak_rss_bytes": 1,
        "minor_faults": 1,
        "major_faults": 0,
        "voluntary_switches": 0,
        "involuntary_switches": 0,
    });
    good["notes"] = json!(["a note"]);
    schema.check(&good).unwrap();
    for (pointer, value) in [
        ("/jail/mode", json!("moderate")),
        ("/jail/layers", Value::Null),
        ("/jail/layers/0/layer", json!("moat")),
        ("/jail/layers/0/state", json!("whole")),
        ("/jail/layers/0/detail", Value::Null),
        ("/stats/start_method", json!("clone")),
        ("/stats/usage/user_cpu_ns", json!(-1)),
        ("/stats/usage", json!({"user_cpu_ns": 1})),
        ("/notes", json!([""])),
    ] {
        let mut report = good.clone();
        *report.pointer_mut(pointer).unwrap() = value;
        assert!(
            schema.check(&report).is_err(),
            "the schema accepts a wrong {pointer}: {report}"
        );
    }
}
