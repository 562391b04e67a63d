//! Counts of the kernel for a task: CPU time, page faults, context switches.

use super::tasks::FORKS;
use super::{Job, Rows, failed, nanos};
use crate::{
    bench::Ready,
    comparison::Comparison,
    measure::{Floor, Work, descendants},
    results::{Measure, Policy},
    rounds::Row,
};
use std::cell::RefCell;
use std::fs;
use std::rc::Rc;
use std::time::Duration;
use wrun::{Cache, Error, Mode, Runner, Usage};

/// Tasks of one round, at most.
const TASKS: u32 = 100;
/// The same, where they are threads.
const TASKS_OF_THREADS: u32 = 2_000;
/// More than the time until a worker that ended is reaped.
const REAPED: Duration = Duration::from_millis(15);

/// The usage of a runner and all of its processes for a task, without that before the first and
/// after the last task.
pub(super) fn usage(job: &mut Job<'_, '_>, measure: Measure) -> Rows {
    let comparison = job.bench.comparison;
    let count = job.fit(Duration::from_millis(100), TASKS).max(2);
    let many = job.fit(Duration::from_millis(20), TASKS_OF_THREADS).max(2);
    let bare = job.bare()?;
    let floor = job.floor()?.map(|floor| Rc::new(RefCell::new(floor)));
    // Otherwise their ends would be counted.
    job.bench.end_runners();
    let all = match job.run < Duration::from_millis(300) {
        true => &[Policy::Instance, Policy::Spare, Policy::Exec, Policy::Reuse][..],
        false => &[Policy::Instance, Policy::Spare],
    };
    let mut rows = Vec::new();
    for policy in all.iter().copied() {
        let bench = &*job.bench;
        let runner = move || bench.runner(policy, Cache::Directory(bench.cache()));
        if policy == Policy::Reuse {
            let ready = Ready::new(comparison, runner()?)?;
            ready.run(comparison)?;
            let side = Box::new(move || {
                let before = wrun::measure::sys::own_usage().and(living());
                for _ in 0..count {
                    ready.run(comparison)?;
                }
                let used = wrun::measure::sys::own_usage().and(living()).since(&before);
                Ok(vec![amount(&used, measure) / f64::from(count)])
            });
            let row = Row::of(measure, policy, side);
            rows.push(match &floor {
                Some(floor) => {
                    let floor = floor.clone();
                    let side = Box::new(move || {
                        let mut floor = floor.borrow_mut();
                        let all = |floor: &mut Floor| -> Result<Usage, Error> {
                            Ok(floor
                                .usage()
                                .map_err(failed)?
                                .and(wrun::measure::sys::own_usage()))
                        };
                        let before = all(&mut floor)?;
                        for _ in 0..count {
                            floor.call(false).map_err(failed)?;
                        }
                        let used = all(&mut floor)?.since(&before);
                        Ok(vec![amount(&used, measure) / f64::from(count)])
                    });
                    row.floor("bare pipe to a process, instantiate, call, pipe back", side)
                }
                None => row,
            });
            continue;
        }
        if policy.mode() == Mode::Thread {
            // In this process alone: no need for a runner each time.
            let ready = Ready::new(comparison, runner()?)?;
            ready.run(comparison)?;
            let side = move || {
                let before = wrun::measure::sys::own_usage();
                for _ in 0..many {
                    ready.run(comparison)?;
                }
                let used = wrun::measure::sys::own_usage().since(&before);
                Ok(vec![amount(&used, measure) / f64::from(many)])
            };
            let row = Row::of(measure, policy, Box::new(side));
            rows.push(match &bare {
                Some(bare) => row.floor(
                    "bare wasmtime: instantiate, call, drop",
                    Box::new(move || {
                        let before = wrun::measure::sys::own_usage();
                        for _ in 0..many {
                            bare.run().map_err(failed)?;
                        }
                        let used = wrun::measure::sys::own_usage().since(&before);
                        Ok(vec![amount(&used, measure) / f64::from(many)])
                    }),
                ),
                None => row,
            });
            continue;
        }
        let side = move || -> Result<Vec<f64>, Error> {
            let few = used(comparison, runner, 1)?;
            let many = used(comparison, runner, count + 1)?;
            let more = amount(&many, measure) - amount(&few, measure);
            Ok(vec![more.max(0.0) / f64::from(count)])
        };
        let row = Row::of(measure, policy, Box::new(side));
        rows.push(match &floor {
            Some(floor) => {
                let floor = floor.clone();
                let side = Box::new(move || {
                    let mut floor = floor.borrow_mut();
                    let before = floor.usage().map_err(failed)?;
                    floor.tasks(Work::Ready, count, 1).map_err(failed)?;
                    let used = floor.usage().map_err(failed)?.since(&before);
                    Ok(vec![amount(&used, measure) / f64::from(count)])
                });
                row.floor(FORKS, side)
            }
            None => row,
        });
    }
    let rounds = comparison.rounds.min(12);
    let comparison = comparison.clone().rounds(rounds);
    let watch = &mut *job.watch;
    Ok(crate::rounds::measure(
        &comparison,
        rows,
        job.time,
        &mut job.notes,
        watch,
    ))
}

/// The usage of this process, and of its children that ended, for a runner and this many tasks.
fn used(
    comparison: &Comparison,
    runner: impl Fn() -> Result<Runner, Error>,
    tasks: u32,
) -> Result<Usage, Error> {
    let all = || wrun::measure::sys::own_usage().and(wrun::measure::sys::children_usage());
    let before = all();
    let ready = Ready::new(comparison, runner()?)?;
    for _ in 0..tasks {
        ready.run(comparison)?;
    }
    // What is not reaped is not counted: the last worker, before its zygote ends.
    std::thread::sleep(REAPED);
    drop(ready);
    Ok(all().since(&before))
}

/// The usage so far of all processes below this one that are alive. Processes that end
/// meanwhile are not included.
fn living() -> Usage {
    let mut all = Usage::default();
    for pid in descendants(std::process::id()) {
        let read =
            |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let number = |text: Option<&str>| text.and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
        // The first of three is the time on a processor, in nanoseconds.
        let cpu = number(read("schedstat").split_whitespace().next());
        all.user_cpu += Duration::from_nanos(cpu);
        // Behind the name in parentheses: the 8th is minor faults, the 10th major.
        let stat = read("stat");
        let fields: Vec<&str> = stat
            .rsplit_once(") ")
            .map_or("", |it| it.1)
            .split(' ')
            .collect();
        all.minor_faults += number(fields.get(7).copied());
        all.major_faults += number(fields.get(9).copied());
        let status = read("status");
        for (name, sum) in [
            ("voluntary_ctxt_switches:", &mut all.voluntary_switches),
            ("nonvoluntary_ctxt_switches:", &mut all.involuntary_switches),
        ] {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            *sum += number(line.map(str::trim));
        }
    }
    all
}

/// One measure of what was used.
fn amount(used: &Usage, measure: Measure) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let count = |count: u64| count as f64;
    match measure {
        Measure::Faults => count(used.minor_faults + used.major_faults),
        Measure::Switches => count(used.voluntary_switches + used.involuntary_switches),
        _ => nanos(used.user_cpu + used.system_cpu),
    }
}
