//! What a runner and its worker processes do, in the text form of OpenMetrics.

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::atomic::Ordering;
use wrun::{Mode, RunnerStats, WorkerStats};

/// The metrics of a [`Runner`](wrun::Runner), of its worker processes if it has any, and of this
/// process. What else a program counts can stand beside them in one answer.
pub struct RunnerMetrics {
    registry: Registry,
    runner: OfRunner,
    /// Only where there are workers.
    workers: Option<OfWorkers>,
    resident: Gauge,
}

impl RunnerMetrics {
    /// Those of a runner in this mode.
    pub fn new(mode: Mode) -> Self {
        let mut registry = Registry::default();
        let all = registry.sub_registry_with_prefix("wrun");
        let runner = OfRunner::default();
        runner.register(all);
        let workers = (mode == Mode::Process).then(OfWorkers::default);
        if let Some(workers) = &workers {
            workers.register(all);
        }
        let resident = Gauge::default();
        // The name that all have who export it.
        registry.register_with_unit(
            "process_resident_memory",
            "Resident memory of the process that has the runner",
            Unit::Bytes,
            resident.clone(),
        );
        RunnerMetrics {
            registry,
            runner,
            workers,
            resident,
        }
    }

    /// Appends them, without the line that ends a text of OpenMetrics.
    ///
    /// # Errors
    ///
    /// `to` takes no more.
    pub fn write(&self, to: &mut impl fmt::Write, stats: &RunnerStats) -> fmt::Result {
        self.runner.set(stats);
        if let (Some(workers), Some(stats)) = (&self.workers, &stats.workers) {
            workers.set(stats);
        }
        self.resident.set(gauged(resident().unwrap_or(0)));
        text::encode_registry(to, &self.registry)
    }
}

impl fmt::Debug for RunnerMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunnerMetrics").finish_non_exhaustive()
    }
}

/// What the runner is doing, when it was last asked.
#[derive(Clone, Default)]
struct OfRunner {
    queued: Gauge,
    running: Gauge,
    children: Gauge,
    compiling: Gauge,
}

/// The worker processes, when the runner was last asked.
#[derive(Clone, Default)]
struct OfWorkers {
    alive: Gauge,
    spares: Gauge,
    reusable: Gauge,
    zygotes: Gauge,
    memory: Gauge,
    started: Counter,
    restarted: Counter,
}

impl OfRunner {
    fn set(&self, stats: &RunnerStats) {
        self.queued.set(gauged(stats.queued));
        self.running.set(gauged(stats.running));
        self.children.set(gauged(stats.children));
        self.compiling.set(gauged(stats.compiling));
    }

    fn register(&self, all: &mut Registry) {
        for (name, help, gauge) in [
            (
                "tasks_queued",
                "Tasks that wait for a place to run",
                &self.queued,
            ),
            (
                "tasks_running",
                "Tasks that have a place to run",
                &self.running,
            ),
            (
                "child_tasks_running",
                "Tasks that those have started and that run",
                &self.children,
            ),
            (
                "tasks_compiling",
                "Files that are being compiled",
                &self.compiling,
            ),
        ] {
            all.register(name, help, gauge.clone());
        }
    }
}

impl OfWorkers {
    fn set(&self, stats: &WorkerStats) {
        self.alive.set(gauged(stats.alive));
        self.spares.set(gauged(stats.spares));
        self.reusable.set(gauged(stats.reusable));
        self.zygotes.set(gauged(stats.zygotes));
        self.memory.set(gauged(stats.memory_bytes));
        self.started.inner().store(stats.started, Ordering::Relaxed);
        self.restarted
            .inner()
            .store(stats.restarted, Ordering::Relaxed);
    }

    fn register(&self, all: &mut Registry) {
        for (name, help, gauge) in [
            ("workers", "Worker processes, with idle ones", &self.alive),
            (
                "workers_spare",
                "Idle workers that have not run a task",
                &self.spares,
            ),
            (
                "workers_reusable",
                "Idle workers that may run another task",
                &self.reusable,
            ),
            ("zygotes", "Processes that fork workers", &self.zygotes),
        ] {
            all.register(name, help, gauge.clone());
        }
        all.register_with_unit(
            "workers_resident_memory",
            "Resident memory of workers and zygotes; what they share is counted for each",
            Unit::Bytes,
            self.memory.clone(),
        );
        all.register(
            "workers_started",
            "Worker processes that were started",
            self.started.clone(),
        );
        all.register(
            "workers_restarted",
            "Workers and zygotes that died without having been ended: another takes their place",
            self.restarted.clone(),
        );
    }
}

/// A number that is not above what a gauge can have.
fn gauged(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// The resident memory of this process in bytes.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}
