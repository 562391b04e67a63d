//! Who is killed is asked first, has its grace, and is ended: in both modes.

use crate::support::{BOTH, builder, guest};
use std::time::{Duration, Instant};
use wrun::{Artifact, Outcome, Report, Runner, Task, TaskHandle};

/// Nobody waits for so long.
const FOREVER: Duration = Duration::from_secs(3600);
/// What takes no time, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// Submits a task, and waits until it runs.
fn started(runner: &Runner, artifact: &Artifact, grace: Duration) -> TaskHandle {
    let task = Task::new(artifact).grace(grace);
    let handle = runner.blocking_submit(task).unwrap();
    std::thread::sleep(Duration::from_millis(100));
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
        let patient = guest(&runner, "patient/patient.wasm");
        let (report, took) = killed(started(&runner, &patient, FOREVER));
        assert_eq!(
            report.outcome.output().map(|output| output.as_bytes()),
            Some(&b"cancelled in time\n"[..]),
            "{mode}: {}",
            report.outcome
        );
        assert!(took < SOON, "{mode}: {took:?}");
        // With the default, too; and by others, and when nobody wants it any more.
        let mut handle = runner.blocking_submit(Task::new(&patient)).unwrap();
        handle.killer().kill();
        let outcome = handle.blocking_report().unwrap().outcome;
        assert!(
            outcome.is_completed() || outcome == Outcome::Cancelled,
            "{mode}: before or after it began: {outcome}"
        );
        drop(started(&runner, &patient, FOREVER));
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
        let patient = guest(&runner, "patient/patient.wasm");
        let (report, _) = killed(started(&runner, &patient, Duration::ZERO));
        assert_eq!(report.outcome, Outcome::Cancelled, "{mode}: no grace");
    }
}

#[test]
fn a_task_that_cannot_hear_is_ended_at_once() {
    for mode in BOTH {
        let runner = builder(mode).max_running(1).build().unwrap();
        let endless = guest(&runner, "hostile/endless-loop-run.wat");
        let patient = guest(&runner, "patient/patient.wasm");
        let running = started(&runner, &endless, FOREVER);
        // It waits for the place of the first.
        let (report, took) = killed(started(&runner, &patient, FOREVER));
        assert_eq!(report.outcome, Outcome::Cancelled, "{mode}: in the queue");
        assert!(took < SOON, "{mode}: {took:?}");
        let (report, took) = killed(running);
        assert_eq!(report.outcome, Outcome::Cancelled, "{mode}");
        assert!(took < SOON, "{mode}: {took:?}");
    }
}

#[test]
fn the_end_of_a_runner_knows_no_grace() {
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
