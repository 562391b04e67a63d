//! Tasks of [`wrun`] on many machines: a queue in NATS JetStream, workers that take from it, and
//! a place for [`wrun_map`].
//!
//! The messages are documented for clients in any language (`docs/fleet.md`). A [`Worker`] takes
//! tasks from a [`Queue`], whose five verbs are all that it knows of JetStream, and runs them with
//! an [`Execute`]: [`Guests`] with the public API of wrun.

#![forbid(unsafe_code)]

mod client;
mod error;
mod nats;
mod protocol;
mod queue;
mod trace;
mod worker;

pub use client::{
    Busy, Changes, Fleet, FleetPlace, LaneStatus, PlaceSettings, Purged, Status, StreamSettings,
    Waste,
};
pub use error::{Error, ErrorKind};
pub use nats::{
    Auth, Connect, ConnectionStats, NatsObjects, NatsQueue, ObjectName, QueueLimits, QueueSettings,
};
pub use protocol::{
    Answer, AnswerKind, Content, DeadTask, Digest, InvalidName, MAX_INLINE, MAX_MESSAGE, Malformed,
    ModuleRef, ObjectRef, Presence, TaskId, TaskLimits, TaskMessage, Token, VERSION,
};
pub use queue::{Completion, History, Lease, Mark, Marks, MemoryQueue, Queue, Weights};
pub use trace::{TraceContext, Tracing};
pub use worker::{
    Counters, Event, Execute, Executed, Guests, MaxLimits, Metrics, ModuleSource, ObjectStore,
    Observer, StoreLimits, Worker, WorkerConfig,
};
