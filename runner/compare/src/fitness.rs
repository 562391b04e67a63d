//! Whether a task can be compared: it must complete in both modes, with the same output.

use super::bench::{Bench, Ready};
use super::comparison::{Step, Watch};
use super::hint::{denial, hint};
use super::results::{Policy, Results, Subject, Verdict};
use bytes::Bytes;
use std::time::{Duration, Instant};
use wrun::measure::WholeResponse;
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
    /// What it put out or answered.
    pub(super) output: Bytes,
}

/// One run.
struct Ran {
    report: Report,
    output: Bytes,
    time: Duration,
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
            let as_root = first.report.notes.iter().find(|it| it.starts_with(AS_ROOT));
            results.notes.extend(as_root.cloned());
            results.environment.jail_mode = first.report.jail_mode.unwrap_or_default();
            results.environment.jail = first.report.jail.clone();
        }
        let second = match first.time < AGAIN && first.report.outcome.is_completed() {
            true => Some(once(bench, &ready)?),
            false => None,
        };
        seen.push((mode, first, second));
    }
    let [(_, thread, thread_again), (_, process, process_again)] = &seen[..] else {
        return Ok(None);
    };
    let repeats =
        |first: &Ran, again: &Option<Ran>| again.as_ref().is_none_or(|again| same(first, again));
    let deterministic = repeats(thread, thread_again) && repeats(process, process_again);
    results.subject.output_bytes = thread.output.len() as u64;
    if results.subject.request.is_some()
        && let Some(response) = WholeResponse::from_bytes(&thread.output)
    {
        results.subject.output_bytes = response.body.len() as u64;
        results.subject.status = Some(response.status);
        if response.status >= 400 {
            results.notes.push(format!(
                "the status of its response is {}: --request makes another request",
                response.status
            ));
        }
    }
    results.subject.peak_memory_bytes = thread.report.stats.peak_memory_bytes;
    if let Some(verdict) = verdict(thread, process, deterministic) {
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
    let mut refused = thread.report.denied.iter();
    if let Some(denied) = refused.find(|it| it.access != Access::Directories) {
        results.notes.push(format!(
            "it completed, though it was refused: {}",
            denial(denied)
        ));
    }
    let run = thread_again
        .as_ref()
        .map_or(thread.time, |again| again.time.min(thread.time));
    Ok(Some(Fit {
        run,
        deterministic,
        output: thread.output.clone(),
    }))
}

fn once(bench: &Bench<'_>, ready: &Ready) -> Result<Ran, Error> {
    let began = Instant::now();
    let (report, output) = ready.done(ready.task(bench.comparison))?;
    Ok(Ran {
        report,
        output,
        time: began.elapsed(),
    })
}

fn subject(bench: &Bench<'_>, ready: &Ready) -> Subject {
    Subject {
        name: ready.artifact.name().to_owned(),
        shape: ready.artifact.shape().describe().to_owned(),
        bytes: ready.artifact.source_len(),
        digest: ready.artifact.digest(),
        args: bench.comparison.args.clone(),
        request: ready.asked(),
        status: None,
        input_bytes: ready.input_bytes(bench.comparison),
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

fn same(one: &Ran, other: &Ran) -> bool {
    one.report.outcome.kind() == other.report.outcome.kind() && one.output == other.output
}

/// Why two runs, one in each mode, cannot be compared; `None` if they can.
fn verdict(thread: &Ran, process: &Ran, deterministic: bool) -> Option<Verdict> {
    match (&thread.report.outcome, &process.report.outcome) {
        (Outcome::Completed(_), Outcome::Completed(_)) => {
            if !deterministic || thread.output == process.output {
                return None;
            }
            let bytes = thread.output.iter().zip(&process.output);
            let at = { bytes }.position(|(one, other)| one != other);
            let at = at.unwrap_or(thread.output.len().min(process.output.len()));
            let say = |ran: &Ran| {
                let len = ran.output.len();
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
            help: help(&thread.report),
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
