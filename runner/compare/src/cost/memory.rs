//! Memory and descriptors of a task that waits: a small guest that is built in, the same in
//! both modes. The memory of a user's task comes on top, in either.

use super::{Job, Rows, failed};
use crate::{
    bench::completed,
    comparison::{Comparison, Watch},
    measure::{Floor, Memory, descendants},
    results::{Measure, Policy},
    rounds::{self, Row},
};
use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};
use wrun::{Artifact, Cache, Error, Limits, Report, Runner, Task, TaskHandle};

/// Tasks that wait at the same time, in thread mode.
const THREADS: u32 = 128;
/// The same, in processes.
const PROCESSES: u32 = 8;
/// A task that reports progress, and waits.
const GUEST: &[u8] = include_bytes!("../guests/wait.wat");

/// Memory of a task that waits: what it adds to this process, and its own.
pub(super) fn memory(job: &mut Job<'_, '_>, measure: Measure) -> Rows {
    let mut rows = Vec::new();
    let bench = &*job.bench;
    let runner = move |policy| {
        let cache = Cache::Directory(bench.cache());
        let runner = bench.runner(policy, cache)?;
        let guest = runner.blocking_load_bytes("wait", GUEST)?;
        Ok::<_, Error>((runner, guest))
    };
    let threads = move || {
        // A new one each time: a runner keeps memory of earlier tasks.
        let (runner, guest) = runner(Policy::Instance)?;
        one(&runner, &guest)?;
        let before = Memory::of("self").map_err(failed)?;
        let tasks = waiting(&runner, &guest, THREADS)?;
        let more = more(before, measure)?;
        end(tasks)?;
        Ok(vec![more / f64::from(THREADS)])
    };
    rows.push(Row::of(measure, Policy::Instance, Box::new(threads)));
    let (processes, guest) = runner(Policy::Fork)?;
    one(&processes, &guest)?;
    match looked_at(&processes, &guest) {
        Ok(()) => {
            let side = move || {
                let before = Memory::of("self").map_err(failed)?;
                let tasks = waiting(&processes, &guest, PROCESSES)?;
                let more = more(before, measure)? / f64::from(PROCESSES);
                let each = of_workers(tasks)?.into_iter();
                Ok(each.map(|memory| part(memory, measure) + more).collect())
            };
            let mut row = Row::of(measure, Policy::Fork, Box::new(side));
            row.policy = Some(Policy::Spare);
            let held = Floor::start(&bench.program).and_then(|mut floor| {
                let pids = floor.hold(PROCESSES)?;
                Ok((floor, pids))
            });
            rows.push(match held {
                Ok((floor, pids)) => row.floor(
                    "a process that was forked from a bare program and waits",
                    Box::new(move || {
                        // It ends its children when it is dropped.
                        let _alive = &floor;
                        each_of(&pids, measure)
                    }),
                ),
                Err(_) => row,
            });
        }
        Err(error) => job.notes.push(format!(
            "memory of worker processes was not measured: only root may read that of processes in \
             a jail ({error})"
        )),
    }
    few(
        job.bench.comparison,
        rows,
        job.time,
        &mut job.notes,
        job.watch,
    )
}

/// Whether this process may look at the memory of its workers.
fn looked_at(runner: &Runner, guest: &Artifact) -> Result<(), Error> {
    of_workers(waiting(runner, guest, 1)?).map(drop)
}

/// The memory of the worker of each task; the tasks are ended. The report of a task names its
/// process: this program may have other children, which start and end.
fn of_workers(tasks: Vec<TaskHandle>) -> Result<Vec<Memory>, Error> {
    let mut all: HashMap<u32, _> = descendants(std::process::id())
        .into_iter()
        .map(|pid| (pid, Memory::of(&pid.to_string())))
        .collect();
    let reports = end(tasks)?;
    let workers = reports.iter().map(|report| {
        let pid = report.stats.worker_pid;
        let memory = pid.and_then(|pid| all.remove(&pid));
        memory
            .ok_or_else(|| failed("a worker is not in /proc"))?
            .map_err(failed)
    });
    workers.collect()
}

/// Few rounds: these numbers hardly vary.
fn few(
    comparison: &Comparison,
    rows: Vec<Row<'_>>,
    time: Duration,
    notes: &mut Vec<String>,
    watch: Watch<'_>,
) -> Rows {
    let comparison = comparison.clone().rounds(comparison.rounds.min(5));
    Ok(rounds::measure(&comparison, rows, time, notes, watch))
}

fn each_of(pids: &[u32], measure: Measure) -> Result<Vec<f64>, Error> {
    pids.iter()
        .map(|pid| {
            let memory = Memory::of(&pid.to_string()).map_err(failed)?;
            Ok(part(memory, measure))
        })
        .collect()
}

/// The part of a process's memory that a measure is of, in bytes.
fn part(memory: Memory, measure: Measure) -> f64 {
    match measure {
        Measure::Proportional => memory.proportional,
        Measure::Private => memory.private,
        _ => memory.resident,
    }
}

/// What this process has more of than before.
fn more(before: Memory, measure: Measure) -> Result<f64, Error> {
    let now = Memory::of("self").map_err(failed)?;
    Ok((part(now, measure) - part(before, measure)).max(0.0))
}

/// Descriptors of this process for each task that waits.
pub(super) fn descriptors(job: &mut Job<'_, '_>) -> Rows {
    let mut rows = Vec::new();
    for policy in [Policy::Instance, Policy::Fork] {
        let cache = Cache::Directory(job.bench.cache());
        let runner = job.bench.runner(policy, cache)?;
        let guest = runner.blocking_load_bytes("wait", GUEST)?;
        // The first task of a runner opens descriptors that stay open.
        one(&runner, &guest)?;
        let side = Box::new(move || {
            let before = open_descriptors()?;
            let tasks = waiting(&runner, &guest, PROCESSES)?;
            let after = open_descriptors()?;
            end(tasks)?;
            #[expect(clippy::cast_precision_loss, reason = "some dozens")]
            let more = after.saturating_sub(before) as f64;
            Ok(vec![more / f64::from(PROCESSES)])
        });
        let mut row = Row::of(Measure::Descriptors, policy, side);
        if policy == Policy::Fork {
            row.policy = Some(Policy::Spare);
        }
        rows.push(row);
    }
    few(
        job.bench.comparison,
        rows,
        job.time,
        &mut job.notes,
        job.watch,
    )
}

/// This many tasks that wait, once all do.
fn waiting(runner: &Runner, guest: &Artifact, count: u32) -> Result<Vec<TaskHandle>, Error> {
    let mut tasks = Vec::new();
    for _ in 0..count {
        let limits = Limits::default().timeout(Duration::from_secs(30));
        let task = Task::new(guest).input("wait").limits(limits);
        tasks.push(runner.blocking_submit(task.grace(Duration::ZERO))?);
    }
    let end = Instant::now() + Duration::from_secs(20);
    while tasks.iter().any(|task| task.progress().done == 0) {
        if Instant::now() >= end {
            return Err(failed("tasks that wait did not start within 20 s"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(tasks)
}

fn end(tasks: Vec<TaskHandle>) -> Result<Vec<Report>, Error> {
    for task in &tasks {
        task.kill();
    }
    tasks
        .into_iter()
        .map(|mut handle| handle.blocking_report())
        .collect()
}

fn one(runner: &Runner, guest: &Artifact) -> Result<(), Error> {
    completed(&runner.blocking_run(Task::new(guest))?)
}

fn open_descriptors() -> Result<usize, Error> {
    Ok(fs::read_dir("/proc/self/fd").map_err(failed)?.count())
}
