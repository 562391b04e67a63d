//! Many tasks in a batch, in both modes: each has one report, whatever becomes of the others, and
//! a batch that is dropped leaves nothing.

use crate::support::guests::PRINTS_AND_LOOPS;
use crate::support::{BOTH, alone, children, eventually, guest, runner, still_works, wat};
use std::collections::HashMap;
use std::time::Duration;
use wrun::{Batch, Error, ErrorKind, Limit, Limits, Outcome, Report, Stdio, Task, TrapKind};

const SOON: Duration = Duration::from_secs(20);
const TRAPS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;

type Tasks = Batch<(u32, Task), (u32, Result<Report, Error>)>;

/// Where the owner of a batch runs.
fn here<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap().block_on(future)
}

/// All reports, by key.
fn reports(batch: &mut Tasks) -> HashMap<u32, Result<Report, Error>> {
    let mut all = HashMap::new();
    here(async {
        while let Some((key, report)) = batch.next().await {
            assert!(all.insert(key, report).is_none(), "{key} twice");
        }
    });
    all
}

/// One that traps, one that never ends, and one that cannot be run are between others.
#[test]
fn each_task_has_its_report() {
    for mode in BOTH {
        let runner = runner(mode);
        let echo = guest(&runner, "echo/echo.wat");
        let loops = wat(&runner, "loops", PRINTS_AND_LOOPS);
        let traps = wat(&runner, "traps", TRAPS);
        let mut batch = runner.batch(2, 200);
        let short = Limits::default().timeout(Duration::from_millis(300));
        for key in 0..200_u32 {
            let task = match key {
                50 => Task::new(&loops).limits(short.clone()),
                51 => Task::new(&traps),
                52 => Task::new(&echo).stdout(Stdio::Stream),
                _ => Task::new(&echo).input(format!("number {key}")),
            };
            assert!(batch.push((key, task)).is_ok());
        }
        assert!(batch.is_full());
        assert!(batch.push((200, Task::new(&echo))).is_err());
        let mut all = reports(&mut batch);
        assert_eq!(all.len(), 200, "{mode}");
        let ended = all.remove(&50).unwrap().unwrap();
        let limit = Outcome::LimitExceeded(Limit::Deadline);
        assert_eq!((ended.outcome, ended.mode), (limit, mode));
        assert_eq!(ended.stdout, "before it loops");
        let Outcome::Trapped(trap) = all.remove(&51).unwrap().unwrap().outcome else {
            panic!("{mode}: it did not trap");
        };
        assert_eq!(trap.kind, TrapKind::Unreachable);
        let error = all.remove(&52).unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTask);
        for (key, report) in all {
            assert_eq!(report.unwrap().stdout, format!("number {key}"), "{mode}");
        }
    }
}

/// A guest that computes does not keep those waiting that its driver took along.
#[test]
fn a_task_that_computes_makes_no_other_wait() {
    for mode in BOTH {
        let runner = runner(mode);
        let echo = guest(&runner, "echo/echo.wat");
        let loops = wat(&runner, "loops", PRINTS_AND_LOOPS);
        let mut batch = runner.batch(2, 400);
        for key in 0..400 {
            let task = match key {
                200 => Task::new(&loops),
                _ => Task::new(&echo).input("words"),
            };
            assert!(batch.push((key, task)).is_ok());
        }
        here(async {
            for _ in 0..399 {
                let next = tokio::time::timeout(SOON, batch.next()).await;
                let (key, report) = next.expect("a report").unwrap();
                assert_eq!(report.unwrap().stdout, "words", "{mode}");
                assert_ne!(key, 200);
            }
        });
        assert_eq!((batch.len(), runner.stats().running), (1, 1), "{mode}");
        drop(batch);
        eventually("it has ended", SOON, || runner.stats().running == 0);
        still_works(&runner);
    }
}

#[test]
fn dropping_it_or_its_runner_ends_the_tasks() {
    alone("batch::dropping_it_or_its_runner_ends_the_tasks", || {
        for mode in BOTH {
            for drops_batch in [true, false] {
                let before = children();
                let runner = runner(mode);
                let loops = wat(&runner, "loops", PRINTS_AND_LOOPS);
                let mut batch = runner.batch(2, 10);
                for key in 0..10_u32 {
                    assert!(batch.push((key, Task::new(&loops))).is_ok());
                }
                eventually("two run", SOON, || runner.stats().running == 2);
                if drops_batch {
                    drop(batch);
                    eventually("none runs", SOON, || runner.stats().running == 0);
                    still_works(&runner);
                    drop(runner);
                } else {
                    drop(runner);
                    let all = reports(&mut batch);
                    for report in all.into_values() {
                        match report {
                            Ok(report) => assert_eq!(report.outcome, Outcome::Cancelled),
                            Err(error) => assert_eq!(error.kind(), ErrorKind::ShutDown),
                        }
                    }
                    assert!(batch.is_empty());
                    // Without its runner it runs nothing.
                    let _ = batch.push((10, Task::new(&loops)));
                    assert!(reports(&mut batch).is_empty());
                    assert!(batch.is_full());
                }
                eventually("no process is left", SOON, || children() == before);
            }
        }
    });
}
