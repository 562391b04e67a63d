//! What a task in a worker requests of its runner: both ends.
//!
//! The worker is not trusted. Invariants: requests are numbered from 1 on, without a gap;
//! as many are open as `runner::MOST` and its tree's tasks, and one more ends the worker;
//! what comes along is what was counted, and is checked before it is used. An answer
//! that the worker does not take holds up nobody but itself. A child's output lies in one
//! file, however often it is requested. The end of a task drops what is open.

mod runner;
mod worker;

pub(super) use runner::{Answers, Responder};
pub(super) use worker::Requester;

/// Data up to this size travels in a frame.
const INLINE: usize = 256 << 10;
