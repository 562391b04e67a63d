//! A task that is killed is cancelled first, has its grace, and is ended: in both modes.

use crate::support::guests::PRINTS_AND_LOOPS;
use crate::support::{BOTH, await_progress, begun_printing, builder, guest, wat};
use std::time::{Duration, Instant};
use wrun::{Artifact, Outcome, Report, Runner, Task, TaskHandle};

/// No test waits this long.
const FOREVER: Duration = Duration::from_secs(3600);
/// What takes no time, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// Submits a task that reports progress, and waits until it has.
fn started(runner: &Runner, artifact: &Artifact, grace: Duration) -> TaskHandle {
    // A guest that has several verbs waits for its cancellation with this one.
    let task = Task::new(artifact).input("hold l").grace(grace);
    let handle = runner.blocking_submit(task).unwrap();
    await_progress(&handle);
    handle
}

fn killed(mut handle: TaskHandle) -> (Report, Duration) {
    let began = Instant::now();
    handle.kill();
    let report = handle.blocking_report().unwrap();
    (report, began.elapsed())
}

#[test]
fn a_task_that_listens_ends_by_itself() {
    for mode in BOTH {
        let runner = builder(mode).build().unwrap();
        let holder = guest(&runner, "commons/commons.wasm");
        let (report, took) = killed(started(&runner, &holder, FOREVER));
        assert_eq!(
            report.outcome.output().map(|output| output.as_bytes()),
            Some(&b"held"[..]),
            "{mode}: {}",
            report.outcome
        );
        assert!(took < SOON, "{mode}: {took:?}");
        // With the default, too; by a killer, and when its handle is dropped.
        let patient = guest(&runner, "patient/patient.wasm");
        let mut handle = runner.blocking_submit(Task::new(&patient)).unwrap();
        handle.killer().kill();
        let outcome = handle.blocking_report().unwrap().outcome;
        assert!(
            outcome.is_completed() || outcome == Outcome::Cancelled,
            "{mode}: before or after it began: {outcome}"
        );
        drop(started(&runner, &holder, FOREVER));
        runner.blocking_shutdown().unwrap();
    }
}

#[test]
fn a_task_that_does_not_listen_is_ended_after_its_grace() {
    for mode in BOTH {
        let runner = builder(mode).build().unwrap();
        let deaf = guest(&runner, "hostile/deaf-to-cancel.wat");
        for grace in [Duration::from_millis(300), Duration::ZERO] {
            let (report, took) = killed(started(&runner, &deaf, grace));
            assert_eq!(report.outcome, Outcome::Cancelled, "{mode}");
            assert!(grace <= took && took < SOON, "{mode}: {took:?}");
        }
        let holder = guest(&runner, "commons/commons.wasm");
        let (report, _) = killed(started(&runner, &holder, Duration::ZERO));
        assert_eq!(report.outcome, Outcome::Cancelled, "{mode}: no grace");
    }
}

#[test]
fn a_task_that_cannot_hear_is_ended_at_once() {
    for mode in BOTH {
        let runner = builder(mode).max_running(1).build().unwrap();
        let endless = wat(&runner, "endless", PRINTS_AND_LOOPS);
        let patient = guest(&runner, "patient/patient.wasm");
        let task = Task::new(&endless).grace(FOREVER);
        let (running, _stdout) = begun_printing(&runner, task);
        // It waits for the place of the first.
        let queued = Task::new(&patient).grace(FOREVER);
        let (report, took) = killed(runner.blocking_submit(queued).unwrap());
        assert_eq!(report.outcome, Outcome::Cancelled, "{mode}: in the queue");
        assert!(took < SOON, "{mode}: {took:?}");
        let (report, took) = killed(running);
        assert_eq!(report.outcome, Outcome::Cancelled, "{mode}");
        assert!(took < SOON, "{mode}: {took:?}");
    }
}

#[test]
fn the_end_of_a_runner_gives_no_grace() {
    for mode in BOTH {
        let runner = builder(mode).build().unwrap();
        let deaf = guest(&runner, "hostile/deaf-to-cancel.wat");
        let handle = started(&runner, &deaf, FOREVER);
        let began = Instant::now();
        handle.kill();
        drop(runner);
        assert!(began.elapsed() < SOON, "{mode}: {:?}", began.elapsed());
    }
}
