//! Tasks that are run on the runner's own runtime, where each is driven in the place of its
//! caller, in both modes.

use crate::support::guests::PRINTS_AND_LOOPS;
use crate::support::{BOTH, alone, children, eventually, guest, runner, still_works, wat};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use wrun::{ErrorKind, Limit, Limits, LockMode, Outcome, Stdio, Task};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn what_is_run_there_ends_as_elsewhere() {
    for mode in BOTH {
        let runner = Arc::new(runner(mode));
        let echo = guest(&runner, "echo/echo.wat");
        let loops = wat(&runner, "loops", PRINTS_AND_LOOPS);
        let short = Limits::default().timeout(Duration::from_millis(100));
        let (sender, receiver) = mpsc::channel();
        let there = runner.clone();
        runner.runtime().spawn(async move {
            let tasks = [
                Task::new(&echo).input("words"),
                Task::new(&loops).limits(short),
                Task::new(&echo).input("more words"),
                Task::new(&echo).stdout(Stdio::Stream),
            ];
            for task in tasks {
                sender.send(there.run(task).await).unwrap();
            }
        });
        let next = || receiver.recv_timeout(SOON).unwrap();
        assert_eq!(next().unwrap().stdout, "words");
        let report = next().unwrap();
        let limit = Outcome::LimitExceeded(Limit::Deadline);
        assert_eq!((&report.outcome, report.mode), (&limit, mode));
        assert_eq!(report.stdout, "before it loops");
        assert_eq!(next().unwrap().stdout, "more words");
        assert_eq!(next().unwrap_err().kind(), ErrorKind::InvalidTask);
        eventually("all have ended", SOON, || runner.stats().running == 0);
    }
}

/// Two run at a time, and one that computes does not keep the other waiting.
#[test]
fn they_run_beside_each_other() {
    for mode in BOTH {
        let runner = Arc::new(runner(mode));
        let echo = guest(&runner, "echo/echo.wat");
        let loops = wat(&runner, "loops", PRINTS_AND_LOOPS);
        let (there, spinning) = (runner.clone(), runner.clone());
        let spinning = runner
            .runtime()
            .spawn(async move { spinning.run(Task::new(&loops)).await });
        eventually("it runs", SOON, || runner.stats().running == 1);
        let (sender, receiver) = mpsc::channel();
        runner.runtime().spawn(async move {
            for _ in 0..20 {
                sender.send(there.run(Task::new(&echo)).await).unwrap();
            }
        });
        for _ in 0..20 {
            receiver.recv_timeout(SOON).unwrap().unwrap();
        }
        assert!(!spinning.is_finished());
        spinning.abort();
        eventually("it was ended", SOON, || runner.stats().running == 0);
    }
}

#[test]
fn a_dropped_one_is_killed_and_releases_what_it_holds() {
    for mode in BOTH {
        let runner = Arc::new(runner(mode));
        let commons = guest(&runner, "commons/commons.wasm");
        let there = runner.clone();
        let holding = runner.runtime().spawn(async move {
            let task = Task::new(&commons).input("shared l");
            there.run(task.grace(Duration::ZERO)).await
        });
        eventually("it holds the lock", SOON, || {
            let got = runner.try_lock("l", LockMode::Exclusive).unwrap();
            got.is_none()
        });
        holding.abort();
        eventually("the lock is free", SOON, || {
            let got = runner.try_lock("l", LockMode::Exclusive).unwrap();
            got.is_some()
        });
        eventually("it has ended", SOON, || runner.stats().running == 0);
        still_works(&runner);
    }
}

/// What an embedder shares between threads can be shared.
#[test]
fn handles_are_for_any_thread() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<wrun::Runner>();
    is_shared::<wrun::TaskHandle>();
    is_shared::<wrun::Killer>();
    is_shared::<wrun::ProgressWatch>();
}

#[test]
fn a_report_that_is_looked_for_leaves_the_streams() {
    for mode in BOTH {
        let runner = runner(mode);
        let echo = guest(&runner, "echo/echo.wat");
        let task = Task::new(&echo).input("words").stdout(Stdio::Stream);
        let mut handle = runner.blocking_submit(task).unwrap();
        eventually("it ends by itself", SOON, || handle.try_report().is_some());
        let taken = handle.blocking_report().unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::ReportTaken);
        let mut stream = handle.take_stdout().unwrap();
        assert_eq!(stream.blocking_next_chunk().unwrap(), "words");
    }
}

#[test]
fn a_task_submitted_there_is_driven_by_who_waits_for_it() {
    for mode in BOTH {
        let runner = Arc::new(runner(mode));
        let echo = guest(&runner, "echo/echo.wat");
        let loops = wat(&runner, "loops", PRINTS_AND_LOOPS);
        let (sender, handles) = mpsc::channel();
        let there = runner.clone();
        let again = echo.clone();
        let waiting = runner.runtime().spawn(async move {
            let mut handle = there
                .try_submit_here(Task::new(&again).input("words"))
                .unwrap();
            assert!(handle.try_report().is_none(), "nobody has driven it");
            assert_eq!(handle.report().await.unwrap().stdout, "words");
            let taken = handle.report().await.unwrap_err();
            assert_eq!(taken.kind(), ErrorKind::ReportTaken);
            let taken = handle.try_report().unwrap().unwrap_err();
            assert_eq!(taken.kind(), ErrorKind::ReportTaken);
            // Waited for, and given up: it is killed, by the runtime.
            let mut given_up = there.try_submit_here(Task::new(&loops)).unwrap();
            let short = Duration::from_millis(20);
            let report = tokio::time::timeout(short, given_up.report()).await;
            assert!(report.is_err(), "it never ends");
            assert!(given_up.try_report().is_none());
            drop(given_up);
            // Never waited for, it has not begun.
            drop(there.try_submit_here(Task::new(&loops)).unwrap());
            // What is left of it, another thread waits for.
            let task = Task::new(&again).input("elsewhere");
            sender.send(there.try_submit_here(task).unwrap()).unwrap();
            // Nobody does.
            let task = Task::new(&again).input("alone").stdout(Stdio::Stream);
            let mut handle = there.try_submit_here(task).unwrap();
            let mut stream = handle.take_stdout().unwrap();
            handle.detach();
            stream.next_chunk().await.unwrap()
        });
        let mut handle = handles.recv_timeout(SOON).unwrap();
        assert_eq!(handle.blocking_report().unwrap().stdout, "elsewhere");
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let alone = runtime.unwrap().block_on(waiting).unwrap();
        assert_eq!(alone, "alone");
        // On no runtime it is submitted as any other.
        let task = Task::new(&echo).input("plain");
        let mut handle = runner.try_submit_here(task).unwrap();
        eventually("it ends by itself", SOON, || {
            let report = handle.try_report();
            report.is_some_and(|report| report.unwrap().stdout == "plain")
        });
        eventually("all have ended", SOON, || runner.stats().running == 0);
        still_works(&runner);
    }
}

#[test]
fn a_runner_that_is_dropped_on_its_own_thread_leaves_nothing() {
    alone(
        "in_place::a_runner_that_is_dropped_on_its_own_thread_leaves_nothing",
        || {
            for mode in BOTH {
                let runner = Arc::new(runner(mode));
                let echo = guest(&runner, "echo/echo.wat");
                let loops = wat(&runner, "loops", PRINTS_AND_LOOPS);
                let runtime = runner.runtime();
                let (sender, receiver) = mpsc::channel();
                runtime.spawn(async move {
                    runner.run(Task::new(&echo)).await.unwrap();
                    // One runs when the runner is dropped.
                    let handle = runner.submit(Task::new(&loops)).await.unwrap();
                    while runner.stats().running == 0 {
                        tokio::task::yield_now().await;
                    }
                    drop(runner);
                    // What waits on the runtime ends with it: others take the report.
                    sender.send(handle).unwrap();
                });
                let mut handle = receiver.recv_timeout(SOON).unwrap();
                let report = handle.blocking_report().unwrap();
                assert_eq!(report.outcome, Outcome::Cancelled);
                // The clock of all runners of a process stays.
                eventually("no process and no thread of it is left", SOON, || {
                    let threads = std::fs::read_dir("/proc/self/task").unwrap();
                    let names = threads
                        .flatten()
                        .filter_map(|it| std::fs::read_to_string(it.path().join("comm")).ok());
                    let left = names
                        .into_iter()
                        .any(|name| ["wrun", "wrun-drop"].contains(&name.trim()));
                    children().is_empty() && !left
                });
            }
        },
    );
}
