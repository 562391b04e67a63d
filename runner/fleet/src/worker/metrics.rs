//! What a worker counts, in the text form of OpenMetrics.
//!
//! Invariant: the number of series does not depend on messages. A class has a label of its own
//! only if the operator named it (`--weights`); all others are `other`, and no label has a tenant,
//! a task or a module.

use super::Counters;
use crate::nats::ConnectionStats;
use crate::protocol::{Answer, Token};
use crate::queue::{Lease, Weights};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use serde_json::Value;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Upper bounds in seconds: from a hello in thread mode to the longest default timeout.
const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0,
    3600.0,
];
/// The label of a class that the operator did not name.
const OTHER: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfClass {
    class: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    class: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Because {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVerb {
    verb: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct From {
    from: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    of: &'static str,
}

/// Why a task was given back to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Returned {
    /// This worker failed: a full disk, a worker process that cannot be started.
    Failed,
    /// The message is of a later version of the protocol.
    Newer,
    /// The worker ends.
    Draining,
    /// What is known of the task could not be looked up.
    Unreachable,
}

impl Returned {
    /// The label.
    pub(super) fn name(self) -> &'static str {
        match self {
            Returned::Failed => "failed",
            Returned::Newer => "newer",
            Returned::Draining => "draining",
            Returned::Unreachable => "unreachable",
        }
    }
}

/// The counters of a worker, for [`Observer`](super::Observer) and
/// [`Guests::new`](super::Guests::new).
pub struct Metrics {
    registry: Registry,
    /// Classes with a label of their own.
    classes: Vec<Token>,
    tasks: Family<Ended, Counter>,
    waited: Family<OfClass, Histogram>,
    run: Family<OfClass, Histogram>,
    overhead: Family<OfClass, Histogram>,
    given_back: Family<Because, Counter>,
    failures: Family<OfVerb, Counter>,
    redelivered: Counter,
    extended: Counter,
    unanswered: Counter,
    crash_retries: Counter,
    modules: Family<From, Counter>,
    fetched: Family<Of, Counter>,
    stored: Counter,
    load: Load,
    connection: Connection,
}

/// What a worker is doing, when it was last asked.
#[derive(Clone, Default)]
struct Load {
    in_hand: Gauge,
    running: Gauge,
    room: Gauge,
    modules: Gauge,
    draining: Gauge,
    late: Counter,
    buried: Counter,
}

/// The connection to the server, when it was last asked.
#[derive(Clone, Default)]
struct Connection {
    connected: Gauge,
    connects: Counter,
    received: Counter,
    sent: Counter,
    received_bytes: Counter,
    sent_bytes: Counter,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// A number that is not above what a gauge can have.
fn gauged(number: usize) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

impl Metrics {
    /// Nothing counted yet. Classes that have a weight have a label of their own.
    pub fn new(weights: &Weights) -> Self {
        let metrics = Metrics {
            registry: Registry::default(),
            classes: weights.classes().cloned().collect(),
            tasks: Family::default(),
            waited: Family::new_with_constructor(seconds),
            run: Family::new_with_constructor(seconds),
            overhead: Family::new_with_constructor(seconds),
            given_back: Family::default(),
            failures: Family::default(),
            redelivered: Counter::default(),
            extended: Counter::default(),
            unanswered: Counter::default(),
            crash_retries: Counter::default(),
            modules: Family::default(),
            fetched: Family::default(),
            stored: Counter::default(),
            load: Load::default(),
            connection: Connection::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let all = self.registry.sub_registry_with_prefix("wrun_fleet");
        all.register(
            "tasks",
            "Tasks that this worker took out of the queue, by how they ended",
            self.tasks.clone(),
        );
        for (name, help, family) in [
            (
                "task_wait",
                "From a task's submission until a worker had it, by the server's clock and this one; of first deliveries",
                &self.waited,
            ),
            (
                "task_run",
                "From a guest's first instruction to its outcome",
                &self.run,
            ),
            (
                "task_overhead",
                "All other time that an answered task was in hand: its module, input, start, output and result",
                &self.overhead,
            ),
        ] {
            all.register_with_unit(name, help, Unit::Seconds, family.clone());
        }
        all.register(
            "given_back",
            "Tasks given back to the queue, by why",
            self.given_back.clone(),
        );
        all.register(
            "queue_failures",
            "Calls of the queue that failed, by which; those that can are made again",
            self.failures.clone(),
        );
        for (name, help, counter) in [
            (
                "redelivered",
                "Tasks that came to this worker and had been delivered before",
                &self.redelivered,
            ),
            ("extended", "Extensions of leases", &self.extended),
            (
                "unanswered",
                "Answers that were given up because the queue could not be reached; their tasks run again",
                &self.unanswered,
            ),
            (
                "crash_retries",
                "New attempts after the process of a task crashed",
                &self.crash_retries,
            ),
        ] {
            all.register(name, help, counter.clone());
        }
        all.register(
            "module_uses",
            "Modules that tasks asked for, by where they came from: memory, cache or compiler, or refused or failed",
            self.modules.clone(),
        );
        all.register_with_unit(
            "fetched",
            "Bytes fetched from the object stores: modules and inputs",
            Unit::Bytes,
            self.fetched.clone(),
        );
        all.register_with_unit(
            "stored",
            "Bytes of outputs put into the object store",
            Unit::Bytes,
            self.stored.clone(),
        );
        self.load.register(all);
        self.connection.register(all);
        self
    }

    /// The label of a class.
    fn class(&self, class: &Token) -> String {
        match self.classes.contains(class) {
            true => class.to_string(),
            false => OTHER.into(),
        }
    }

    fn of_class(&self, class: &Token) -> OfClass {
        OfClass {
            class: self.class(class),
        }
    }

    /// A task has come.
    pub(super) fn leased(&self, lease: &Lease) {
        if lease.deliveries > 1 {
            self.redelivered.inc();
            return;
        }
        let of_class = self.of_class(&lease.class);
        let waited = self.waited.get_or_create(&of_class);
        waited.observe(lease.waited.as_secs_f64());
    }

    /// An answer is the task's result, after this time in hand.
    pub(super) fn answered(&self, class: &Token, answer: &Answer, in_hand: Duration) {
        self.ended(class, answer.outcome());
        let Some(report) = &answer.report else {
            return;
        };
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64);
        let run = Duration::from_nanos(number("/stats/run_ns").unwrap_or(0));
        let of_class = self.of_class(class);
        let overhead = in_hand.saturating_sub(run);
        for (family, time) in [(&self.run, run), (&self.overhead, overhead)] {
            let histogram = family.get_or_create(&of_class);
            histogram.observe(time.as_secs_f64());
        }
        let attempts = number("/attempt").unwrap_or(1);
        self.crash_retries.inc_by(attempts.saturating_sub(1));
    }

    /// A task has left the queue.
    pub(super) fn ended(&self, class: &Token, outcome: &'static str) {
        let class = self.class(class);
        let ended = Ended { class, outcome };
        self.tasks.get_or_create(&ended).inc();
    }

    pub(super) fn given_back(&self, returned: Returned) {
        let reason = returned.name();
        self.given_back.get_or_create(&Because { reason }).inc();
    }

    /// A call of the queue failed.
    pub(super) fn failed(&self, verb: &'static str) {
        self.failures.get_or_create(&OfVerb { verb }).inc();
    }

    pub(super) fn extended(&self) {
        self.extended.inc();
    }

    /// The queue could not be reached for too long.
    pub(super) fn unanswered(&self) {
        self.unanswered.inc();
    }

    /// A task asked for a module, which came from there.
    pub(super) fn module(&self, from: &'static str) {
        self.modules.get_or_create(&From { from }).inc();
    }

    /// Bytes came from an object store: of a `module` or an `input`.
    pub(super) fn fetched(&self, of: &'static str, bytes: u64) {
        self.fetched.get_or_create(&Of { of }).inc_by(bytes);
    }

    /// Bytes of an output were stored.
    pub(super) fn stored(&self, bytes: u64) {
        self.stored.inc_by(bytes);
    }

    /// How many modules are in memory.
    pub(super) fn modules_kept(&self, modules: usize) {
        self.load.modules.set(gauged(modules));
    }

    /// How the connection is.
    pub fn connection(&self, stats: &ConnectionStats) {
        let own = &self.connection;
        own.connected.set(stats.is_connected.into());
        for (counter, number) in [
            (&own.connects, stats.connects),
            (&own.received, stats.received),
            (&own.sent, stats.sent),
            (&own.received_bytes, stats.received_bytes),
            (&own.sent_bytes, stats.sent_bytes),
        ] {
            counter.inner().store(number, Ordering::Relaxed);
        }
    }

    /// Appends all of them, without the line that ends a text of OpenMetrics.
    pub(super) fn write(
        &self,
        to: &mut impl fmt::Write,
        counters: &Counters,
        room: usize,
    ) -> fmt::Result {
        self.load.set(counters, room);
        text::encode_registry(to, &self.registry)
    }
}

impl Load {
    fn set(&self, counters: &Counters, room: usize) {
        self.in_hand.set(gauged(counters.in_hand()));
        self.running.set(gauged(counters.running()));
        self.room.set(gauged(room));
        self.draining.set(counters.is_draining().into());
        let store = |counter: &Counter, number| counter.inner().store(number, Ordering::Relaxed);
        store(&self.late, counters.late());
        store(&self.buried, counters.buried());
    }

    fn register(&self, all: &mut Registry) {
        for (name, help, gauge) in [
            (
                "tasks_in_hand",
                "Tasks that this worker has leased, with those whose answers are on their way",
                &self.in_hand,
            ),
            (
                "tasks_running",
                "Tasks that have a place to run, with those whose modules and inputs are fetched",
                &self.running,
            ),
            ("room", "Tasks that can start now", &self.room),
            ("modules_kept", "Modules in memory", &self.modules),
            (
                "draining",
                "1 if the worker takes no more tasks",
                &self.draining,
            ),
        ] {
            all.register(name, help, gauge.clone());
        }
        all.register(
            "late",
            "Tasks that ran here in vain, because another answer was first",
            self.late.clone(),
        );
        all.register("buried", "Tasks moved to the dead", self.buried.clone());
    }
}

impl Connection {
    fn register(&self, all: &mut Registry) {
        all.register(
            "connected",
            "1 while there is a connection to NATS",
            self.connected.clone(),
        );
        for (name, help, counter) in [
            (
                "connects",
                "Connections to NATS that were made, the first included",
                &self.connects,
            ),
            ("nats_received", "Messages from NATS", &self.received),
            ("nats_sent", "Messages to NATS", &self.sent),
        ] {
            all.register(name, help, counter.clone());
        }
        for (name, help, counter) in [
            ("nats_received", "Bytes from NATS", &self.received_bytes),
            ("nats_sent", "Bytes to NATS", &self.sent_bytes),
        ] {
            all.register_with_unit(name, help, Unit::Bytes, counter.clone());
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnswerKind;

    #[test]
    fn classes_of_messages_make_no_series() {
        let metrics = Metrics::new(&Weights::default());
        for number in 0..1000 {
            let class = format!("c{number}").parse().expect("a class");
            metrics.ended(&class, "refused");
            let answer = Answer::without_report(
                "a".parse().expect("an id"),
                AnswerKind::Refused,
                "no such grant",
            );
            metrics.answered(&class, &answer, Duration::ZERO);
        }
        let mut report = Answer::report("a".parse().expect("an id"), serde_json::json!({}));
        report.report = Some(serde_json::json!({
            "outcome": {"kind": "invented"}, "stats": {"run_ns": 2_000_000}, "attempt": 3,
        }));
        let high = "high".parse().expect("a class");
        metrics.answered(&high, &report, Duration::from_millis(3));
        let mut text = String::new();
        let counters = Counters::default();
        metrics.write(&mut text, &counters, 4).expect("written");
        assert!(
            text.contains("wrun_fleet_tasks_total{class=\"other\",outcome=\"refused\"} 2000"),
            "{text}"
        );
        for line in [
            "wrun_fleet_tasks_total{class=\"high\",outcome=\"other\"} 1",
            "wrun_fleet_task_run_seconds_sum{class=\"high\"} 0.002",
            "wrun_fleet_task_overhead_seconds_sum{class=\"high\"} 0.001",
            "wrun_fleet_crash_retries_total 2",
            "wrun_fleet_room 4",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
        assert!(text.lines().count() < 150, "{text}");
    }
}
