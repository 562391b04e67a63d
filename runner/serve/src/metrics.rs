//! What is counted, in the text form of OpenMetrics.

use crate::record::{Ended, Record};
use crate::runner_metrics::RunnerMetrics;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use wrun::{Mode, Outcome, RunnerStats};

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
    runner: RunnerMetrics,
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
            runner: RunnerMetrics::new(mode),
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
        let mut all = String::new();
        text::encode_registry(&mut all, &self.registry)?;
        self.runner.write(&mut all, stats)?;
        text::encode_eof(&mut all)?;
        Ok(all)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
