//! What a task that waits takes: memory and descriptors. It is a small one of wrun's
//! own, the same in both modes: what a task has in its own memory comes on top, in
//! either.

use super::{Job, Rows, failed};
use crate::{
    bench::completed,
    comparison::{Comparison, Watch},
    floor::Floor,
    results::{Measure, Policy},
    rounds::{self, Row},
};
use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};
use wrun::{Artifact, Cache, Error, Limits, Report, Runner, Task, TaskHandle};

/// Tasks that wait at the same time, in thread mode.
const THREADS: usize = 128;
/// The same, in processes.
const PROCESSES: usize = 8;
/// A task that says that it is there, and waits.
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
        // A new one each time: it keeps what tasks have had.
        let (runner, guest) = runner(Policy::Instance)?;
        one(&runner, &guest)?;
        let before = Memory::of("self").map_err(failed)?;
        let tasks = waiting(&runner, &guest, THREADS)?;
        let more = Memory::of("self").map_err(failed)?.get(measure) - before.get(measure);
        end(tasks)?;
        #[expect(clippy::cast_precision_loss, reason = "some dozens")]
        let each = more.max(0.0) / THREADS as f64;
        Ok(vec![each])
    };
    rows.push(Row::of(measure, Policy::Instance, Box::new(threads)));
    let (processes, guest) = runner(Policy::Fork)?;
    one(&processes, &guest)?;
    match looked_at(&processes, &guest) {
        Ok(()) => {
            let side = move || {
                let before = Memory::of("self").map_err(failed)?;
                let tasks = waiting(&processes, &guest, PROCESSES)?;
                let more = Memory::of("self").map_err(failed)?.get(measure) - before.get(measure);
                #[expect(clippy::cast_precision_loss, reason = "some")]
                let more = more.max(0.0) / PROCESSES as f64;
                let each = of_workers(tasks)?.into_iter();
                Ok(each.map(|memory| memory.get(measure) + more).collect())
            };
            let mut row = Row::of(measure, Policy::Fork, Box::new(side));
            row.policy = Some(Policy::Spare);
            let held = Floor::start(&bench.program).and_then(|mut floor| {
                let pids = floor.hold(PROCESSES as u32)?;
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
            "memory of worker processes was not measured: those in a jail are not to be looked \
             at ({error}); root may"
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

/// The memory of the worker of each task, which are ended then. Which process had which
/// task is in its report: this program may have other children, which come and go.
fn of_workers(tasks: Vec<TaskHandle>) -> Result<Vec<Memory>, Error> {
    let mut all: HashMap<u32, _> = processes()
        .into_iter()
        .map(|pid| (pid, Memory::of(&pid.to_string())))
        .collect();
    let reports = end(tasks)?;
    let workers = reports.iter().map(|report| {
        let pid = report.stats.worker_pid;
        let memory = pid.and_then(|pid| all.remove(&pid));
        memory
            .ok_or_else(|| failed("they are not in /proc"))?
            .map_err(failed)
    });
    workers.collect()
}

/// Not often: the kernel counts what there is, and that does not vary.
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
            Ok(memory.get(measure))
        })
        .collect()
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

/// The processes that this one has, and their children.
pub(super) fn processes() -> Vec<u32> {
    let (mut found, mut open) = (Vec::new(), vec![std::process::id()]);
    while let Some(pid) = open.pop() {
        let children = children(pid);
        found.extend(&children);
        open.extend(children);
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    all
}

/// Descriptors of this process for each task that waits.
pub(super) fn descriptors(job: &mut Job<'_, '_>) -> Rows {
    let mut rows = Vec::new();
    for policy in [Policy::Instance, Policy::Fork] {
        let cache = Cache::Directory(job.bench.cache());
        let runner = job.bench.runner(policy, cache)?;
        let guest = runner.blocking_load_bytes("wait", GUEST)?;
        // What the first task of a runner makes.
        one(&runner, &guest)?;
        let side = Box::new(move || {
            let before = open_descriptors()?;
            let tasks = waiting(&runner, &guest, PROCESSES)?;
            let after = open_descriptors()?;
            end(tasks)?;
            #[expect(clippy::cast_precision_loss, reason = "some dozens")]
            let each = after.saturating_sub(before) as f64 / PROCESSES as f64;
            Ok(vec![each])
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
fn waiting(runner: &Runner, guest: &Artifact, count: usize) -> Result<Vec<TaskHandle>, Error> {
    let mut tasks = Vec::new();
    for _ in 0..count {
        let limits = Limits::default().timeout(Duration::from_secs(30));
        let task = Task::new(guest).input("wait").limits(limits);
        tasks.push(runner.blocking_submit(task.grace(Duration::ZERO))?);
    }
    let end = Instant::now() + Duration::from_secs(20);
    while tasks.iter().any(|task| task.progress().done == 0) {
        if Instant::now() >= end {
            return Err(failed("tasks that wait did not start"));
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
