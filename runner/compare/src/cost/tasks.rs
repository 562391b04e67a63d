//! Tasks one after the other, and many at the same time.

use super::{InProcess, Job, Rows, failed, nanos};
use crate::{
    bench::{Ready, SPARES, answered, completed},
    comparison::Comparison,
    measure::{Floor, FloorProgram, Work, in_threads},
    number::{GAP, Unit, quantity},
    results::{Measure, Policy},
    rounds::Row,
};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use wrun::measure::sys::Unpoisoned;
use wrun::{Error, ErrorKind, Limits, TaskHandle};

/// Runs one after the other in a round, so that caches are warm as in a loop; each is a
/// sample.
const BURST: u32 = 20;
/// How long these may take.
const BURST_TIME: Duration = Duration::from_millis(20);
/// How long one round of throughput should take.
const BATCH_TIME: Duration = Duration::from_millis(120);
/// Processes that are called at the same time for a floor, at most.
const MOST_FLOORS: usize = 16;
/// Tasks of one such round, at most.
const BATCH: u32 = 4_000;
/// Requests of one round of latencies, at most.
const LATENCIES: u32 = 200;
/// The floor of a fresh process. As in a zygote, the instance is made before the fork.
pub(super) const FORKS: &str = "bare fork of a process with an instance, call, pipe, exit, wait";
/// A policy that takes more than this part of the time for one round is left out.
const PART: u32 = 3;
/// How long a task may take beside others of it, for which it may have to wait: this long, and
/// this many times as long as alone.
const BESIDE: (Duration, u32) = (Duration::from_secs(2), 20);

/// From submission to report.
pub(super) fn warm(job: &mut Job<'_, '_>) -> Rows {
    let comparison = job.bench.comparison;
    let bare = job.bare()?;
    let floor = job.floor()?.map(|floor| Rc::new(RefCell::new(floor)));
    let mut rows = Vec::new();
    for policy in policies(job) {
        let ready = job.bench.ready(policy)?;
        // The first task makes what later ones use.
        ready.run(comparison)?;
        let burst = match policy {
            Policy::Instance | Policy::Signal => job.fit(BURST_TIME, BURST),
            Policy::Spare => job.fit(BURST_TIME, SPARES as u32 - 2),
            _ => job.fit(BURST_TIME, 4),
        };
        let side = Box::new(move || {
            (0..burst)
                .map(|_| ready.run(comparison).map(nanos))
                .collect()
        });
        let row = Row::of(Measure::Warm, policy, side);
        let row = match (policy, &bare, &floor) {
            (Policy::Instance | Policy::Signal, Some(bare), _) => row.floor(
                "bare wasmtime: instantiate, call, drop",
                Box::new(move || bare_burst(bare, burst)),
            ),
            (Policy::Spare, _, Some(floor)) => {
                let floor = floor.clone();
                row.floor(
                    "bare pipe to a process with an instance ready, call, pipe back",
                    Box::new(move || calls(&mut floor.borrow_mut(), burst, true)),
                )
            }
            (Policy::Fork, _, Some(floor)) => {
                let floor = floor.clone();
                let one = move || {
                    floor
                        .borrow_mut()
                        .tasks(Work::Ready, burst, 1)
                        .map_err(failed)
                };
                row.floor(FORKS, Box::new(move || Ok(vec![nanos(one()?)])))
            }
            (Policy::Reuse, _, Some(floor)) => {
                let floor = floor.clone();
                row.floor(
                    "bare pipe to a process, instantiate, call, pipe back",
                    Box::new(move || calls(&mut floor.borrow_mut(), burst, false)),
                )
            }
            (Policy::Exec, _, Some(_)) => {
                let (program, code) = (job.bench.program.clone(), job.bench.ready(Policy::Fork)?);
                row.floor(
                    "bare program: start, map the code, instantiate, call, pipe, end",
                    Box::new(move || Ok(vec![nanos(program_once(&program, &code, comparison)?)])),
                )
            }
            _ => row,
        };
        rows.push(row);
    }
    job.rounds(rows)
}

/// The policies for which there is time; the default of each mode first.
fn policies(job: &mut Job<'_, '_>) -> Vec<Policy> {
    let all = [
        Policy::Instance,
        Policy::Spare,
        Policy::Reuse,
        Policy::Fork,
        Policy::Exec,
        Policy::Signal,
    ];
    // Each with its floor; three rounds.
    let fit = job.time.as_nanos() / (job.run.as_nanos().max(1) * 6);
    let fit = usize::try_from(fit).unwrap_or(usize::MAX).max(2);
    if fit < all.len() {
        let left = all[fit..]
            .iter()
            .map(|policy| policy.name())
            .collect::<Vec<_>>()
            .join(", ");
        job.note(format!(
            "warm was not measured for {left}: the task takes {}; --budget gives it more time",
            took(job.run)
        ));
    }
    all.into_iter().take(fit).collect()
}

/// A time in words.
fn took(time: Duration) -> String {
    quantity(nanos(time), Unit::Nanoseconds).replace(GAP, " ")
}

fn bare_burst(bare: &InProcess, burst: u32) -> Result<Vec<f64>, Error> {
    (0..burst)
        .map(|_| {
            let began = Instant::now();
            bare.run().map_err(failed)?;
            Ok(nanos(began.elapsed()))
        })
        .collect()
}

fn calls(floor: &mut Floor, burst: u32, ahead: bool) -> Result<Vec<f64>, Error> {
    (0..burst)
        .map(|_| {
            let began = Instant::now();
            floor.call(ahead).map_err(failed)?;
            Ok(nanos(began.elapsed()))
        })
        .collect()
}

/// A program for one run of the task.
pub(super) fn program_once(
    program: &FloorProgram,
    ready: &Ready,
    comparison: &Comparison,
) -> Result<Duration, Error> {
    let code = wrun::measure::code(&ready.runner, &ready.artifact)?;
    let spec = ready.spec(comparison);
    let began = Instant::now();
    let mut floor = Floor::start(program).map_err(failed)?;
    floor
        .load(&code, &spec, &ready.input(comparison), None)
        .map_err(failed)?;
    drop(floor);
    Ok(began.elapsed())
}

/// Tasks a second, this many at the same time.
pub(super) fn throughput(job: &mut Job<'_, '_>) -> Rows {
    let comparison = job.bench.comparison;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bare = job.bare()?;
    let floor = job.floor()?.map(|floor| Rc::new(RefCell::new(floor)));
    let mut floors = Vec::new();
    for _ in 0..cores.min(MOST_FLOORS) {
        floors.extend(job.floor()?.map(Mutex::new));
    }
    let floors = Rc::new(floors);
    let mut levels = vec![1_usize, 2];
    while levels.last().is_some_and(|last| *last < 4 * cores) {
        levels.push(levels.last().map_or(1, |last| last * 2));
    }
    // A round is a task each at least, with its floor.
    let policies = [Policy::Instance, Policy::Spare, Policy::Reuse];
    let round: usize = levels.iter().sum::<usize>() * 2 * policies.len() / cores.max(1);
    let one = job.run * u32::try_from(round).unwrap_or(u32::MAX);
    if one > job.time * PART {
        let before = levels.len();
        levels.retain(|level| *level <= cores);
        if before != levels.len() {
            job.note(format!(
                "throughput was measured with up to {cores} tasks at the same time: the task takes {}",
                took(job.run)
            ));
        }
    }
    let limits = beside(comparison, job.run);
    let mut rows = Vec::new();
    for policy in policies {
        let ready = job.bench.ready(policy)?;
        ready.run(comparison)?;
        // Reused workers are those of the same mode.
        if policy != Policy::Reuse {
            fitting(job, &ready, &limits, &mut levels)?;
        }
        for level in &levels {
            let (level, ready, limits) = (*level, ready.clone(), limits.clone());
            let at_once = u32::try_from(level.min(cores)).unwrap_or(1);
            let share = BATCH_TIME * at_once;
            let per_task = match policy {
                Policy::Instance => job.run,
                // The process takes longer than a short task.
                Policy::Spare => job.run + Duration::from_micros(400),
                _ => job.run + Duration::from_micros(100),
            };
            let count = share.as_nanos() / per_task.as_nanos().max(1);
            let count = u32::try_from(count)
                .unwrap_or(BATCH)
                .clamp(level as u32, BATCH);
            let side = Box::new(move || Ok(vec![rate(&ready, comparison, &limits, count, level)?]));
            let row = Row::of(Measure::Throughput, policy, side).at(level as u64);
            rows.push(match (policy, &bare, &floor) {
                (Policy::Instance, Some(bare), _) => row.floor(
                    "bare wasmtime on the same number of threads, at most one for each processor",
                    Box::new(move || Ok(vec![bare_rate(bare, count, level.min(cores))?])),
                ),
                (Policy::Reuse, _, Some(_)) if !floors.is_empty() => {
                    let floors = floors.clone();
                    row.floor(
                        "bare pipes to the same number of processes, at most one for each processor, \
                         instantiate, call, pipe back",
                        Box::new(move || Ok(vec![called_rate(&floors, count, level)?])),
                    )
                }
                (Policy::Spare, _, Some(floor)) => {
                    let floor = floor.clone();
                    row.floor(
                        FORKS,
                        Box::new(move || {
                            let each = floor.borrow_mut().tasks(Work::Ready, count, level as u32);
                            Ok(vec![1e9 / nanos(each.map_err(failed)?)])
                        }),
                    )
                }
                _ => row,
            });
        }
    }
    job.rounds(rows)
}

/// The limits of a task that runs beside others of it.
fn beside(comparison: &Comparison, run: Duration) -> Limits {
    let (least, times) = BESIDE;
    let time = least + run * times;
    let limits = comparison.limits.clone();
    let time = limits.timeout.map_or(time, |timeout| timeout.min(time));
    limits.timeout(time)
}

/// Removes the levels at which the task does not complete beside others of it: tasks that share
/// names, for example of locks, may wait for each other without an end.
fn fitting(
    job: &mut Job<'_, '_>,
    ready: &Arc<Ready>,
    limits: &Limits,
    levels: &mut Vec<usize>,
) -> Result<(), Error> {
    let comparison = job.bench.comparison;
    let mut why = None;
    while let Some(most) = levels.last().copied().filter(|most| *most > 1) {
        let Err(error) = rate(ready, comparison, limits, most as u32, most) else {
            break;
        };
        if error.kind() != ErrorKind::InvalidTask {
            return Err(error);
        }
        levels.pop();
        why = Some((most, error));
    }
    if let Some((most, error)) = why {
        job.note(format!(
            "throughput was measured with up to {} at the same time: beside others of it, {most} \
             in all in {} mode, {error} (its timeout: {:.1} s)",
            levels.last().copied().unwrap_or(1),
            ready.runner.mode(),
            limits.timeout.unwrap_or_default().as_secs_f64()
        ));
    }
    Ok(())
}

fn rate(
    ready: &Arc<Ready>,
    comparison: &Comparison,
    limits: &Limits,
    count: u32,
    at_once: usize,
) -> Result<f64, Error> {
    let began = Instant::now();
    if ready.is_http() {
        requests(ready, comparison, limits, count, at_once)?;
        return Ok(f64::from(count) / began.elapsed().as_secs_f64());
    }
    let mut running = VecDeque::new();
    for _ in 0..count {
        if running.len() >= at_once {
            finish(running.pop_front(), ready, comparison)?;
        }
        let task = ready.task(comparison).limits(limits.clone());
        running.push_back(ready.runner.blocking_submit(task)?);
    }
    while !running.is_empty() {
        finish(running.pop_front(), ready, comparison)?;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

/// The time of each of some requests, this many of which are answered at the same time; their
/// answers are read to the end.
fn requests(
    ready: &Arc<Ready>,
    comparison: &Comparison,
    limits: &Limits,
    count: u32,
    at_once: usize,
) -> Result<Vec<f64>, Error> {
    let comparison = Arc::new(comparison.clone().limits(limits.clone()));
    let left = Arc::new(AtomicU32::new(count));
    ready.waiting.on(async {
        let mut clients = JoinSet::new();
        for _ in 0..at_once {
            let (ready, comparison, left) = (ready.clone(), comparison.clone(), left.clone());
            clients.spawn(async move {
                let mut took = Vec::new();
                let one_less = |left: u32| left.checked_sub(1);
                let order = Ordering::Relaxed;
                while left.fetch_update(order, order, one_less).is_ok() {
                    let task = ready.task(&comparison);
                    let began = Instant::now();
                    let handle = ready.runner.submit(task).await?;
                    let (report, _) = answered(handle).await?;
                    ready.slow(&comparison);
                    completed(&report)?;
                    took.push(nanos(began.elapsed()));
                }
                Ok::<_, Error>(took)
            });
        }
        // All of them end before the runtime can, which they keep.
        let mut all = Ok(Vec::new());
        while let Some(ended) = clients.join_next().await {
            match (&mut all, ended.map_err(failed).and_then(|took| took)) {
                (Ok(all), Ok(took)) => all.extend(took),
                (Ok(_), Err(error)) => all = Err(error),
                (Err(_), _) => {}
            }
        }
        all
    })
}

/// From submission to the end of the answer, while others are answered.
pub(super) fn latency(job: &mut Job<'_, '_>) -> Rows {
    let comparison = job.bench.comparison;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bare = job.bare()?;
    let limits = beside(comparison, job.run);
    let mut levels = vec![4 * cores];
    let ready = job.bench.ready(Policy::Instance)?;
    fitting(job, &ready, &limits, &mut levels)?;
    let Some(level) = levels.last().copied() else {
        return Ok(ControlFlow::Continue(Vec::new()));
    };
    let count = job.fit(BATCH_TIME * u32::try_from(cores).unwrap_or(1), LATENCIES);
    let count = count.max(u32::try_from(level).unwrap_or(1));
    let mut rows = Vec::new();
    for policy in [Policy::Instance, Policy::Spare, Policy::Reuse] {
        let (ready, limits) = (job.bench.ready(policy)?, limits.clone());
        ready.run(comparison)?;
        let side = Box::new(move || requests(&ready, comparison, &limits, count, level));
        let row = Row::of(Measure::Latency, policy, side).at(level as u64);
        rows.push(match (policy, &bare) {
            (Policy::Instance, Some(bare)) => row.floor(
                "bare wasmtime on a thread for each processor: how long one of as many requests takes \
                 at its rate",
                Box::new(move || {
                    let rate = bare_rate(bare, count, level.min(cores))?;
                    // What is there at the same time is rate times duration (Little's law).
                    Ok(vec![level as f64 / rate * 1e9])
                }),
            ),
            _ => row,
        });
    }
    job.rounds(rows)
}

fn finish(handle: Option<TaskHandle>, ready: &Ready, comparison: &Comparison) -> Result<(), Error> {
    let Some(mut handle) = handle else {
        return Ok(());
    };
    completed(&handle.blocking_report()?)?;
    ready.slow(comparison);
    Ok(())
}

/// Each of them called by a thread of its own.
fn called_rate(floors: &[Mutex<Floor>], count: u32, at_once: usize) -> Result<f64, Error> {
    let floors = &floors[..at_once.min(floors.len())];
    let threads = u32::try_from(floors.len()).unwrap_or(1).max(1);
    let each = count.div_ceil(threads);
    let began = Instant::now();
    in_threads(floors.iter(), |floor| {
        let mut floor = floor.lock().unpoisoned();
        for _ in 0..each {
            floor.call(false).map_err(failed)?;
        }
        Ok::<(), Error>(())
    })
    .map_err(failed)??;
    Ok(f64::from(each * threads) / began.elapsed().as_secs_f64())
}

fn bare_rate(bare: &InProcess, count: u32, threads: usize) -> Result<f64, Error> {
    let threads = u32::try_from(threads).unwrap_or(1).max(1);
    let each = count.div_ceil(threads);
    let began = Instant::now();
    in_threads(0..threads, |_| {
        let runtime = super::runtime().map_err(failed)?;
        for _ in 0..each {
            let run = bare.bare.run(&bare.spec, &bare.input);
            runtime.block_on(run).map_err(failed)?;
        }
        Ok::<(), Error>(())
    })
    .map_err(failed)??;
    Ok(f64::from(each * threads) / began.elapsed().as_secs_f64())
}
