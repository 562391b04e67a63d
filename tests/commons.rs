//! What all tasks of one runner share by name: locks and broadcast channels.

use crate::support::processes::{descendants, leaves, serves, signal_below};
use crate::support::{
    BOTH, Census, alone, assert_nothing_left, builder, eventually, guest, still_works, within,
};
use rustix::process::Signal;
use std::time::Duration;
use wrun::{
    Artifact, ErrorKind, Limit, Limits, LockMode, Message, Mode, Outcome, PortError,
    ProcessOptions, Runner, Task, TaskHandle,
};

/// What takes no time, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

fn load(mode: Mode) -> (Runner, Artifact) {
    let runner = builder(mode)
        .process(ProcessOptions::default().spares(0))
        .max_running(16)
        .build()
        .unwrap();
    let commons = guest(&runner, "commons/commons.wasm");
    (runner, commons)
}

fn start(runner: &Runner, commons: &Artifact, what: &str) -> TaskHandle {
    let limits = Limits::default().max_memory(64 << 20).timeout(2 * SOON);
    let task = Task::new(commons).input(what).limits(limits);
    let task = task.grace(Duration::ZERO);
    runner.blocking_submit(task).unwrap()
}

/// A task that has done what it says first.
fn begun(runner: &Runner, commons: &Artifact, what: &str) -> TaskHandle {
    let handle = start(runner, commons, what);
    assert!(within(SOON, || handle.progress().done > 0), "{what}");
    handle
}

fn output(mut handle: TaskHandle) -> String {
    let report = handle.blocking_report().unwrap();
    assert!(
        report.outcome.is_completed(),
        "{} mode: {}: {}",
        report.mode,
        report.outcome,
        String::from_utf8_lossy(&report.stderr)
    );
    String::from_utf8(report.stdout.to_vec()).unwrap()
}

#[test]
fn one_at_a_time_has_a_lock() {
    for mode in BOTH {
        let (runner, commons) = load(mode);
        let tasks: Vec<_> = (0..6)
            .map(|_| start(&runner, &commons, "turns l 100"))
            .collect();
        for task in tasks {
            assert_eq!(output(task), "100 turns", "{mode}");
        }
    }
}

#[test]
fn host_and_tasks_exclude_each_other() {
    for mode in BOTH {
        let (runner, commons) = load(mode);
        let tasks: Vec<_> = (0..3)
            .map(|_| start(&runner, &commons, "turns l 100"))
            .collect();
        for turn in 0..100 {
            let held = runner.blocking_lock("l", LockMode::Exclusive).unwrap();
            let alone = runner.try_lock("l,", LockMode::Exclusive).unwrap();
            let within = runner.try_lock("l, within", LockMode::Exclusive).unwrap();
            let alone = (alone.is_some(), within.is_some());
            assert_eq!(alone, (true, true), "{mode}: turn {turn}");
            drop((within, held));
        }
        for task in tasks {
            assert_eq!(output(task), "100 turns", "{mode}");
        }

        // Shared is with others, in the order of asking.
        let free = |how| runner.try_lock("s", how).unwrap().is_some();
        let held = runner.blocking_lock("s", LockMode::Shared).unwrap();
        let with = begun(&runner, &commons, "shared s");
        assert!(
            free(LockMode::Shared) && !free(LockMode::Exclusive),
            "{mode}"
        );
        let alone = start(&runner, &commons, "take s");
        assert!(within(SOON, || !free(LockMode::Shared)), "{mode}");
        drop(held);
        with.cancel();
        assert_eq!(output(with), "shared", "{mode}");
        assert_eq!(output(alone), "taken", "{mode}");
        assert!(within(SOON, || free(LockMode::Exclusive)), "{mode}");

        // A guard keeps the lock, whatever becomes of the task that requested it.
        let held = runner.blocking_lock("s", LockMode::Exclusive).unwrap();
        let mut killed = start(&runner, &commons, "take s");
        killed.kill();
        assert_eq!(
            killed.blocking_report().unwrap().outcome,
            Outcome::Cancelled,
            "{mode}"
        );
        assert!(!free(LockMode::Shared), "{mode}");
        drop(held);
        assert!(free(LockMode::Exclusive), "{mode}");
        still_works(&runner);
    }
}

#[test]
fn the_host_gives_up_waiting_and_is_told_of_bad_names() {
    for mode in BOTH {
        let (runner, commons) = load(mode);
        let holder = begun(&runner, &commons, "shared l");
        let asynchronous = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        asynchronous.block_on(async {
            let waiting = runner.lock("l", LockMode::Exclusive);
            let moment = Duration::from_millis(50);
            assert!(
                tokio::time::timeout(moment, waiting).await.is_err(),
                "{mode}"
            );
            // No task waits any more: others may acquire it too.
            assert!(runner.try_lock("l", LockMode::Shared).unwrap().is_some());
            let error = runner.blocking_lock("l", LockMode::Shared).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BlockingInAsync);
        });
        let mut waiting = std::pin::pin!(runner.lock("l", LockMode::Exclusive));
        let moment = Duration::from_millis(50);
        asynchronous.block_on(async {
            let early = tokio::time::timeout(moment, waiting.as_mut()).await;
            assert!(early.is_err(), "{mode}");
            holder.cancel();
            let held = tokio::time::timeout(SOON, waiting).await.unwrap();
            drop(held.unwrap());
        });
        assert_eq!(output(holder), "shared", "{mode}");
        for name in ["", &"x".repeat(257)] {
            let error = runner.try_lock(name, LockMode::Shared).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidTask, "{name}");
        }
        let mut all = Vec::new();
        let error = loop {
            match runner.try_lock("many", LockMode::Shared) {
                Ok(held) => all.push(held.unwrap()),
                Err(error) => break error,
            }
        };
        assert_eq!((all.len(), error.kind()), (1 << 16, ErrorKind::System));
        drop(all);
        assert_eq!(output(start(&runner, &commons, "take many")), "taken");
    }
}

/// A task that was cancelled while it waited, and lives on, delays no other task: not until
/// its turn would come, and not then.
#[test]
fn a_wait_that_was_given_up_delays_no_task() {
    for mode in BOTH {
        let (runner, commons) = load(mode);
        let held = runner.blocking_lock("l", LockMode::Shared).unwrap();
        let free = || runner.try_lock("l", LockMode::Shared).unwrap().is_some();
        let tires: Vec<_> = (0..4)
            .map(|_| begun(&runner, &commons, "tires l"))
            .collect();
        // None is available while a task waits to have it alone.
        assert!(within(SOON, || !free()), "{mode}");
        for task in &tires {
            task.cancel();
        }
        for task in &tires {
            let went_on = within(SOON, || task.progress().done == 2);
            assert!(went_on, "{mode}: {:?}", task.progress());
        }
        assert!(within(SOON, free), "{mode}: they still wait");
        drop(held);
        for _ in 0..100 {
            let now = runner.try_lock("l", LockMode::Exclusive).unwrap();
            assert!(now.is_some(), "{mode}");
        }
        for mut task in tires {
            task.kill();
            assert_eq!(task.blocking_report().unwrap().outcome, Outcome::Cancelled);
        }
        still_works(&runner);
    }
}

#[test]
fn the_end_of_a_task_gives_its_locks_back_however_it_ends() {
    alone(
        "commons::the_end_of_a_task_gives_its_locks_back_however_it_ends",
        || {
            for mode in BOTH {
                let (runner, commons) = load(mode);
                let take = || start(&runner, &commons, "take l");
                // Completed, trapped, killed, at its deadline.
                assert_eq!(output(take()), "taken");
                let report = start(&runner, &commons, "trap l")
                    .blocking_report()
                    .unwrap();
                assert_eq!(report.outcome.kind(), "trapped");
                assert_eq!(output(take()), "taken", "{mode}");
                // Killed while another task waits for the lock: that one requests it right after
                // its progress.
                let mut holder = begun(&runner, &commons, "hold l");
                let mut waiting = begun(&runner, &commons, "tires l");
                holder.kill();
                assert_eq!(
                    holder.blocking_report().unwrap().outcome,
                    Outcome::Cancelled
                );
                let acquired = Outcome::Failed("Ok(())".into());
                assert_eq!(
                    waiting.blocking_report().unwrap().outcome,
                    acquired,
                    "{mode}"
                );
                // A shared lock is refused once another task waits to have it alone.
                let is_waited_for = || runner.try_lock("l", LockMode::Shared).unwrap().is_none();
                let mut holder = begun(&runner, &commons, "shared l");
                let waiting = take();
                eventually("it waits for the lock", SOON, is_waited_for);
                holder.kill();
                assert_eq!(
                    holder.blocking_report().unwrap().outcome,
                    Outcome::Cancelled
                );
                assert_eq!(output(waiting), "taken", "{mode}");
                let limits = Limits::default().timeout(Duration::from_millis(500));
                let task = Task::new(&commons).input("hold l").limits(limits.clone());
                let report = runner.blocking_run(task).unwrap();
                assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Deadline));
                assert_eq!(output(take()), "taken", "{mode}");

                // A task that waits ends at its deadline, is told to stop, and delays no other
                // task.
                let holder = begun(&runner, &commons, "hold l");
                let task = Task::new(&commons).input("take l").limits(limits);
                let report = runner.blocking_run(task).unwrap();
                assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Deadline));
                let stopped = begun(&runner, &commons, "tires l");
                let killed = begun(&runner, &commons, "tires l");
                stopped.cancel();
                eventually("it gives up", SOON, || stopped.progress().done == 2);
                for mut task in [stopped, killed] {
                    task.kill();
                    assert_eq!(task.blocking_report().unwrap().outcome, Outcome::Cancelled);
                }
                holder.cancel();
                assert_eq!(output(holder), "held");
                let holder = begun(&runner, &commons, "shared l");
                let mut stopped = take();
                eventually("it waits for the lock", SOON, is_waited_for);
                stopped.cancel();
                let outcome = stopped.blocking_report().unwrap().outcome;
                assert_eq!(outcome, Outcome::Failed("cancelled".into()), "{mode}");
                eventually("nothing waits for the lock", SOON, || !is_waited_for());
                let mut killed = take();
                eventually("it waits for the lock", SOON, is_waited_for);
                killed.kill();
                assert_eq!(
                    killed.blocking_report().unwrap().outcome,
                    Outcome::Cancelled
                );
                holder.cancel();
                assert_eq!(output(holder), "shared");
                assert_eq!(output(take()), "taken", "{mode}");

                if mode == Mode::Process {
                    let mut holder = begun(&runner, &commons, "hold l");
                    for pid in leaves(std::process::id().cast_signed()) {
                        signal_below(pid, Signal::KILL);
                    }
                    assert_eq!(holder.blocking_report().unwrap().outcome.kind(), "crashed");
                    assert_eq!(output(take()), "taken", "{mode}");
                }
                still_works(&runner);
            }
        },
    );
}

#[test]
fn a_new_attempt_has_no_lock_of_the_one_before() {
    alone(
        "commons::a_new_attempt_has_no_lock_of_the_one_before",
        || {
            let (runner, commons) = load(Mode::Process);
            let task = |what: &str| Task::new(&commons).input(what.to_owned()).retries(1);
            let kill_workers = || {
                for pid in leaves(std::process::id().cast_signed()) {
                    signal_below(pid, Signal::KILL);
                }
            };
            let mut holder = runner.blocking_submit(task("hold l")).unwrap();
            assert!(within(SOON, || holder.progress().done > 0));
            let below = || descendants(std::process::id().cast_signed());
            let before = below();
            kill_workers();
            // What it reported before is forgotten before the next worker is started.
            eventually("another worker", SOON, || {
                below().difference(&before).any(|(pid, _)| serves(*pid))
            });
            assert!(within(SOON, || holder.progress().done > 0));
            holder.cancel();
            let report = holder.blocking_report().unwrap();
            assert_eq!((report.attempt, &*report.stdout), (2, &b"held"[..]));

            let mut member = runner.blocking_submit(task("lazy news")).unwrap();
            assert!(within(SOON, || member.progress().done > 0));
            kill_workers();
            let report = member.blocking_report().unwrap();
            assert_eq!((report.attempt, report.outcome.kind()), (1, "crashed"));
            let notes = report.notes.join("; ");
            assert!(notes.contains("it joined a broadcast channel"), "{notes}");
        },
    );
}

#[test]
fn what_one_sends_all_others_receive() {
    for mode in BOTH {
        let (runner, commons) = load(mode);
        let listeners: Vec<_> = (0..4)
            .map(|_| begun(&runner, &commons, "listen news 20"))
            .collect();
        let host = runner.broadcast("news").unwrap();
        assert_eq!(output(start(&runner, &commons, "tell news 10")), "told");
        for number in 0..10 {
            let got = host.blocking_receive_timeout(SOON).unwrap();
            assert_eq!(got.data, number.to_string(), "{mode}");
            let (_one, port) = runner.channel(1).unwrap();
            host.blocking_send(Message::new("host").port(port)).unwrap();
        }
        let logs: Vec<_> = listeners.into_iter().map(output).collect();
        assert_eq!(logs[0].matches("host").count(), 10, "{mode}: {}", logs[0]);
        assert!(logs.iter().all(|log| *log == logs[0]), "{mode}: {logs:?}");
        // Another name, and the same one once no task holds it any more.
        let other = runner.broadcast("other").unwrap();
        let again = runner.broadcast("other").unwrap();
        drop(host);
        other.blocking_send("x").unwrap();
        assert_eq!(
            again.blocking_receive_timeout(SOON).unwrap().data,
            "x",
            "{mode}"
        );
        assert_eq!(other.try_receive().unwrap_err(), PortError::WouldBlock);
        let error = runner.broadcast("").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidTask);
    }
}

#[test]
fn members_answer_each_other() {
    for mode in BOTH {
        let (runner, commons) = load(mode);
        let answers = begun(&runner, &commons, "answer news");
        let asks = start(&runner, &commons, "ask news 2000");
        assert_eq!(output(asks), "2000 answered", "{mode}");
        assert_eq!(output(answers), "2000 answers", "{mode}");
    }
}

#[test]
fn a_member_that_does_not_read_is_closed() {
    for mode in BOTH {
        let (runner, commons) = load(mode);
        let host = runner.broadcast("news").unwrap();
        let lazy = begun(&runner, &commons, "lazy news");
        let flood = start(&runner, &commons, "flood news");
        assert!(within(SOON, || flood.progress().done > 500), "{mode}");
        // A member that reads is not delayed by one that does not.
        lazy.cancel();
        assert_eq!(output(lazy), "64 and closed", "{mode}");
        flood.cancel();
        assert_eq!(output(flood), "flooded");
        let mut count = 0;
        while host.blocking_receive_timeout(SOON).is_ok() {
            count += 1;
        }
        assert_eq!(count, 64, "{mode}: the host did not read, either");
        still_works(&runner);
    }
}

#[test]
fn channels_and_members_have_bounds() {
    let runner = builder(Mode::Thread).build().unwrap();
    let all: Vec<_> = (0..128).map(|_| runner.broadcast("a").unwrap()).collect();
    assert_eq!(runner.broadcast("a").unwrap_err().kind(), ErrorKind::System);
    drop(all);
    // A member that is gone counts until its end is noticed.
    let mut ports = Vec::new();
    let all_again = within(SOON, || {
        while let Ok(port) = runner.broadcast(&ports.len().to_string()) {
            ports.push(port);
        }
        ports.len() == 128
    });
    assert!(all_again, "{} of 128", ports.len());
}

#[test]
fn nothing_is_left_of_what_was_shared() {
    alone("commons::nothing_is_left_of_what_was_shared", || {
        for mode in BOTH {
            let before = Census::after_a_first_runner(mode);
            let (runner, commons) = load(mode);
            for round in 0..12 {
                let what = ["hold l", "lazy news", "listen news 3", "alone"][round % 4];
                match what {
                    "alone" => drop(output(start(&runner, &commons, what))),
                    _ => {
                        let mut task = begun(&runner, &commons, what);
                        task.kill();
                        task.blocking_report().unwrap();
                    }
                }
            }
            let host = runner.broadcast("news").unwrap();
            drop(runner);
            drop((host, commons));
            assert_nothing_left(&before, "locks and broadcast channels");
        }
    });
}
