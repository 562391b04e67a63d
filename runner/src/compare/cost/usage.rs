//! What the kernel counts for a task: CPU time, page faults, context switches.

use super::tasks::FORKS;
use super::{Job, Rows, failed, nanos};
use crate::compare::bench::Ready;
use crate::compare::comparison::Comparison;
use crate::compare::results::{Measure, Policy};
use crate::compare::rounds::Row;
use crate::config::{Cache, Mode};
use crate::error::Error;
use crate::report::Usage;
use crate::sys;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// Tasks of one round, at most.
const TASKS: u32 = 100;
/// The same, where they are threads.
const TASKS_OF_THREADS: u32 = 2_000;

/// What a runner and all of its processes use for a task; what they use before the
/// first and after the last is taken off.
pub(super) fn usage(job: &mut Job<'_, '_>, measure: Measure) -> Rows {
    let comparison = job.bench.comparison;
    let count = job.fit(Duration::from_millis(100), TASKS).max(2);
    let many = job.fit(Duration::from_millis(20), TASKS_OF_THREADS).max(2);
    let bare = job.bare()?;
    let floor = job.floor()?.map(|floor| Rc::new(RefCell::new(floor)));
    // Their ends would be counted.
    job.bench.end_runners();
    let all = match job.run < Duration::from_millis(300) {
        true => &[Policy::Instance, Policy::Spare, Policy::Exec, Policy::Reuse][..],
        false => &[Policy::Instance, Policy::Spare],
    };
    let mut rows = Vec::new();
    for policy in all.iter().copied() {
        let bench = &*job.bench;
        let runner = move || bench.runner(policy, Cache::Directory(bench.cache().to_owned()));
        if policy.mode() == Mode::Thread {
            // In this process alone: no need for a runner each time.
            let ready = Ready::new(comparison, runner()?)?;
            ready.run(comparison)?;
            let side = move || {
                let before = sys::own_usage();
                for _ in 0..many {
                    ready.run(comparison)?;
                }
                let used = sys::own_usage().since(&before);
                Ok(vec![used.get(measure) / f64::from(many)])
            };
            let row = Row::of(measure, policy, Box::new(side));
            rows.push(match &bare {
                Some(bare) => row.floor(
                    "bare wasmtime: instantiate, call, drop",
                    Box::new(move || {
                        let before = sys::own_usage();
                        for _ in 0..many {
                            bare.run().map_err(failed)?;
                        }
                        let used = sys::own_usage().since(&before);
                        Ok(vec![used.get(measure) / f64::from(many)])
                    }),
                ),
                None => row,
            });
            continue;
        }
        let side = move || -> Result<Vec<f64>, Error> {
            let few = used(comparison, runner, 1)?;
            let many = used(comparison, runner, count + 1)?;
            let more = many.get(measure) - few.get(measure);
            Ok(vec![more.max(0.0) / f64::from(count)])
        };
        let row = Row::of(measure, policy, Box::new(side));
        let fresh = policy != Policy::Reuse;
        rows.push(match &floor {
            Some(floor) => {
                let floor = floor.clone();
                let name = match fresh {
                    true => FORKS,
                    false => "bare pipe to a process, instantiate, call, pipe back",
                };
                let side = move || {
                    let mut floor = floor.borrow_mut();
                    let own = sys::own_usage();
                    let before = floor.usage().map_err(failed)?;
                    match fresh {
                        true => drop(floor.tasks(count, 1).map_err(failed)?),
                        false => {
                            for _ in 0..count {
                                floor.call(false).map_err(failed)?;
                            }
                        }
                    }
                    let used = floor.usage().map_err(failed)?.since(&before);
                    let used = used.and(sys::own_usage().since(&own));
                    Ok(vec![used.get(measure) / f64::from(count)])
                };
                row.floor(name, Box::new(side))
            }
            None => row,
        });
    }
    let rounds = comparison.rounds.min(12);
    let comparison = comparison.clone().rounds(rounds);
    let watch = &mut *job.watch;
    Ok(crate::compare::rounds::measure(
        &comparison,
        rows,
        job.time,
        &mut job.notes,
        watch,
    ))
}

/// What this process and its children that ended use for a runner and so many tasks.
fn used(
    comparison: &Comparison,
    runner: impl Fn() -> Result<crate::Runner, Error>,
    tasks: u32,
) -> Result<Usage, Error> {
    let all = || sys::own_usage().and(sys::children_usage());
    let before = all();
    let ready = Ready::new(comparison, runner()?)?;
    for _ in 0..tasks {
        ready.run(comparison)?;
    }
    drop(ready);
    Ok(all().since(&before))
}

impl Usage {
    fn get(&self, measure: Measure) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let count = |count: u64| count as f64;
        match measure {
            Measure::Faults => count(self.minor_faults + self.major_faults),
            Measure::Switches => count(self.voluntary_switches + self.involuntary_switches),
            _ => nanos(self.user_cpu + self.system_cpu),
        }
    }
}
