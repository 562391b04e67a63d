//! Whether a task can be compared: it must complete in both modes, with the same output.

use super::bench::{Bench, Ready};
use super::comparison::{Step, Watch};
use super::hint::{denial, hint};
use super::results::{Policy, Results, Subject, Verdict};
use std::time::{Duration, Instant};
use wrun::{Access, Error, ErrorKind, Limit, Mode, Outcome, Report, measure::process::AS_ROOT};

/// Longer tasks are run once in each mode.
const AGAIN: Duration = Duration::from_secs(1);

/// Bytes at the end of its stderr in which a task may say why it failed.
const LAST_WORDS: usize = 4096;

/// The findings about a task that can be compared.
pub(super) struct Fit {
    /// Its approximate time in thread mode.
    pub(super) run: Duration,
    /// Its output is the same each time.
    pub(super) deterministic: bool,
}

/// Runs it in both modes; `None` if it cannot be compared, and the verdict says why.
pub(super) fn look(
    bench: &mut Bench<'_>,
    results: &mut Results,
    watch: Watch<'_>,
) -> Result<Option<Fit>, Error> {
    let mut seen = Vec::new();
    for (mode, policy) in [
        (Mode::Thread, Policy::Instance),
        (Mode::Process, Policy::Spare),
    ] {
        let what = match mode {
            Mode::Thread => "compiling, then thread mode",
            Mode::Process => "the task in process mode",
        };
        if watch(Step {
            what,
            done: 500 * seen.len() as u32,
        })
        .is_break()
        {
            results.complete = false;
            return Ok(None);
        }
        let ready = match bench.ready(policy) {
            Ok(ready) => ready,
            Err(error) => match refused(&error) {
                Some(why) => {
                    // Both modes load in the same way, but only one of them has a jail.
                    results.verdict = Verdict::Unfit {
                        mode: (error.kind() == ErrorKind::Jail).then_some(mode),
                        why,
                        help: option(&error).map(Into::into),
                    };
                    return Ok(None);
                }
                None => return Err(error),
            },
        };
        results.subject = subject(bench, &ready);
        let first = once(bench, &ready)?;
        if mode == Mode::Process {
            let as_root = first.0.notes.iter().find(|it| it.starts_with(AS_ROOT));
            results.notes.extend(as_root.cloned());
            results.environment.jail_mode = first.0.jail_mode.unwrap_or_default();
            results.environment.jail = first.0.jail.clone();
        }
        let second = match first.1 < AGAIN && first.0.outcome.is_completed() {
            true => Some(once(bench, &ready)?),
            false => None,
        };
        seen.push((mode, first, second));
    }
    let [(_, thread, thread_again), (_, process, process_again)] = &seen[..] else {
        return Ok(None);
    };
    let repeats = |first: &Report, again: &Option<(Report, Duration)>| {
        again.as_ref().is_none_or(|(again, _)| same(first, again))
    };
    let deterministic = repeats(&thread.0, thread_again) && repeats(&process.0, process_again);
    results.subject.output_bytes = output(&thread.0).len() as u64;
    results.subject.peak_memory_bytes = thread.0.stats.peak_memory_bytes;
    if let Some(verdict) = verdict(&thread.0, &process.0, deterministic) {
        results.verdict = verdict;
        return Ok(None);
    }
    if !deterministic {
        results.notes.push(
            "its output is another each time, so that the outputs of the modes were not \
             compared"
                .into(),
        );
    }
    // Many runtimes look for directories at start, whether they need any or not.
    let mut refused = thread.0.denied.iter();
    if let Some(denied) = refused.find(|it| it.access != Access::Directories) {
        results.notes.push(format!(
            "it completed, though it was refused: {}",
            denial(denied)
        ));
    }
    let run = thread_again
        .as_ref()
        .map_or(thread.1, |again| again.1.min(thread.1));
    Ok(Some(Fit { run, deterministic }))
}

fn once(bench: &Bench<'_>, ready: &Ready) -> Result<(Report, Duration), Error> {
    let began = Instant::now();
    let report = ready.runner.blocking_run(ready.task(bench.comparison))?;
    Ok((report, began.elapsed()))
}

fn subject(bench: &Bench<'_>, ready: &Ready) -> Subject {
    Subject {
        name: ready.artifact.name().to_owned(),
        shape: ready.artifact.shape().describe().to_owned(),
        bytes: ready.artifact.source_len(),
        digest: ready.artifact.digest(),
        args: bench.comparison.args.clone(),
        input_bytes: bench.comparison.input.len() as u64,
        output_bytes: 0,
        peak_memory_bytes: None,
    }
}

/// What is wrong with the task, if an error is about it.
fn refused(error: &Error) -> Option<String> {
    matches!(error.kind(), ErrorKind::LoadLimit | ErrorKind::Jail).then(|| error.to_string())
}

/// The option that may help against an error.
fn option(error: &Error) -> Option<&'static str> {
    match error.limit() {
        Some(Limit::CompileTime) => Some("--compile-timeout gives compiling more"),
        Some(Limit::CompileMemory) => Some("--compile-memory gives compiling more"),
        _ if error.layer().is_some() => Some("--jail best-effort runs the task without it"),
        _ => None,
    }
}

fn output(report: &Report) -> &[u8] {
    &report.stdout
}

fn same(one: &Report, other: &Report) -> bool {
    one.outcome.kind() == other.outcome.kind() && output(one) == output(other)
}

/// Why two runs, one in each mode, cannot be compared; `None` if they can.
fn verdict(thread: &Report, process: &Report, deterministic: bool) -> Option<Verdict> {
    match (&thread.outcome, &process.outcome) {
        (Outcome::Completed(_), Outcome::Completed(_)) => {
            if !deterministic || output(thread) == output(process) {
                return None;
            }
            let at = output(thread)
                .iter()
                .zip(output(process))
                .position(|(one, other)| one != other);
            let at = at.unwrap_or(output(thread).len().min(output(process).len()));
            let say = |report: &Report| {
                let len = output(report).len();
                format!("completed with {len} bytes, which differ from byte {at} on")
            };
            Some(Verdict::Differs {
                thread: say(thread),
                process: say(process),
            })
        }
        (one, other) if one.kind() == other.kind() => Some(Verdict::Unfit {
            mode: None,
            why: why(one),
            help: help(thread),
        }),
        (one, other) => Some(Verdict::Differs {
            thread: why(one),
            process: why(other),
        }),
    }
}

fn why(outcome: &Outcome) -> String {
    match outcome {
        Outcome::LimitExceeded(Limit::Deadline) => "it did not end within its time limit".into(),
        other => other.to_string(),
    }
}

fn help(report: &Report) -> Option<String> {
    match report.outcome {
        Outcome::LimitExceeded(Limit::Deadline) => Some("--timeout gives it more time".into()),
        Outcome::LimitExceeded(Limit::Memory) => Some("--max-memory gives it more memory".into()),
        _ => {
            let last = report.stderr.len().saturating_sub(LAST_WORDS);
            let words = String::from_utf8_lossy(&report.stderr[last..]);
            hint(report, &words, "wrun run --stats")
        }
    }
}
