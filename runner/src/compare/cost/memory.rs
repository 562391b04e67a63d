//! What a task that waits takes: memory and descriptors.

use super::{Job, Rows, failed};
use crate::compare::bench::{SPARES, completed};
use crate::compare::results::{Measure, Policy};
use crate::compare::rounds::Row;
use crate::config::{Cache, Mode};
use crate::error::Error;
use crate::port::Transport;
use crate::runner::Runner;
use crate::sandbox::{self, Allocation, Bare, Prepared, TaskContext};
use crate::task::Task;
use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Sandboxes that are held at the same time in this process.
const HELD: u32 = 32;
/// Tasks that wait at the same time.
const WAITING: usize = 8;
/// How long waiting workers get to be there, and quiet.
const SOON: Duration = Duration::from_secs(2);
/// A task that says that it is there, and waits.
const GUEST: &[u8] = include_bytes!("../guests/wait.wat");

/// Memory of a sandbox, or of a process, that waits for its task.
pub(super) fn memory(job: &mut Job<'_, '_>, measure: Measure) -> Rows {
    let comparison = job.bench.comparison;
    let ready = job.bench.ready(Policy::Instance)?;
    let code = ready.runner.code(&ready.artifact)?;
    drop(ready);
    let mut rows = Vec::new();
    match sandboxes(&code) {
        Ok(mut hold) => {
            let side = move || hold().map(|each| vec![each.get(measure)]);
            let row = Row::of(measure, Policy::Instance, Box::new(side));
            rows.push(match job.bare()? {
                Some(bare) => {
                    let regions = code.meta.regions;
                    let side = move || {
                        let engine = engine(regions)?;
                        let fresh = Bare::new(&engine, &code).map_err(failed)?;
                        let each = taken(|| {
                            let made = fresh.hold(&bare.spec, &bare.input, false);
                            bare.runtime.block_on(made).map_err(failed)
                        })?;
                        Ok(vec![each.get(measure)])
                    };
                    row.floor("an instance in bare wasmtime", Box::new(side))
                }
                None => row,
            });
        }
        Err(why) => job.note(format!("memory of a sandbox was not measured: {why}")),
    }
    let before = descendants();
    let cache = Cache::Directory(job.bench.cache().to_owned());
    let spares = job.bench.runner(Policy::Spare, cache)?;
    let ready = crate::compare::bench::Ready::new(comparison, spares)?;
    ready.run(comparison)?;
    let waiting = settled(&before);
    if waiting.is_empty() {
        job.note("memory of waiting workers was not measured: they were not found in /proc".into());
    } else if let Err(error) = Memory::of(&waiting[0].to_string()) {
        job.note(format!(
            "memory of waiting workers was not measured: a jailed worker is not to be looked at \
             ({error}); root may"
        ));
    } else {
        let side = Box::new(move || each_of(&waiting, measure));
        let row = Row::of(measure, Policy::Spare, side);
        let held = job.idle_floor().and_then(|mut floor| {
            let pids = floor.hold(SPARES as u32).ok()?;
            Some((floor, pids))
        });
        rows.push(match held {
            Some((floor, pids)) => row.floor(
                "a process that was forked from a bare program and waits",
                Box::new(move || {
                    // It ends its children when it is dropped.
                    let _alive = &floor;
                    each_of(&pids, measure)
                }),
            ),
            None => row,
        });
    }
    let measured = job.rounds(rows);
    drop(ready);
    measured
}

fn each_of(pids: &[u32], measure: Measure) -> Result<Vec<f64>, Error> {
    pids.iter()
        .map(|pid| {
            let memory = Memory::of(&pid.to_string()).map_err(failed)?;
            Ok(memory.get(measure))
        })
        .collect()
}

type Hold = Box<dyn FnMut() -> Result<Memory, Error>>;

/// What a sandbox of the task takes in this process.
fn sandboxes(code: &Arc<sandbox::Code>) -> Result<Hold, Error> {
    let runtime = super::runtime().map_err(failed)?;
    let code = code.clone();
    let mut hold: Hold = Box::new(move || {
        // A new one each time: it keeps what sandboxes have had.
        let engine = engine(code.meta.regions)?;
        let prepared = Prepared::new(&engine, &code).map_err(failed)?;
        taken(|| {
            let made = runtime.block_on(sandbox::Ahead::new(&prepared, nobody()));
            made.ok_or_else(|| failed("it does not fit a pool, or would have to run for it"))
        })
    });
    hold().map(|_| hold)
}

fn engine(regions: bool) -> Result<wasmtime::Engine, Error> {
    let allocation = match regions {
        true => Allocation::OnDemand,
        false => Allocation::Pool { slots: 64 },
    };
    sandbox::runtime(false, allocation).map_err(failed)
}

/// What one of some takes that are held at the same time.
fn taken<T>(mut make: impl FnMut() -> Result<T, Error>) -> Result<Memory, Error> {
    // What the first one makes for all is not counted.
    let first = make()?;
    let before = Memory::of("self").map_err(failed)?;
    let held: Vec<T> = (0..HELD).map(|_| make()).collect::<Result<_, _>>()?;
    let after = Memory::of("self").map_err(failed)?;
    drop((first, held));
    let each = |after: f64, before: f64| (after - before).max(0.0) / f64::from(HELD);
    Ok(Memory {
        resident: each(after.resident, before.resident),
        proportional: each(after.proportional, before.proportional),
        private: each(after.private, before.private),
    })
}

fn nobody() -> TaskContext {
    TaskContext::of_nobody(Mode::Thread, Transport::queue())
}

/// Memory of a process, in bytes.
struct Memory {
    resident: f64,
    proportional: f64,
    private: f64,
}

impl Memory {
    fn of(pid: &str) -> std::io::Result<Self> {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let sum = |wanted: &str| -> f64 {
            let lines = rollup.lines().filter(|line| line.starts_with(wanted));
            let kib = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            kib.sum::<f64>() * 1024.0
        };
        Ok(Memory {
            resident: sum("Rss:"),
            proportional: sum("Pss:"),
            private: sum("Private_"),
        })
    }

    fn get(&self, measure: Measure) -> f64 {
        match measure {
            Measure::Proportional => self.proportional,
            Measure::Private => self.private,
            _ => self.resident,
        }
    }
}

/// Those without children of the processes that this one has, or its children.
fn descendants() -> HashSet<u32> {
    let mut leaves = HashSet::new();
    let mut open = vec![std::process::id()];
    while let Some(pid) = open.pop() {
        let mut any = false;
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
            {
                any = true;
                open.push(child);
            }
        }
        if !any {
            leaves.insert(pid);
        }
    }
    leaves
}

/// The workers that wait once as many do as should; those that were there `before`
/// are somebody else's.
fn settled(before: &HashSet<u32>) -> Vec<u32> {
    let end = Instant::now() + SOON;
    loop {
        std::thread::sleep(Duration::from_millis(20));
        let new: Vec<u32> = descendants().difference(before).copied().collect();
        let all = new.len() == SPARES && new.iter().all(|pid| is_quiet(*pid));
        if all || Instant::now() >= end {
            return new;
        }
    }
}

/// Whether a process sleeps.
fn is_quiet(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('S'))
}

/// Descriptors of this process for each task that waits.
pub(super) fn descriptors(job: &mut Job<'_, '_>) -> Rows {
    let mut rows = Vec::new();
    for policy in [Policy::Instance, Policy::Fork] {
        let cache = Cache::Directory(job.bench.cache().to_owned());
        let runner = job.bench.runner(policy, cache)?;
        let guest = runner.load_bytes("wait", GUEST)?;
        let side = Box::new(move || waiting(&runner, &guest).map(|each| vec![each]));
        let mut row = Row::of(Measure::Descriptors, policy, side);
        row.policy = (policy.mode() == Mode::Thread)
            .then_some(Policy::Instance)
            .or(Some(Policy::Spare));
        rows.push(row);
    }
    let (rounds, time) = (job.bench.comparison.rounds, job.time);
    let comparison = job.bench.comparison.clone().rounds(rounds.min(3));
    let measured =
        crate::compare::rounds::measure(&comparison, rows, time, &mut job.notes, job.watch);
    Ok(match measured {
        ControlFlow::Continue(rows) => ControlFlow::Continue(rows),
        ControlFlow::Break(rows) => ControlFlow::Break(rows),
    })
}

fn waiting(runner: &Runner, guest: &crate::Artifact) -> Result<f64, Error> {
    // What the first task of a runner makes.
    one(runner, guest)?;
    let before = open_descriptors()?;
    let mut tasks = Vec::new();
    for _ in 0..WAITING {
        let limits = crate::Limits::default().timeout(Duration::from_secs(20));
        let task = Task::new(guest)
            .input("wait")
            .limits(limits)
            .grace(Duration::ZERO);
        tasks.push(runner.submit_blocking(task)?);
    }
    let end = Instant::now() + Duration::from_secs(10);
    while tasks.iter().any(|task| task.progress().done == 0) {
        if Instant::now() >= end {
            return Err(failed("tasks that wait did not start"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let after = open_descriptors()?;
    for task in tasks {
        task.kill();
        task.wait()?;
    }
    #[expect(clippy::cast_precision_loss, reason = "some dozens")]
    let each = after.saturating_sub(before) as f64 / WAITING as f64;
    Ok(each)
}

fn one(runner: &Runner, guest: &crate::Artifact) -> Result<(), Error> {
    completed(&runner.run(Task::new(guest))?)
}

fn open_descriptors() -> Result<usize, Error> {
    Ok(fs::read_dir("/proc/self/fd").map_err(failed)?.count())
}
