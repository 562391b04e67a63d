//! JetStream: connections, where things lie, and the queue on it.

mod connect;
mod connection;
mod lanes;
mod layout;
mod objects;
mod queue;
#[cfg(test)]
mod simulation;

pub use connect::{Auth, Connect};
pub use connection::ConnectionStats;
pub(crate) use connection::stats as connection_stats;
pub(crate) use layout::{Layout, dead_subject, streams, task_subject};
pub use layout::{ObjectName, QueueLimits};
pub use objects::NatsObjects;
pub(crate) use objects::words as error_words;
pub use queue::{NatsQueue, QueueSettings};

use std::time::Duration;

/// How long a request to the server may take.
pub(crate) const REQUEST: Duration = Duration::from_secs(5);
