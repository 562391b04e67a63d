//! Nothing stays behind: no process, descriptor, mapping, thread, temporary file
//! or memory, whatever happens to tasks, workers and runners. Each test has a
//! process of its own to look at.

use crate::support::guests::ANNOUNCES;
use crate::support::processes::{signal_below, workers};
use crate::support::{
    BOTH, Census, Dice, SetOnDrop, alone, assert_nothing_left, builder, children, guest, mappings,
    runner, settled, status_kib, still_works, wat,
};
use std::time::{Duration, Instant};
use wrun::{Crash, Killer, Limit, Limits, Mode, Outcome, ProcessOptions, Runner, Task, TaskHandle};

// --- many small tasks -----------------------------------------------------

/// Tasks through one runner, some of them at once, of every small kind.
fn small_tasks(mode: Mode, count: usize) {
    const AT_ONCE: usize = 16;
    let before = Census::after_a_first_runner(mode);
    let runner = runner(mode);
    let echo = guest(&runner, "echo/echo.wat");
    let hello = guest(&runner, "hello-command/hello-command.wat");
    let trap = guest(&runner, "hostile/unreachable-run.wat");
    let run = |from: usize, to: usize| {
        let mut waiting = std::collections::VecDeque::new();
        let finish = |(n, mut handle): (usize, TaskHandle)| {
            let report = handle.blocking_report().unwrap();
            match n % 5 {
                3 => assert_eq!(report.stdout, "hello, command", "task {n}"),
                4 => assert_eq!(report.outcome.kind(), "trapped", "task {n}"),
                _ => assert_eq!(report.stdout, n.to_string(), "task {n}"),
            }
        };
        for n in from..to {
            let task = match n % 5 {
                3 => Task::new(&hello),
                4 => Task::new(&trap),
                _ => Task::new(&echo).input(n.to_string()),
            };
            waiting.push_back((n, runner.blocking_submit(task).unwrap()));
            if waiting.len() == AT_ONCE {
                waiting.pop_front().map(finish);
            }
        }
        waiting.into_iter().for_each(finish);
    };
    let began = Instant::now();
    let warm = count / 5;
    run(0, warm);
    // With the workers that wait for the next task, in process mode.
    settled("the workers", Duration::from_secs(60), workers);
    let (rss_warm, census_warm) = (status_kib("VmRSS"), Census::take());
    run(warm, count);
    assert_nothing_left(&census_warm, "four times as many tasks");
    let rss_end = status_kib("VmRSS");
    assert!(
        rss_end < rss_warm + 32 * 1024,
        "resident memory was {rss_warm} KiB after {warm} tasks and {rss_end} KiB after {count}"
    );
    eprintln!(
        "{mode} mode: {count} tasks in {:?}; resident memory {rss_warm} KiB after {warm}, \
         {rss_end} KiB at the end; {census_warm:?}",
        began.elapsed()
    );
    drop(runner);
    let now = Census::take();
    assert!(
        now.children == 0 && now.threads <= before.threads,
        "a runner whose artifacts are still there has left something that runs: {now:?}"
    );
    drop((echo, hello, trap));
    assert_nothing_left(&before, "a runner");
}

#[test]
fn small_tasks_in_thread_mode_leave_nothing() {
    alone("leaks::small_tasks_in_thread_mode_leave_nothing", || {
        small_tasks(Mode::Thread, 10_000);
    });
}

#[test]
fn small_tasks_in_process_mode_leave_nothing() {
    alone("leaks::small_tasks_in_process_mode_leave_nothing", || {
        small_tasks(Mode::Process, 10_000);
    });
}

// --- ten thousand at once -------------------------------------------------

#[test]
fn ten_thousand_tasks_wait_at_once() {
    const TASKS: usize = 10_000;
    const TIMEOUT: Duration = Duration::from_secs(15);
    alone("leaks::ten_thousand_tasks_wait_at_once", || {
        let before = Census::after_a_first_runner(Mode::Thread);
        let runner = builder(Mode::Thread).max_running(TASKS).build().unwrap();
        let sleep = guest(&runner, "hostile/endless-sleep.wat");
        let began = Instant::now();
        let handles: Vec<_> = (0..TASKS)
            .map(|_| {
                let task = Task::new(&sleep).limits(Limits::default().timeout(TIMEOUT));
                let submitted = began.elapsed();
                (submitted, runner.blocking_submit(task).unwrap())
            })
            .collect();
        let (mut peak, mut most_mappings) = (0, 0);
        while began.elapsed() < TIMEOUT - Duration::from_secs(2) {
            peak = peak.max(status_kib("VmRSS"));
            most_mappings = most_mappings.max(mappings());
            std::thread::sleep(Duration::from_millis(250));
        }
        let mut last_start = Duration::ZERO;
        for (submitted, mut handle) in handles {
            let report = handle.blocking_report().unwrap();
            assert_eq!(report.outcome, Outcome::LimitExceeded(Limit::Deadline));
            last_start = last_start.max(submitted + report.stats.queue + report.stats.start);
        }
        let page_tables = status_kib("VmPTE");
        eprintln!(
            "{TASKS} waiting tasks: the last started after {last_start:?}, peak of resident \
             memory {peak} KiB, {most_mappings} mappings, page tables {page_tables} KiB; all \
             ended after {:?}",
            began.elapsed()
        );
        assert!(
            last_start < TIMEOUT,
            "they never all waited at once: the last started after {last_start:?}"
        );
        assert!(peak < 2 << 20, "{TASKS} waiting tasks took {peak} KiB");
        still_works(&runner);
        drop((runner, sleep));
        assert_nothing_left(&before, "ten thousand waiting tasks");
    });
}

// --- violence -------------------------------------------------------------

fn kill_process(pid: i32) {
    signal_below(pid, rustix::process::Signal::KILL);
}

/// The stack and the memory of such a guest end with its worker, or with its task on a thread.
#[test]
fn guests_that_compute_at_their_deadline_leave_nothing() {
    alone(
        "leaks::guests_that_compute_at_their_deadline_leave_nothing",
        || {
            for (mode, reuse) in [(Mode::Thread, 1), (Mode::Process, 1), (Mode::Process, 100)] {
                let before = Census::after_a_first_runner(mode);
                let options = ProcessOptions::default().reuse(reuse);
                let runner = builder(mode).process(options).build().unwrap();
                let spins = guest(&runner, "hostile/endless-loop-run.wat");
                let end_some = || {
                    for _ in 0..12 {
                        let handles: Vec<_> = (0..8)
                            .map(|_| {
                                let limits = Limits::default().timeout(Duration::from_millis(100));
                                let task = Task::new(&spins).limits(limits);
                                runner.blocking_submit(task).unwrap()
                            })
                            .collect();
                        for mut handle in handles {
                            let outcome = handle.blocking_report().unwrap().outcome;
                            assert_eq!(outcome, Outcome::LimitExceeded(Limit::Deadline), "{mode}");
                        }
                    }
                };
                end_some();
                let rss = status_kib("VmRSS");
                end_some();
                let grown = status_kib("VmRSS").saturating_sub(rss);
                assert!(grown < 32 << 10, "{mode}, {reuse}: {grown} KiB more");
                still_works(&runner);
                drop((runner, spins));
                assert_nothing_left(&before, "guests that computed");
            }
        },
    );
}

#[test]
fn a_killed_worker_loses_its_own_task_only() {
    alone("leaks::a_killed_worker_loses_its_own_task_only", || {
        let before = Census::after_a_first_runner(Mode::Process);
        let runner = builder(Mode::Process).max_running(8).build().unwrap();
        let announces = wat(&runner, "announces.wat", ANNOUNCES);
        let mut handles: Vec<_> = (0..8)
            .map(|_| runner.blocking_submit(Task::new(&announces)).unwrap())
            .collect();
        let tokio = tokio::runtime::Runtime::new().unwrap();
        for handle in &mut handles {
            tokio.block_on(handle.progress_changed());
        }
        // Seven run on; one of those killed may be a worker without a task.
        let mut dice = Dice(20_26);
        let mut workers = workers();
        let mut killed = Vec::new();
        while killed.len() < 3 {
            let index = dice.below(workers.len() as u64) as usize;
            let pid = workers.swap_remove(index);
            kill_process(pid);
            killed.push(pid as u32);
        }
        let mut lost = 0;
        for mut handle in handles {
            handle.cancel();
            let report = handle.blocking_report().unwrap();
            let pid = report.stats.worker_pid.expect("it ran");
            if killed.contains(&pid) {
                assert_eq!(report.outcome, Outcome::Crashed(Crash::Signal(9)));
                lost += 1;
            } else {
                assert!(report.outcome.is_completed(), "{}", report.outcome);
            }
        }
        assert!(
            (2..=3).contains(&lost),
            "{lost} of 3 killed workers ran tasks"
        );
        still_works(&runner);
        drop((runner, announces, tokio));
        assert_nothing_left(&before, "killed workers");
    });
}

#[test]
fn workers_may_be_killed_at_any_moment() {
    alone("leaks::workers_may_be_killed_at_any_moment", || {
        let before = Census::after_a_first_runner(Mode::Process);
        let runner = runner(Mode::Process);
        let echo = guest(&runner, "echo/echo.wat");
        let done = std::sync::atomic::AtomicBool::new(false);
        let ended = std::sync::atomic::AtomicUsize::new(0);
        let (mut completed, mut crashed) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut dice = Dice(7);
                let (mut seen, mut kills) = (0, 0);
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    dice.pause(10);
                    // Starts that fail time after time are an error, and rightly so.
                    let now = ended.load(std::sync::atomic::Ordering::Relaxed);
                    if now != seen {
                        (seen, kills) = (now, 0);
                    }
                    if kills == 4 {
                        continue;
                    }
                    kills += 1;
                    // Workers, and now and then the zygote that forks them.
                    let workers = match dice.below(4) {
                        0 => children(),
                        _ => workers(),
                    };
                    if !workers.is_empty() {
                        kill_process(workers[dice.below(workers.len() as u64) as usize]);
                    }
                }
            });
            let _end = SetOnDrop(&done);
            for n in 0..300 {
                let task = Task::new(&echo).input(n.to_string());
                let report = runner
                    .blocking_run(task)
                    .expect("a killed worker is an outcome");
                match report.outcome {
                    Outcome::Completed(_) => {
                        assert_eq!(report.stdout, n.to_string());
                        completed += 1;
                    }
                    // How a worker ended whose zygote died cannot be known.
                    Outcome::Crashed(Crash::Signal(9) | Crash::Lost) => crashed += 1,
                    other => panic!("{other}"),
                }
                ended.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        eprintln!("{completed} completed, {crashed} crashed");
        assert!(completed > 0 && crashed > 0, "{completed}, {crashed}");
        still_works(&runner);
        drop((runner, echo));
        assert_nothing_left(&before, "workers killed at random");
    });
}

fn mixed(runner: &Runner) -> Vec<wrun::Artifact> {
    [
        "echo/echo.wat",
        "hostile/endless-loop.wat",
        "patient/patient.wasm",
        "hostile/stdout-flood.wat",
        "hostile/endless-sleep.wat",
        "hello-command/hello-command.wat",
    ]
    .map(|path| guest(runner, path))
    .into()
}

#[test]
fn killing_tasks_at_any_moment_leaves_nothing() {
    alone("leaks::killing_tasks_at_any_moment_leaves_nothing", || {
        for mode in BOTH {
            let before = Census::after_a_first_runner(mode);
            let runner = builder(mode).max_running(6).build().unwrap();
            let guests = mixed(&runner);
            let mut dice = Dice(42);
            let mut handles = Vec::new();
            for n in 0..150 {
                let task = Task::new(&guests[n % guests.len()]).input("10000");
                handles.push(runner.blocking_submit(task).unwrap());
                if n % 3 == 0 {
                    dice.pause(8);
                }
                let any = dice.below(handles.len() as u64) as usize;
                match dice.below(4) {
                    0 => handles[any].kill(),
                    1 => handles[any].cancel(),
                    2 => drop(handles.swap_remove(any)),
                    _ => {}
                }
            }
            let killers: Vec<Killer> = handles.iter().map(TaskHandle::killer).collect();
            let killing = std::thread::spawn(move || {
                for killer in killers {
                    dice.pause(4);
                    killer.kill();
                }
            });
            for mut handle in handles {
                let report = handle.blocking_report().unwrap();
                let expected = matches!(
                    report.outcome,
                    Outcome::Cancelled
                        | Outcome::Completed(_)
                        | Outcome::LimitExceeded(Limit::Output)
                );
                assert!(
                    expected,
                    "{} in {mode} mode: {}",
                    report.name, report.outcome
                );
            }
            killing.join().unwrap();
            still_works(&runner);
            drop((runner, guests));
            assert_nothing_left(&before, &format!("killing tasks in {mode} mode"));
        }
    });
}

#[test]
fn dropping_runners_at_any_moment_leaves_nothing() {
    alone(
        "leaks::dropping_runners_at_any_moment_leaves_nothing",
        || {
            for mode in BOTH {
                let before = Census::after_a_first_runner(mode);
                let tokio = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                let mut dice = Dice(11);
                for round in 0..24 {
                    let runner = builder(mode).max_running(4).build().unwrap();
                    let guests = mixed(&runner);
                    let handles: Vec<_> = (0..12)
                        .map(|n| {
                            let task = Task::new(&guests[n % guests.len()]);
                            runner.blocking_submit(task).unwrap()
                        })
                        .collect();
                    dice.pause(40);
                    if round % 2 == 0 {
                        drop(runner);
                    } else {
                        tokio.block_on(async { drop(runner) });
                    }
                    assert!(
                        children().is_empty(),
                        "round {round} in {mode} mode left processes: {:?}",
                        children()
                    );
                    for mut handle in handles {
                        let outcome = handle.blocking_report().unwrap().outcome;
                        assert!(
                            !matches!(outcome, Outcome::Trapped(_) | Outcome::Crashed(_)),
                            "round {round} in {mode} mode: {outcome}"
                        );
                    }
                }
                drop(tokio);
                assert_nothing_left(&before, &format!("dropped runners in {mode} mode"));
            }
        },
    );
}
