//! What a dying worker writes to its stderr reaches the submitter of the task, and harms
//! no other task: a panic of the host's code, an allocator's complaint.

use crate::support::command::Wrun;
use crate::support::{Schema, builder, repo, still_works, wat};
use serde_json::{Value, json};
use wrun::{Crash, Jail, Limits, Mode, Outcome, ProcessOptions, Report, Runner, Start, Task};

const TASK: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

/// Has the host's code in a worker misbehave.
fn probe(runner: &Runner, request: &str) -> Report {
    let task = wat(runner, "probe", TASK);
    let limits = Limits::default().timeout(std::time::Duration::from_secs(60));
    let task = Task::new(&task)
        .env("WRUN_TEST_PROBE", request)
        .limits(limits);
    runner.blocking_run(task).unwrap()
}

#[track_caller]
fn crash(report: &Report) -> &Crash {
    match &report.outcome {
        Outcome::Crashed(crash) => crash,
        other => panic!("no crash: {other}"),
    }
}

#[test]
fn a_panic_in_a_worker_arrives_with_its_message() {
    for start in [Start::Fork, Start::Exec] {
        for jail in [Jail::Strict, Jail::BestEffort, Jail::Off] {
            let what = format!("{start:?} {jail:?}");
            let runner =
                builder(Mode::Process).process(ProcessOptions::default().start(start).jail(jail));
            let runner = runner.build().unwrap();
            let report = probe(&runner, "panic-outside:boom \u{1b}[31m\u{7} bang");
            let crash = crash(&report);
            assert_eq!(crash.how(), &Crash::Exit(101), "{what}");
            let words = crash.words().unwrap();
            assert!(words.starts_with("panicked at "), "{what}: {words:?}");
            assert!(
                words.ends_with(": boom \u{fffd}[31m\u{fffd} bang"),
                "{what}: {words:?}"
            );
            let line = report.outcome.to_string();
            let start = "crashed: the worker exited with status 101; it said: panicked at ";
            assert!(
                line.starts_with(start) && line.ends_with(" bang"),
                "{what}: {line}"
            );
            let json = report.to_json();
            Schema::load().check(&json).unwrap();
            assert_eq!(json["outcome"]["worker_stderr"], json!(words), "{what}");
            assert_eq!(json["outcome"]["status"], json!(101), "{what}");
            still_works(&runner);
        }
    }
}

#[test]
fn words_before_an_abort_arrive_cut_and_silence_is_none() {
    for start in [Start::Fork, Start::Exec] {
        let runner = builder(Mode::Process)
            .process(ProcessOptions::default().start(start))
            .build()
            .unwrap();
        let report = probe(&runner, "say:corrupted\u{7} heap\nof nobody");
        let said = crash(&report);
        assert!(
            matches!(said.how(), Crash::Signal(6 | 11)),
            "{start:?}: {said}"
        );
        assert_eq!(
            said.words(),
            Some("corrupted\u{fffd} heap\nof nobody"),
            "{start:?}"
        );
        let line = said.to_string();
        assert!(
            line.ends_with("; it said: corrupted\u{fffd} heap / of nobody"),
            "{line}"
        );

        let long = format!("say:begin {} end", "x".repeat(60_000));
        let report = probe(&runner, &long);
        let words = crash(&report).words().unwrap();
        assert!(words.len() <= 4096, "{}", words.len());
        assert!(
            words.starts_with("begin x") && words.ends_with("x end"),
            "{start:?}"
        );
        assert!(report.outcome.to_string().len() < 1000);
        Schema::load().check(&report.to_json()).unwrap();

        let report = probe(&runner, "abort");
        let silent = crash(&report);
        assert_eq!((silent.how(), silent.words()), (silent, None), "{start:?}");
        assert_eq!(report.to_json()["outcome"]["worker_stderr"], Value::Null);
        still_works(&runner);
    }
}

/// More than a pipe holds: the worker waits for its runner, and not for ever.
#[test]
fn a_worker_that_says_much_and_lives_goes_on() {
    for start in [Start::Fork, Start::Exec] {
        let runner = builder(Mode::Process)
            .process(ProcessOptions::default().start(start))
            .build()
            .unwrap();
        let report = probe(&runner, "say-much:x");
        assert_eq!(
            report.outcome,
            Outcome::Failed("did it: said".into()),
            "{start:?}"
        );
        still_works(&runner);
    }
}

#[test]
fn the_command_prints_it() {
    for start in ["fork", "exec"] {
        let ran = Wrun::mode("process")
            .args([
                "--start",
                start,
                "--env",
                "WRUN_TEST_PROBE=panic-outside:boom\u{1b}[31m",
            ])
            .arg(repo("guest-tasks/echo/echo.wat"))
            .run();
        // Not `expect_code`, which takes a panic for a fault of `wrun`.
        let text = &ran.stderr;
        assert_eq!(ran.code(), 125, "{start}: {text}");
        let words = "the task crashed: the worker exited with status 101; it said: panicked at ";
        assert!(text.contains(words), "{text}");
        assert!(
            text.contains(": boom\u{fffd}[31m") && !text.contains('\u{1b}'),
            "{text:?}"
        );
    }
}
