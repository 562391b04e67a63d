//! Process mode in bad weather: processes that are killed and stopped at random,
//! runners that die, a thousand workers at once, programs that crash; and what
//! waits when nothing happens. Each test has a process of its own to look at.

use crate::support::command::{Wrun, scratch, shared_cache};
use crate::support::guests::ANNOUNCES;
use crate::support::processes::{
    Process, descendants, own_copy, running, signal, signal_below, workers,
};
use crate::support::{
    Census, Dice, SetOnDrop, alone, assert_nothing_left, builder, children, guest, repo, wat,
    within, wrun,
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use wrun::{ErrorKind, Limit, Limits, Mode, Outcome, ProcessOptions, Runner, Start, Task};

/// What takes no time, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

fn below() -> Vec<Process> {
    let all = descendants(std::process::id().cast_signed());
    all.into_iter().collect()
}

// --- random deaths --------------------------------------------------------

/// Tasks in the storm: more with `WRUN_STORM_TASKS`.
fn storm_tasks() -> usize {
    let number = std::env::var("WRUN_STORM_TASKS").ok();
    number.map_or(10_000, |number| number.parse().unwrap())
}

#[derive(Debug, Default)]
struct Fates {
    completed: usize,
    crashed: usize,
    overdue: usize,
}

#[test]
fn tasks_in_a_storm_have_one_outcome_each() {
    alone("storms::tasks_in_a_storm_have_one_outcome_each", || {
        storm(Start::Fork, storm_tasks());
        storm(Start::Exec, storm_tasks() / 10);
    });
}

fn storm(start: Start, total: usize) {
    let folder = scratch();
    let program = own_copy(folder.path());
    let before = Census::after_a_first_runner(Mode::Process);
    let runner = builder(Mode::Process)
        .process(ProcessOptions::default().worker(&program).start(start))
        .max_running(16)
        .build()
        .unwrap();
    let echo = guest(&runner, "echo/echo.wat");
    let began = Instant::now();
    let done = AtomicBool::new(false);
    let (mut once, mut again) = (Fates::default(), Fates::default());
    let (mut kills, mut stops) = (0, 0);
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut dice = Dice(2026);
            let (mut kills, mut stops) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                dice.pause(30);
                let processes = below();
                if processes.is_empty() {
                    continue;
                }
                let pid = processes[dice.below(processes.len() as u64) as usize];
                if dice.below(4) == 0 {
                    signal(pid, Signal::STOP);
                    stops += 1;
                } else {
                    signal(pid, Signal::KILL);
                    kills += 1;
                }
            }
            (kills, stops)
        });
        {
            let _end = SetOnDrop(&done);
            let limits = || Limits::default().timeout(Duration::from_secs(20));
            let mut waiting = std::collections::VecDeque::new();
            let mut finish = |(n, mut handle): (usize, wrun::TaskHandle)| {
                let report = handle
                    .blocking_report()
                    .expect("a killed worker is an outcome");
                let fates = if n % 2 == 0 { &mut once } else { &mut again };
                match report.outcome {
                    Outcome::Completed(_) => {
                        assert_eq!(report.stdout, n.to_string());
                        fates.completed += 1;
                    }
                    Outcome::Crashed(_) => fates.crashed += 1,
                    Outcome::LimitExceeded(Limit::Deadline) => fates.overdue += 1,
                    other => panic!("task {n}: {other}"),
                }
            };
            for n in 0..total {
                let task = Task::new(&echo).input(n.to_string()).limits(limits());
                let task = task.retries(if n % 2 == 0 { 0 } else { 3 });
                waiting.push_back((n, runner.blocking_submit(task).unwrap()));
                if waiting.len() == 64 {
                    waiting.pop_front().map(&mut finish);
                }
            }
            waiting.into_iter().for_each(&mut finish);
        }
        (kills, stops) = storm.join().unwrap();
    });
    eprintln!(
        "{start}: {total} tasks in {:?}, {kills} processes killed and {stops} stopped; with one \
         attempt {once:?}, with four {again:?}",
        began.elapsed()
    );
    assert!(kills > 0 && stops > 0);
    let half = total / 2;
    assert!(once.completed > half / 2, "{once:?}");
    assert!(again.completed > half * 9 / 10, "{again:?}");
    drop((runner, echo));
    assert_nothing_left(&before, "a storm");
    // Also those whose parents are gone.
    assert!(
        within(SOON, || running(&program).is_empty()),
        "left behind: {:?}",
        running(&program)
    );
}

#[test]
fn a_runner_may_die_at_any_moment() {
    const ROUNDS: u64 = 100;
    let folder = scratch();
    let program = own_copy(folder.path());
    let mut dice = Dice(99);
    let (mut slowest, mut late, mut had) = (Duration::ZERO, 0, 0);
    for round in 0..ROUNDS {
        let start = ["fork", "exec"][(round % 2) as usize];
        let task = [
            "hostile/endless-loop.wat",
            "hostile/endless-sleep-run.wat",
            "hostile/stdout-flood.wat",
        ][(round % 3) as usize];
        let wrun = Wrun::program(&program)
            .cache(shared_cache())
            .args(["--mode", "process", "--spares", "2", "--start", start])
            .arg(repo("guest-tasks").join(task))
            .start();
        dice.pause(150);
        had += usize::from(!descendants(wrun.pid()).is_empty());
        wrun.signal(Signal::KILL);
        let killed = Instant::now();
        let gone = within(Duration::from_secs(10), || running(&program).is_empty());
        let took = killed.elapsed();
        assert!(gone, "round {round}: left {:?}", running(&program));
        slowest = slowest.max(took);
        late += u64::from(took > Duration::from_secs(1));
        wrun.end();
    }
    eprintln!("{ROUNDS} runners killed, {had} with workers; the last process after {slowest:?}");
    assert!(had > ROUNDS as usize / 4, "only {had} with workers");
    // All within a second, but for a machine that does something else that long.
    assert!(late <= ROUNDS / 20, "{late} took more than a second");
}

// --- many at once ---------------------------------------------------------

#[test]
fn a_thousand_tasks_in_a_thousand_processes() {
    const TASKS: usize = 1000;
    alone("storms::a_thousand_tasks_in_a_thousand_processes", || {
        let limit = getrlimit(Resource::Nofile);
        let wanted = limit.maximum.map_or(8192, |most| most.min(8192));
        let soft = limit.current.map_or(wanted, |now| now.max(wanted));
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(soft),
                maximum: limit.maximum,
            },
        );
        if soft < 4096 {
            println!("SKIPPED: only {soft} descriptors");
            return;
        }
        let before = Census::after_a_first_runner(Mode::Process);
        let runner = builder(Mode::Process).max_running(TASKS).build().unwrap();
        let announces = wat(&runner, "announces.wat", ANNOUNCES);
        let began = Instant::now();
        let mut handles: Vec<_> = (0..=TASKS)
            .map(|_| runner.blocking_submit(Task::new(&announces)).unwrap())
            .collect();
        let runs = |handle: &wrun::TaskHandle| handle.progress().done == 1;
        let all = || handles.iter().filter(|handle| runs(handle)).count() >= TASKS;
        assert!(
            within(2 * SOON, all),
            "{} of {TASKS} run",
            handles.iter().filter(|handle| runs(handle)).count()
        );
        let started = began.elapsed();
        let workers = workers();
        assert!(workers.len() >= TASKS, "{} processes", workers.len());
        let (rss, anonymous) = workers.iter().fold((0, 0), |sum, pid| {
            (
                sum.0 + status_kib(*pid, "VmRSS"),
                sum.1 + status_kib(*pid, "RssAnon"),
            )
        });
        let own = status_kib(std::process::id().cast_signed(), "VmRSS");
        // One more is not one too many: it waits.
        let waits = handles.iter().position(|handle| !runs(handle)).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(!runs(&handles[waits]), "{} tasks ran at once", TASKS + 1);
        let waiting = handles.swap_remove(waits);
        let mut first = handles.swap_remove(0);
        first.cancel();
        assert!(first.blocking_report().unwrap().outcome.is_completed());
        assert!(within(SOON, || runs(&waiting)), "its turn never came");
        handles.push(waiting);
        let mut pids = BTreeSet::new();
        for handle in &handles {
            handle.cancel();
        }
        for mut handle in handles {
            let report = handle.blocking_report().unwrap();
            assert!(report.outcome.is_completed(), "{}", report.outcome);
            pids.insert(report.stats.worker_pid.unwrap());
        }
        assert_eq!(pids.len(), TASKS, "a process each");
        eprintln!(
            "{TASKS} tasks ran after {started:?} and were done after {:?}; {} KiB resident in \
             each worker, {} KiB of it its own; {own} KiB in the runner",
            began.elapsed(),
            rss / workers.len() as u64,
            anonymous / workers.len() as u64,
        );
        drop((runner, announces));
        assert_nothing_left(&before, "a thousand workers");
    });
}

/// A field of a process's status in KiB.
fn status_kib(pid: i32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

// --- crash loops ----------------------------------------------------------

/// A worker program that crashes while the file `bad` is there, and is good
/// otherwise; each start is noted.
pub(crate) fn crashing(folder: &Path) -> PathBuf {
    let program = folder.join("crashing");
    let (folder, wrun) = (folder.display(), wrun());
    let wrun = wrun.display();
    let script = format!(
        "#!/bin/sh\n\
         if [ \"$3\" != compile ] && [ -e {folder}/bad ]; then\n\
         echo start >> {folder}/starts; kill -SEGV $$; fi\n\
         exec env -i {wrun} \"$@\"\n"
    );
    // Not open for writing here: a process that another test forks at this moment
    // would keep it open, and it could not be executed.
    let text = program.with_extension("text");
    fs::write(&text, script).unwrap();
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
    let copied = std::process::Command::new("cp")
        .args([&text, &program])
        .status();
    assert!(copied.unwrap().success());
    program
}

#[test]
fn a_program_that_crashes_is_not_started_forever() {
    std::thread::scope(|scope| {
        for start in [Start::Fork, Start::Exec] {
            scope.spawn(move || {
                let folder = scratch();
                let program = crashing(&folder.path().canonicalize().unwrap());
                fs::write(folder.path().join("bad"), "").unwrap();
                fs::write(folder.path().join("starts"), "").unwrap();
                let starts = || {
                    let starts = fs::read_to_string(folder.path().join("starts"));
                    starts.unwrap().lines().count()
                };
                let runner = Runner::builder()
                    .mode(Mode::Process)
                    .process(ProcessOptions::default().start(start))
                    .max_running(8)
                    .process(ProcessOptions::default().worker(program))
                    .build()
                    .unwrap();
                let echo = guest(&runner, "echo/echo.wat");
                let handles: Vec<_> = (0..32)
                    .map(|_| runner.blocking_submit(Task::new(&echo)).unwrap())
                    .collect();
                for mut handle in handles {
                    let error = handle.blocking_report().unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::CrashLoop, "{error}");
                    let words = error.to_string();
                    assert!(
                        words.contains("in a row") && words.contains("signal 11"),
                        "{words}"
                    );
                }
                let first = starts();
                // Eight rounds of one zygote each, or of a worker for each task.
                let most = if start == Start::Fork { 8 } else { 8 * 8 };
                assert!((8..=most).contains(&first), "{start}: {first} starts");
                eprintln!("{start}: {first} starts for 32 tasks");
                // It heals with its program, some seconds later.
                fs::remove_file(folder.path().join("bad")).unwrap();
                let healed = within(SOON, || {
                    std::thread::sleep(Duration::from_millis(200));
                    match runner.blocking_run(Task::new(&echo).input("good")) {
                        Ok(report) => {
                            assert_eq!(report.stdout, "good", "{}", report.outcome);
                            true
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::CrashLoop, "{error}");
                            false
                        }
                    }
                });
                assert!(healed, "{start}: it never healed");
                assert_eq!(starts(), first, "{start}: started while it was to rest");
            });
        }
    });
}

// --- what waits -----------------------------------------------------------

fn hello(runner: &Runner, echo: &wrun::Artifact) -> wrun::Report {
    let report = runner.blocking_run(Task::new(echo).input("hello")).unwrap();
    assert_eq!(report.stdout, "hello", "{}", report.outcome);
    report
}

#[test]
fn spares_wait_and_are_used() {
    alone("storms::spares_wait_and_are_used", || {
        let runner = builder(Mode::Process)
            .process(ProcessOptions::default().spares(4))
            .build()
            .unwrap();
        let echo = guest(&runner, "echo/echo.wat");
        let mut spent = hello(&runner, &echo).stats.worker_pid;
        for _ in 0..5 {
            // One that is done is ended when there is time.
            let pid = spent.unwrap().cast_signed();
            let rested = || {
                let waiting = workers();
                children().len() == 1 && waiting.len() == 4 && !waiting.contains(&pid)
            };
            assert!(within(SOON, rested), "{} spares", workers().len());
            let spares = workers();
            let report = hello(&runner, &echo);
            let pid = report.stats.worker_pid.unwrap().cast_signed();
            assert!(spares.contains(&pid), "{pid} is none of {spares:?}");
            assert_eq!(report.stats.start_method, Some(Start::Fork));
            spent = report.stats.worker_pid;
        }
    });
}

#[test]
fn no_process_waits_when_nothing_happens() {
    alone("storms::no_process_waits_when_nothing_happens", || {
        let before = Census::after_a_first_runner(Mode::Process);
        let runner = builder(Mode::Process)
            .process(
                ProcessOptions::default()
                    .spares(2)
                    .idle_timeout(Duration::from_secs(1)),
            )
            .build()
            .unwrap();
        let echo = guest(&runner, "echo/echo.wat");
        for _ in 0..2 {
            hello(&runner, &echo);
            assert!(within(SOON, || below().is_empty()), "{:?}", below());
        }
        // One that runs is not idle, however long.
        let announces = wat(&runner, "announces.wat", ANNOUNCES);
        let mut handle = runner.blocking_submit(Task::new(&announces)).unwrap();
        assert!(within(SOON, || handle.progress().done == 1));
        std::thread::sleep(Duration::from_secs(3));
        handle.cancel();
        let report = handle.blocking_report().unwrap();
        assert!(report.outcome.is_completed(), "{}", report.outcome);
        drop((runner, echo, announces));
        assert_nothing_left(&before, "idle pools");
    });
}

/// Returns one byte of its memory, which it then changes.
const REMEMBERS: &str = r#"
(module
  (memory (export "memory") 4)
  (global $calls (mut i32) (i32.const 0x30))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i32)
    (i32.store8 (i32.const 64) (i32.add (i32.load8_u (i32.const 200000)) (global.get $calls)))
    (global.set $calls (i32.const 0x35))
    (memory.fill (i32.const 100000) (i32.const 7) (i32.const 150000))
    (i32.store (i32.const 4) (i32.const 64))
    (i32.store (i32.const 8) (i32.const 1))
    (i32.const 0)))"#;

#[test]
fn a_worker_that_is_used_again_has_forgotten_all() {
    for start in [Start::Fork, Start::Exec] {
        let runner = builder(Mode::Process)
            .process(ProcessOptions::default().start(start).spares(0))
            .max_running(2)
            .process(ProcessOptions::default().reuse(3))
            .build()
            .unwrap();
        let remembers = wat(&runner, "remembers.wat", REMEMBERS);
        let mut times = BTreeMap::new();
        for n in 0..30 {
            let report = runner.blocking_run(Task::new(&remembers)).unwrap();
            assert_eq!(report.stdout, "0", "task {n}: {}", report.outcome);
            *times.entry(report.stats.worker_pid.unwrap()).or_insert(0) += 1;
        }
        assert!(times.values().all(|times| *times <= 3), "{times:?}");
        assert!(times.values().any(|times| *times == 3), "{times:?}");
        // Also where several run at once, and are cancelled when they are done.
        let handles: Vec<_> = (0..60)
            .map(|_| runner.blocking_submit(Task::new(&remembers)).unwrap())
            .collect();
        for mut handle in handles {
            handle.cancel();
            let report = handle.blocking_report().unwrap();
            assert_eq!(report.stdout, "0", "{}", report.outcome);
        }
    }
}

/// Grows its memory to 2.5 GiB, and says whether it could.
const GROWS: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i32)
    (i32.store8 (i32.const 32)
      (select (i32.const 0x6e) (i32.const 0x79)
        (i32.eq (memory.grow (i32.const 40000)) (i32.const -1))))
    (i32.store (i32.const 4) (i32.const 32))
    (i32.store (i32.const 8) (i32.const 1))
    (i32.const 0)))"#;

#[test]
fn a_worker_that_is_used_again_has_the_memory_of_its_task() {
    for start in [Start::Fork, Start::Exec] {
        let builder =
            builder(Mode::Process).process(ProcessOptions::default().start(start).spares(0));
        let runner = builder
            .max_running(1)
            .process(ProcessOptions::default().reuse(100))
            .build()
            .unwrap();
        let grows = wat(&runner, "grows.wat", GROWS);
        let mut workers = BTreeSet::new();
        for (memory, could) in [
            (16 << 20, "n"),
            (3 << 30, "y"),
            (16 << 20, "n"),
            (3 << 30, "y"),
        ] {
            let limits = Limits::default().max_memory(memory);
            let report = runner
                .blocking_run(Task::new(&grows).limits(limits))
                .unwrap();
            assert_eq!(report.stdout, could, "{memory}: {}", report.outcome);
            workers.insert(report.stats.worker_pid.unwrap());
        }
        assert_eq!(workers.len(), 2, "the wide one does for both");
    }
}

#[test]
fn a_process_that_waits_may_be_killed_or_stopped() {
    alone(
        "storms::a_process_that_waits_may_be_killed_or_stopped",
        || {
            let before = Census::after_a_first_runner(Mode::Process);
            for spares in [0, 2] {
                let runner = builder(Mode::Process)
                    .process(ProcessOptions::default().spares(spares))
                    .build()
                    .unwrap();
                let echo = guest(&runner, "echo/echo.wat");
                for how in [Signal::KILL, Signal::STOP] {
                    let all = || below().into_iter().map(|(pid, _)| pid).collect();
                    for whom in [children, workers, all] {
                        hello(&runner, &echo);
                        assert!(within(SOON, || workers().len() >= spares.max(1)));
                        let hit = whom();
                        for &pid in &hit {
                            signal_below(pid, how);
                        }
                        // One that is dying unnoticed would be the task's worker.
                        let is_gone = |pid: &i32| !Path::new(&format!("/proc/{pid}")).exists();
                        assert!(
                            within(SOON, || hit.iter().all(is_gone)),
                            "{how:?}: {hit:?} are still there"
                        );
                        let report = hello(&runner, &echo);
                        assert_eq!(report.notes, Vec::<String>::new());
                    }
                }
                drop((runner, echo));
                assert_nothing_left(&before, "killed and stopped processes that waited");
            }
        },
    );
}

#[test]
fn a_stopped_zygote_holds_up_no_task_for_long() {
    alone("storms::a_stopped_zygote_holds_up_no_task_for_long", || {
        let runner = builder(Mode::Process)
            .process(ProcessOptions::default().spares(1))
            .build()
            .unwrap();
        let announces = wat(&runner, "announces.wat", ANNOUNCES);
        let submit = || runner.blocking_submit(Task::new(&announces)).unwrap();
        let mut first = submit();
        assert!(within(SOON, || first.progress().done == 1));
        // A task that runs is lost with it, or was done before; one that comes later is not.
        for pid in children() {
            signal_below(pid, Signal::STOP);
        }
        let mut second = submit();
        first.cancel();
        let outcome = first.blocking_report().unwrap().outcome;
        let expected = matches!(outcome, Outcome::Completed(_) | Outcome::Crashed(_));
        assert!(expected, "{outcome}");
        assert!(within(SOON, || second.progress().done == 1));
        second.cancel();
        second.blocking_report().unwrap();
        let mut third = submit();
        third.cancel();
        assert!(third.blocking_report().unwrap().outcome.is_completed());
        // Zygote and worker both: only the runner is left to notice.
        let mut last = submit();
        assert!(within(SOON, || last.progress().done == 1));
        for pid in below() {
            signal(pid, Signal::STOP);
        }
        let outcome = last.blocking_report().unwrap().outcome;
        assert!(matches!(outcome, Outcome::Crashed(_)), "{outcome}");
    });
}

#[test]
fn a_slow_start_is_not_begun_anew_for_each_impatient_task() {
    let folder = scratch();
    let folder = folder.path().canonicalize().unwrap();
    let program = folder.join("slow");
    // Takes longer than any task below is willing to wait.
    let script = format!(
        "#!/bin/sh\n[ \"$3\" = compile ] || {{ echo start >> {0}/starts; sleep 1; }}\n\
         exec env -i {1} \"$@\"\n",
        folder.display(),
        wrun().display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let runner = builder(Mode::Process)
        .process(ProcessOptions::default().worker(program).spares(0))
        .build()
        .unwrap();
    let echo = guest(&runner, "echo/echo.wat");
    let limits = Limits::default().timeout(Duration::from_millis(300));
    let completed = within(SOON, || {
        let task = Task::new(&echo).limits(limits.clone());
        runner.blocking_run(task).unwrap().outcome.is_completed()
    });
    assert!(completed, "no task ever ran");
    let starts = fs::read_to_string(folder.join("starts")).unwrap();
    assert_eq!(starts.lines().count(), 1, "one zygote for all of them");
}
