//! What is counted, in the text form of OpenMetrics.

use crate::record::{Ended, Record};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::atomic::Ordering;
use wrun::{Mode, Outcome, RunnerStats, WorkerStats};

/// Upper bounds in seconds: from a hello in thread mode to the default timeout.
const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// Lines of the access log that were lost.
pub(crate) type LostLines = Counter;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    route: String,
    code: u16,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reload {
    result: &'static str,
}

/// The counters of a server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answer, Counter>,
    duration: Family<Route, Histogram>,
    queued: Histogram,
    started: Histogram,
    received: Counter,
    sent: Counter,
    crashes: Counter,
    peak_memory: Histogram,
    closed: Family<Cause, Counter>,
    reloads: Family<Reload, Counter>,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) accepted: Counter,
    pub(crate) version: Gauge,
    pub(crate) lost_lines: LostLines,
    runner: OfRunner,
    /// Only where there are workers.
    workers: Option<OfWorkers>,
    resident: Gauge,
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
                "Tasks of requests that wait for a place to run",
                &self.queued,
            ),
            (
                "tasks_running",
                "Tasks of requests that have a place to run",
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

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    pub(crate) fn new(mode: Mode) -> Self {
        let metrics = Metrics {
            registry: Registry::default(),
            requests: Family::default(),
            duration: Family::new_with_constructor(seconds),
            queued: seconds(),
            started: seconds(),
            received: Counter::default(),
            sent: Counter::default(),
            crashes: Counter::default(),
            // 1 MiB to 4 GiB.
            peak_memory: Histogram::new((0..13).map(|power| f64::from(1 << power) * 1_048_576.0)),
            closed: Family::default(),
            reloads: Family::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            accepted: Counter::default(),
            version: Gauge::default(),
            lost_lines: LostLines::default(),
            runner: OfRunner::default(),
            workers: (mode == Mode::Process).then(OfWorkers::default),
            resident: Gauge::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let all = self.registry.sub_registry_with_prefix("wrun");
        all.register(
            "http_requests",
            "Requests that are over, by the status of the answer (499: the client left before \
             it) and how the task ended",
            self.requests.clone(),
        );
        all.register_with_unit(
            "http_request_duration",
            "From the first byte of a request to the end of its task",
            Unit::Seconds,
            self.duration.clone(),
        );
        all.register(
            "http_requests_in_flight",
            "Requests that are not over",
            self.in_flight.clone(),
        );
        all.register(
            "http_received_bytes",
            "Bytes of the bodies of requests",
            self.received.clone(),
        );
        all.register(
            "http_sent_bytes",
            "Bytes of the bodies of answers",
            self.sent.clone(),
        );
        all.register(
            "http_connections",
            "Connections that are open",
            self.connections.clone(),
        );
        all.register(
            "http_accepted_connections",
            "Connections that were accepted",
            self.accepted.clone(),
        );
        all.register(
            "http_closed_connections",
            "Connections that the server closed because of the client",
            self.closed.clone(),
        );
        all.register_with_unit(
            "task_queue",
            "From the submission of a request's task until it had a place to run",
            Unit::Seconds,
            self.queued.clone(),
        );
        all.register_with_unit(
            "task_start",
            "From there until the first instruction of the app",
            Unit::Seconds,
            self.started.clone(),
        );
        all.register_with_unit(
            "task_peak_memory",
            "Peak of the linear memory of a request's task",
            Unit::Bytes,
            self.peak_memory.clone(),
        );
        all.register(
            "worker_crashes",
            "Worker processes that died under a request; another takes the next",
            self.crashes.clone(),
        );
        all.register(
            "served_version",
            "The version that answers: 1 at the start, one more after each reload",
            self.version.clone(),
        );
        all.register("reloads", "Reloads, by their result", self.reloads.clone());
        all.register(
            "access_log_lost_lines",
            "Lines of the access log that were lost because nothing took them",
            self.lost_lines.clone(),
        );
        self.runner.register(all);
        if let Some(workers) = &self.workers {
            workers.register(all);
        }
        // The name that all have who export it.
        self.registry.register_with_unit(
            "process_resident_memory",
            "Resident memory of the server's process",
            Unit::Bytes,
            self.resident.clone(),
        );
        self
    }

    /// A request is over.
    pub(crate) fn closed(&self, record: &Record, ended: Ended<'_>) {
        self.in_flight.dec();
        let route = record.route.as_deref().unwrap_or_default().to_owned();
        self.received.inc_by(record.received());
        self.sent.inc_by(record.sent);
        let took = record.began.elapsed().as_secs_f64();
        let by_route = Route {
            route: route.clone(),
        };
        self.duration.get_or_create(&by_route).observe(took);
        let answer = Answer {
            route,
            code: record.code(),
            outcome: ended.outcome(),
        };
        self.requests.get_or_create(&answer).inc();
        if let Some(report) = ended.report() {
            self.queued.observe(report.stats.queue.as_secs_f64());
            self.started.observe(report.stats.start.as_secs_f64());
            if let Some(bytes) = report.stats.peak_memory_bytes {
                #[expect(clippy::cast_precision_loss, reason = "a histogram is not exact")]
                self.peak_memory.observe(bytes as f64);
            }
            if matches!(report.outcome, Outcome::Crashed(_)) {
                self.crashes.inc();
            }
        }
    }

    /// What was no request, but answered or given up.
    pub(crate) fn closed_connection(&self, cause: &'static str) {
        self.closed.get_or_create(&Cause { cause }).inc();
    }

    pub(crate) fn reloaded(&self, result: &'static str) {
        self.reloads.get_or_create(&Reload { result }).inc();
    }

    /// All of them, as `/metrics` shows them, with what the runner is doing.
    pub(crate) fn text(&self, stats: &RunnerStats) -> Result<String, fmt::Error> {
        self.runner.set(stats);
        if let (Some(workers), Some(stats)) = (&self.workers, &stats.workers) {
            workers.set(stats);
        }
        self.resident.set(gauged(resident().unwrap_or(0)));
        let mut all = String::new();
        text::encode(&mut all, &self.registry)?;
        Ok(all)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
