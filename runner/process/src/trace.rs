//! The events of worker processes and of their jails, in their runner; the documentation of
//! wrun lists them.
//!
//! Not for code that runs in a worker, a zygote or a compiler, where there is no
//! subscriber, and none of its locks. Invariant: no field has text of a process that a
//! guest may have taken over, except for text from before it had a task; that is without
//! control characters.

use super::breaker::{Failure, Restraint};
use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;
use wrun_sys::Unpoisoned;
use wrun_types::config::Start;
use wrun_types::jail_report::{JailReport, Layer, LayerState};
use wrun_types::outcome::{Crash, on_one_line};
use wrun_types::report::nanos;

const TASK: &str = "wrun::task";
const LOAD: &str = "wrun::load";
const WORKER: &str = "wrun::worker";
const JAIL: &str = "wrun::jail";

/// A task starts in a worker.
pub(super) fn started(attempt: u32, pid: Option<u32>, start: Start, overhead: Duration) {
    tracing::debug!(
        target: TASK,
        attempt,
        worker_pid = pid,
        start_method = start.name(),
        overhead_ns = nanos(overhead),
        "started"
    );
}

/// A worker died before its task had an outcome.
pub(super) fn crashed(task: u64, attempt: u32, pid: Option<u32>, crash: &Crash) {
    tracing::warn!(
        target: WORKER,
        task_id = task,
        attempt,
        worker_pid = pid,
        how = on_one_line(&crash.how().to_string()),
        words_len = crash.words().map_or(0, str::len),
        "worker crashed"
    );
}

/// A worker had not ended by itself when its task's time was up, and was killed.
pub(super) fn killed_late(task: u64, attempt: u32, pid: Option<u32>, grace: Duration) {
    tracing::warn!(
        target: WORKER,
        task_id = task,
        attempt,
        worker_pid = pid,
        grace_ns = nanos(grace),
        "worker did not end at its deadline and was killed"
    );
}

/// A worker's engine does not accept the cached code.
pub(super) fn refused(task: u64, why: &str) {
    tracing::warn!(
        target: LOAD,
        task_id = task,
        why = on_one_line(why),
        "the engine refused cached code: compiling again"
    );
}

/// A zygote is ready.
pub(super) fn zygote_started(pid: u32) {
    tracing::debug!(target: WORKER, zygote_pid = pid, "zygote started");
}

/// A zygote is gone: by itself, unless it was not needed any more.
pub(super) fn zygote_ended(pid: u32, died: Option<Failure>) {
    match died {
        None => tracing::debug!(target: WORKER, zygote_pid = pid, "zygote ended"),
        Some(how) => tracing::warn!(
            target: WORKER,
            zygote_pid = pid,
            how = how.name(),
            "zygote died"
        ),
    }
}

/// A worker or zygote died while it started; and the consequence for other starts.
pub(super) fn start_failed(how: Failure, why: &str, restraint: &Restraint) {
    match restraint {
        Restraint::Open {
            failures, again, ..
        } => tracing::error!(
            target: WORKER,
            failures,
            again_ns = nanos(*again),
            how = how.name(),
            why = on_one_line(why),
            "workers keep dying while they start: none is started for a while"
        ),
        _ => tracing::warn!(
            target: WORKER,
            how = how.name(),
            why = on_one_line(why),
            "a worker died while it started"
        ),
    }
}

/// A worker is started as a program, although it should have been forked.
pub(super) fn not_forked(why: &str) {
    tracing::warn!(
        target: WORKER,
        why = on_one_line(why),
        "started by exec: forking failed"
    );
}

/// What a runner has reported about the jails of its workers: each finding once.
#[derive(Default)]
pub(super) struct Reported(Mutex<HashSet<(Layer, LayerState)>>);

impl Reported {
    /// The walls of a process that was started. They belong to its runner, not to the task
    /// it was started for: in no span.
    pub(super) fn jail(&self, report: &JailReport) {
        let whole = |state| state == LayerState::Enforced;
        if report.layers.iter().all(|layer| whole(layer.state)) {
            return;
        }
        for layer in &report.layers {
            if whole(layer.state) || !self.is_new(layer.layer, layer.state) {
                continue;
            }
            let (name, state) = (layer.layer.name(), layer.state.name());
            // The worker reported this before it had code.
            match layer.layer.is_required() {
                true => tracing::warn!(
                    target: JAIL,
                    parent: None,
                    layer = name,
                    state,
                    why = on_one_line(&layer.detail),
                    "a required layer of the jail is missing"
                ),
                false => tracing::info!(
                    target: JAIL,
                    parent: None,
                    layer = name,
                    state,
                    why = on_one_line(&layer.detail),
                    "a layer of the jail is missing"
                ),
            }
        }
    }

    /// A worker ran as root.
    pub(super) fn as_root(&self, note: &str) {
        // Whatever the other layers are, this one is missing.
        if self.is_new(Layer::Identity, LayerState::Unavailable) {
            tracing::warn!(
                target: JAIL,
                    parent: None,
                layer = Layer::Identity.name(),
                why = on_one_line(note),
                "a worker runs as root"
            );
        }
    }

    fn is_new(&self, layer: Layer, state: LayerState) -> bool {
        let mut reported = self.0.lock().unpoisoned();
        reported.insert((layer, state))
    }
}
