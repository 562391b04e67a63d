//! Requests of a task in a worker to its runner: both ends.
//!
//! The worker is not trusted. Invariants: requests are numbered from 1 on, without a gap;
//! at most `runner::MOST` and the number of tasks in its tree are open, and one more ends
//! the worker; as many descriptors come as were counted, and each is checked before it is
//! used. A response that the worker does not read delays only that worker. A child's
//! output is in one file, however often it is requested. The end of a task drops its open
//! requests.

mod runner;
mod worker;

pub(super) use runner::{Responder, Responses};
pub(super) use worker::Requester;

/// Data up to this size travels in a frame.
const INLINE: usize = 256 << 10;
