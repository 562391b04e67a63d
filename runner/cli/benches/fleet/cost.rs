//! What a batch cost: time by the clock, and the processor time of all processes that took part.

use rustix::process::{Pid, WaitOptions, waitpid};
use serde::Serialize;
use std::time::{Duration, Instant};
use wrun_compare::measure::descendants;

/// Microseconds for each task.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) wall: f64,
    pub(crate) submitter: f64,
    pub(crate) server: f64,
    pub(crate) workers: f64,
}

/// The processes whose time is counted beside the submitter's.
pub(crate) struct Counted {
    pub(crate) server: u32,
    pub(crate) workers: Vec<u32>,
}

/// Measures what `work` does for so many tasks; it is this process, or children of it that have
/// ended, that submits.
pub(crate) fn cost(
    tasks: u32,
    counted: &Counted,
    work: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Cost> {
    wait_for_orphans(counted);
    let server = || processor_time(counted.server);
    let workers = || counted.workers.iter().copied().map(processor_time).sum();
    let (ours, servers, theirs): (_, _, Duration) = (submitter(), server(), workers());
    let began = Instant::now();
    work()?;
    let wall = began.elapsed();
    wait_for_orphans(counted);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(tasks);
    Ok(Cost {
        wall: each(wall),
        submitter: each(submitter().saturating_sub(ours)),
        server: each(server().saturating_sub(servers)),
        workers: each(workers().saturating_sub(theirs)),
    })
}

/// Waits for what a submitter, or workers before, have left behind, so that its time is counted where
/// it belongs: this process adopts orphans.
fn wait_for_orphans(counted: &Counted) {
    let known: Vec<u32> = std::iter::once(counted.server)
        .chain(counted.workers.iter().copied())
        .flat_map(|pid| std::iter::once(pid).chain(descendants(pid)))
        .collect();
    for pid in descendants(std::process::id()) {
        let pid = i32::try_from(pid).ok().filter(|_| !known.contains(&pid));
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // It fails for one below another.
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

/// Of this process and of its children that were waited for.
fn submitter() -> Duration {
    times("self").map_or(Duration::ZERO, |all| all.iter().sum())
}

/// Of a process and all below it, alive or waited for.
fn processor_time(pid: u32) -> Duration {
    let all = std::iter::once(pid).chain(descendants(pid));
    all.filter_map(|pid| times(&pid.to_string()))
        .map(|times| times.iter().sum::<Duration>())
        .sum()
}

/// Times of a process itself, and of its children that were waited for, each as user and system:
/// the fields 14 to 17 of `stat`; see proc(5).
fn times(process: &str) -> Option<[Duration; 4]> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before it, in parentheses, may have spaces.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11).map(str::parse::<u32>);
    let mut times = [Duration::ZERO; 4];
    let a_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    for time in &mut times {
        *time = Duration::from_secs(1) * fields.next()?.ok()? / a_second;
    }
    Some(times)
}
