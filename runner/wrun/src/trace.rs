//! The spans and events of tasks and of loading; the crate's documentation lists them.
//!
//! Invariants: nothing is allocated or formatted without a subscriber; text from a guest
//! (its output, its messages, the names of its functions) is not in any field.

use crate::launch::Ran;
use std::time::{Duration, Instant};
use tracing::Span;
use tracing::field::Empty;
use wrun_sandbox::Artifact;
use wrun_types::config::Mode;
use wrun_types::error::Error;
use wrun_types::outcome::Outcome;
use wrun_types::report::{Report, nanos};

const TASK: &str = "wrun::task";
const LOAD: &str = "wrun::load";

/// Hexadecimal digits of a digest that identify an artifact.
const DIGITS: usize = 16;

/// The beginning of an artifact's digest.
fn short(artifact: &Artifact) -> String {
    let mut digest = artifact.digest();
    digest.truncate(DIGITS);
    digest
}

/// The span of a task, in the current one: the span of its submitter, or of its parent.
pub(crate) fn task(id: u64, name: &str, artifact: &Artifact, mode: Mode) -> Span {
    tracing::info_span!(
        target: TASK,
        "task",
        task_id = id,
        task_name = name,
        artifact = short(artifact),
        mode = mode.name(),
        attempt = Empty,
    )
}

/// Loads, and emits the event for it.
pub(crate) fn load<E>(load: impl FnOnce() -> Result<Artifact, E>) -> Result<Artifact, E> {
    let began = Instant::now();
    let artifact = load()?;
    let total_ns = nanos(began.elapsed());
    match artifact.compiled() {
        Some(compiled) => {
            tracing::info!(
                target: LOAD,
                name = artifact.name(),
                artifact = short(&artifact),
                from = "compiler",
                compile_ns = nanos(compiled.time),
                total_ns,
                "loaded"
            );
            if let Some(why) = compiled.not_kept {
                tracing::warn!(
                    target: LOAD,
                    name = artifact.name(),
                    artifact = short(&artifact),
                    why,
                    "compiled code is not cached"
                );
            }
        }
        None => tracing::debug!(
            target: LOAD,
            name = artifact.name(),
            artifact = short(&artifact),
            from = if artifact.is_precompiled() { "artifact" } else { "cache" },
            total_ns,
            "loaded"
        ),
    }
    Ok(artifact)
}

/// Code that a task needs was missing, such as code that counts fuel, and was compiled.
pub(crate) fn prepared(artifact: &Artifact, metered: bool) {
    tracing::debug!(
        target: LOAD,
        artifact = short(artifact),
        metered,
        compile_ns = artifact.made(metered).map(|compiled| nanos(compiled.time)),
        "prepared"
    );
}

/// The engine refused the cached code.
pub(crate) fn refused(artifact: &Artifact, why: &impl std::fmt::Display) {
    tracing::warn!(
        target: LOAD,
        name = artifact.name(),
        artifact = short(artifact),
        why = why.to_string(),
        "the engine refused cached code: compiling again"
    );
}

/// A task waits for a permit.
pub(crate) fn queued() {
    tracing::debug!(target: TASK, "queued");
}

/// A task starts on threads of this process.
pub(crate) fn started(attempt: u32) {
    tracing::debug!(target: TASK, attempt, "started");
}

/// An attempt crashed, and a new one follows after this time.
pub(crate) fn retrying(next: u32, pause: Duration) {
    Span::current().record("attempt", next);
    tracing::info!(target: TASK, attempt = next, pause_ns = nanos(pause), "retrying");
}

/// An attempt crashed, and a new one is not made although one was allowed.
pub(crate) fn not_retried(why: &str) {
    tracing::info!(target: TASK, why, "not retried");
}

/// The result of a submitted task.
pub(crate) fn ended(report: &Report) {
    let (code, trap, limit) = details(&report.outcome);
    let stats = &report.stats;
    tracing::debug!(
        target: TASK,
        outcome = report.outcome.kind(),
        code,
        trap,
        limit,
        attempt = report.attempt,
        queue_ns = nanos(stats.queue),
        start_ns = nanos(stats.start),
        run_ns = nanos(stats.run),
        total_ns = nanos(stats.total),
        children = stats.children,
        "ended"
    );
}

/// The result of a child task.
pub(crate) fn child_ended(ran: &Result<Ran, Error>, began: Instant) {
    let ran = match ran {
        Ok(ran) => ran,
        Err(error) => return not_run(error),
    };
    let result = &ran.executed.result;
    let (code, trap, limit) = details(&result.outcome);
    tracing::debug!(
        target: TASK,
        outcome = result.outcome.kind(),
        code,
        trap,
        limit,
        attempt = ran.attempt,
        queue_ns = nanos(ran.queue),
        start_ns = nanos(ran.executed.overhead.saturating_add(result.start)),
        run_ns = nanos(result.run),
        total_ns = nanos(began.elapsed()),
        "ended"
    );
}

/// A command's exit code, the class of a trap, the name of a limit.
fn details(outcome: &Outcome) -> (Option<u8>, Option<&'static str>, Option<&'static str>) {
    match outcome {
        Outcome::Exited(code) => (Some(*code), None, None),
        Outcome::Trapped(trap) => (None, Some(trap.kind.name()), None),
        Outcome::LimitExceeded(limit) => (None, None, Some(limit.name())),
        _ => (None, None, None),
    }
}

/// There is no outcome: the runner could not run the task.
pub(crate) fn not_run(error: &Error) {
    tracing::debug!(target: TASK, error = error.to_string(), "not run");
}
