//! What the guest's own code costs: the processor time of its thread, from where its sandbox is made
//! to its end.
//!
//! The floor has no checks in its code, so nothing could end it: only a task that is known to
//! end has one.

use super::{InProcess, Job, Rows, failed, nanos};
use crate::bench::Ready;
use crate::comparison::Comparison;
use crate::results::{Measure, Policy};
use crate::rounds::Row;
use std::rc::Rc;
use std::time::{Duration, Instant};
use wrun::Error;
use wrun::measure::sys;

/// How long the runs of one round may take.
const TIME: Duration = Duration::from_millis(100);
/// A task that runs for less hardly computes.
const TELLING: Duration = Duration::from_millis(1);
/// The runs of one round, at most.
const RUNS: u32 = 100;

pub(super) fn compute(job: &mut Job<'_, '_>) -> Rows {
    let comparison = job.bench.comparison;
    let count = job.fit(TIME, RUNS);
    let bare = job.unchecked()?;
    if job.run < TELLING {
        job.note(
            "compute: the task runs for less than a millisecond, so this says more about how its \
             memory is made than about its code"
                .to_owned(),
        );
    }
    let mut rows = Vec::new();
    for policy in [
        Policy::Instance,
        Policy::Signal,
        Policy::Spare,
        Policy::Reuse,
        Policy::Fork,
        Policy::Exec,
    ] {
        let ready = job.bench.ready(policy)?;
        ready.run(comparison)?;
        let side = Box::new(move || (0..count).map(|_| of_task(&ready, comparison)).collect());
        let row = Row::of(Measure::Compute, policy, side);
        rows.push(match &bare {
            Some(bare) => {
                let bare = bare.clone();
                row.floor(
                    "bare wasmtime without checks in its code: instantiate, call, drop",
                    Box::new(move || (0..count).map(|_| of_bare(&bare)).collect()),
                )
            }
            None => row,
        });
    }
    job.rounds(rows)
}

fn of_task(ready: &Ready, comparison: &Comparison) -> Result<f64, Error> {
    let (report, _) = ready.done(ready.task(comparison))?;
    report
        .stats
        .cpu
        .map(nanos)
        .ok_or_else(|| failed("the task's processor time is not known"))
}

fn of_bare(bare: &Rc<InProcess>) -> Result<f64, Error> {
    let before = sys::thread_cpu(Instant::now());
    bare.run().map_err(failed)?;
    Ok(nanos(
        sys::thread_cpu(Instant::now()).saturating_sub(before),
    ))
}
