//! Tasks that talk: each of `guest-tasks/talk*`, in both modes, with workers of its own
//! language and of others, one at a time and many at once.

use crate::support::processes::{leaves, serves, signal_below};
use crate::support::{
    BOTH, Census, Dice, alone, assert_nothing_left, builder, guest, repo, status_kib, still_works,
    within,
};
use rustix::process::Signal;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wrun::{Artifact, Limits, LockMode, Mode, Outcome, ProcessOptions, Runner, Task, TaskGrant};

/// What takes no time, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(120);

const RUST: &str = "talk/talk.wasm";
const C: &str = "talk-c/talk-c.wasm";
const ASSEMBLY_SCRIPT: &str = "talk-as/talk-as.wasm";
const COMMONS: &str = "commons/commons.wasm";

/// The coordinator, the workers, and the job.
fn tasks() -> Vec<(&'static str, &'static str, String)> {
    let text = std::fs::read_to_string(repo("guest-tasks/inputs/article.md")).unwrap();
    let mut tasks = vec![
        (RUST, ASSEMBLY_SCRIPT, format!("count 3 100000\n{text}")),
        (RUST, RUST, format!("count 3 100000\n{text}")),
        (RUST, RUST, "pipeline 20 65536".into()),
        (RUST, RUST, "bodies 3 60 20".into()),
    ];
    for (coordinator, worker) in [(RUST, RUST), (RUST, C), (C, RUST), (C, C)] {
        tasks.push((coordinator, worker, "ping 50 1000".into()));
        tasks.push((coordinator, worker, "primes 3 20000 300".into()));
    }
    for (coordinator, worker) in [(RUST, RUST), (C, C), (C, RUST)] {
        tasks.push((coordinator, worker, "sort 3 100000 7".into()));
    }
    for coordinator in [RUST, C] {
        tasks.push((coordinator, ASSEMBLY_SCRIPT, "ping 50 70000".into()));
    }
    tasks
}

struct Talk {
    runner: Runner,
    guests: HashMap<&'static str, Artifact>,
}

impl Talk {
    fn new(mode: Mode) -> Self {
        Talk::on(builder(mode).build().unwrap())
    }

    fn on(runner: Runner) -> Self {
        let guests = [RUST, C, ASSEMBLY_SCRIPT, COMMONS].map(|path| (path, guest(&runner, path)));
        Talk {
            guests: guests.into(),
            runner,
        }
    }

    fn task(&self, (coordinator, worker, input): &(&str, &str, String)) -> Task {
        Task::new(&self.guests[coordinator])
            .task("worker", &self.guests[worker])
            .input(input.clone())
            .limits(Limits::default().timeout(SOON).max_memory(64 << 20))
    }

    /// What it says, or how it ended otherwise.
    fn said(&self, what: &(&str, &str, String)) -> Result<String, String> {
        let report = self.runner.blocking_run(self.task(what)).unwrap();
        match report.outcome.is_completed() {
            true => Ok(String::from_utf8(report.stdout.to_vec()).unwrap()),
            false => Err(format!(
                "{}: {}",
                report.outcome,
                String::from_utf8_lossy(&report.stderr)
            )),
        }
    }
}

fn title((coordinator, worker, input): &(&str, &str, String)) -> String {
    let line = input.lines().next().unwrap_or_default();
    format!("{coordinator} with {worker}: {line}")
}

/// The same answer with any coordinator and any workers, in both modes. What the answers are
/// is in the manifest, which the differential test follows.
#[test]
fn languages_and_modes_agree() {
    let mut answers: HashMap<String, (String, String)> = HashMap::new();
    for mode in BOTH {
        let talk = Talk::new(mode);
        for what in tasks() {
            let who = format!("{mode}: {}", title(&what));
            let said = match talk.said(&what) {
                Ok(said) => said,
                Err(outcome) => panic!("{who}: {outcome}"),
            };
            let (first, answer) = answers
                .entry(what.2.clone())
                .or_insert_with(|| (who.clone(), said.clone()));
            assert_eq!(*answer, said, "{first}, and {who}");
        }
    }
}

/// As often as `WRUN_TALK_RUNS` says, 1,000 for a thorough test, with more of them at
/// once than there are processors.
#[test]
fn they_agree_under_load() {
    let runs = std::env::var("WRUN_TALK_RUNS").ok();
    let runs = runs.map_or(20, |runs| runs.parse::<usize>().unwrap());
    for mode in BOTH {
        let talk = Talk::new(mode);
        let tasks = tasks();
        let expected = Mutex::new(HashMap::new());
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= runs * tasks.len() {
                            break;
                        }
                        let what = &tasks[at % tasks.len()];
                        let said = match talk.said(what) {
                            Ok(said) => said,
                            Err(outcome) => panic!("{mode}: {}: run {at}: {outcome}", title(what)),
                        };
                        let mut expected = expected.lock().unwrap();
                        let first = expected.entry(&what.2).or_insert_with(|| said.clone());
                        assert_eq!(*first, said, "{mode}: {}: run {at}", title(what));
                    }
                });
            }
        });
        still_works(&talk.runner);
    }
}

/// What is killed, at any moment: tasks, by their handle; their workers and they
/// themselves by the kernel, or, in thread mode, workers by a deadline. As often as
/// `WRUN_TALK_KILLS` says, 10,000 for a thorough test.
#[test]
fn any_of_them_may_be_killed_at_any_moment() {
    alone("talk::any_of_them_may_be_killed_at_any_moment", || {
        let kills = std::env::var("WRUN_TALK_KILLS").ok();
        let kills = kills.map_or(400, |kills| kills.parse::<usize>().unwrap());
        for mode in BOTH {
            let before = Census::after_a_first_runner(mode);
            let talk = Talk::on(
                builder(mode)
                    .process(ProcessOptions::default().spares(0))
                    .build()
                    .unwrap(),
            );
            let killing = Killing::new(&talk);
            let began = Instant::now();
            // Once, so that whatever is kept for reuse is there.
            killing.kill((kills / 10).max(50));
            let warm = status_kib("VmRSS");
            killing.kill(kills / 2);
            killing.nothing_is_held();
            let end = status_kib("VmRSS");
            eprintln!(
                "{mode} mode: {} in {:?}; {warm} KiB, {end} KiB at the end",
                killing.told(),
                began.elapsed(),
            );
            assert!(
                end < warm + 64 * 1024,
                "{mode} mode: resident memory was {warm} KiB and is {end} KiB"
            );
            drop(killing);
            drop(talk);
            assert_nothing_left(&before, "tasks that were killed");
        }
    });
}

/// Tasks of every role, and how they end.
struct Killing<'a> {
    talk: &'a Talk,
    /// They end by themselves, and then they say this.
    short: Vec<(Asked, String)>,
    /// They do not; some of them have locks or are members of channels.
    long: Vec<Asked>,
    ends: Mutex<HashMap<&'static str, usize>>,
    killed: AtomicUsize,
    rounds: AtomicUsize,
}

type Asked = (&'static str, &'static str, String);

/// What tasks lock, while they are killed.
const LOCKS: [&str; 3] = ["one", "two", "turn"];

impl<'a> Killing<'a> {
    fn new(talk: &'a Talk) -> Self {
        // In C, the coordinator waits for its jobs, not for workers: until its deadline.
        let forever = |what: &Asked| what.0 == C && what.2.starts_with("primes");
        let short = tasks().into_iter().filter(|what| !forever(what));
        let short = short.map(|what| {
            let said = talk.said(&what).unwrap();
            (what, said)
        });
        let mut short: Vec<_> = short.collect();
        let turns = "turns turn 30".to_owned();
        short.push(((COMMONS, COMMONS, turns), "30 turns".into()));
        let tells = "tell news 20".to_owned();
        short.push(((COMMONS, COMMONS, tells), "told".into()));
        let long = [
            (RUST, RUST, "pipeline 1000000 65536"),
            (RUST, RUST, "bodies 3 60 1000000"),
            (RUST, C, "primes 3 10000000 100"),
            (C, RUST, "ping 100000000 100"),
            (RUST, RUST, "sort 4 2000000 7"),
            // They wait for workers that do not do it.
            (C, ASSEMBLY_SCRIPT, "primes 3 10000000 100"),
            (RUST, ASSEMBLY_SCRIPT, "bodies 3 60 1000000"),
            (COMMONS, COMMONS, "hold one"),
            (COMMONS, COMMONS, "hold two"),
            (COMMONS, COMMONS, "shared one"),
            (COMMONS, COMMONS, "turns turn 1000000"),
            (COMMONS, COMMONS, "listen news 1000000"),
            (COMMONS, COMMONS, "lazy news"),
            (COMMONS, COMMONS, "flood news"),
        ];
        Killing {
            talk,
            short,
            long: long.map(|(a, b, what)| (a, b, what.to_owned())).into(),
            ends: Mutex::default(),
            killed: AtomicUsize::new(0),
            rounds: AtomicUsize::new(0),
        }
    }

    fn told(&self) -> String {
        let ends = self.ends.lock().unwrap();
        let mut ends: Vec<_> = ends.iter().collect();
        ends.sort();
        let killed = self.killed.load(Ordering::Relaxed);
        let rounds = self.rounds.load(Ordering::Relaxed);
        format!("{killed} kills in {rounds} tasks, which ended so: {ends:?}")
    }

    /// So many more, several at a time.
    fn kill(&self, more: usize) {
        let until = self.killed.load(Ordering::Relaxed) + more;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while self.killed.load(Ordering::Relaxed) < until {
                        let round = self.rounds.fetch_add(1, Ordering::Relaxed);
                        self.round(&mut Dice(0x9e37_79b9 ^ ((round as u64 + 1) << 16)));
                    }
                });
            }
        });
    }

    fn round(&self, dice: &mut Dice) {
        // The first numbers are much like each other.
        for _ in 0..8 {
            dice.below(2);
        }
        let is_short = dice.below(2) == 0;
        let (what, says) = match is_short {
            true => {
                let (what, says) = &self.short[dice.below(self.short.len() as u64) as usize];
                (what, Some(says))
            }
            false => (
                &self.long[dice.below(self.long.len() as u64) as usize],
                None,
            ),
        };
        let runner = &self.talk.runner;
        let by_handle = dice.below(3) == 0;
        let by_deadline = !by_handle && runner.mode() == Mode::Thread;
        let mut task = self.talk.task(what).grace(Duration::ZERO);
        if by_deadline {
            let time = Duration::from_micros(1 + dice.below(30_000));
            let limits = Limits::default().timeout(time).max_memory(64 << 20);
            let worker = TaskGrant::new("worker", &self.talk.guests[what.1]).limits(limits);
            task = Task::new(&self.talk.guests[what.0])
                .allow_task(worker)
                .input(what.2.clone())
                .limits(Limits::default().timeout(SOON).max_memory(64 << 20))
                .grace(Duration::ZERO);
        }
        let mut handle = runner.blocking_submit(task).unwrap();
        dice.pause(30);
        if !by_handle && runner.mode() == Mode::Process {
            self.kill_a_process(dice);
        }
        // What ends by itself has to, whichever party died.
        if by_handle || !is_short {
            if !by_handle {
                dice.pause(15);
            }
            handle.kill();
        }
        let report = handle.blocking_report().unwrap();
        let kind = report.outcome.kind();
        let told = || {
            format!(
                "{} mode: {}: {}",
                runner.mode(),
                title(what),
                report.outcome
            )
        };
        match &report.outcome {
            Outcome::Completed(output) => {
                if let Some(says) = says {
                    assert_eq!(output.as_bytes(), says.as_bytes(), "{}", told());
                }
            }
            // By the handle; a coordinator whose worker died says so.
            Outcome::Cancelled => assert!(by_handle || !is_short, "{}", told()),
            Outcome::Failed(_) => {}
            Outcome::Crashed(_) => assert_eq!(runner.mode(), Mode::Process, "{}", told()),
            _ => panic!("{}", told()),
        }
        *self.ends.lock().unwrap().entry(kind).or_default() += 1;
        let cut_short = kind == "cancelled" || (by_deadline && kind == "failed");
        self.killed
            .fetch_add(usize::from(cut_short), Ordering::Relaxed);
    }

    /// Any worker of any task: a parent or a child.
    fn kill_a_process(&self, dice: &mut Dice) {
        let mut workers = leaves(std::process::id().cast_signed());
        while !workers.is_empty() {
            let worker = workers.swap_remove(dice.below(workers.len() as u64) as usize);
            // One that starts is not a party yet, and after many deaths starts are restrained.
            if serves(worker) {
                let hit = usize::from(signal_below(worker, Signal::KILL));
                self.killed.fetch_add(hit, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Nothing is held any more, and all of it is available.
    fn nothing_is_held(&self) {
        let runner = &self.talk.runner;
        for name in LOCKS {
            for name in [name.to_owned(), format!("{name}, within")] {
                let lock = runner.try_lock(&name, LockMode::Exclusive).unwrap();
                assert!(lock.is_some(), "somebody has {name}");
            }
        }
        let regions = within(SOON, || runner.region_memory_used() == 0);
        assert!(regions, "{} bytes", runner.region_memory_used());
        // As many as there may be: no other task is one of them.
        let mut members = Vec::new();
        assert!(within(SOON, || {
            members.extend(runner.broadcast("news"));
            members.len() == 128
        }));
        drop(members);
        for (what, says) in &self.short {
            assert_eq!(self.talk.said(what).as_ref(), Ok(says), "{}", title(what));
        }
        still_works(runner);
    }
}
