//! HTTP requests between a runner and its workers: a request goes to the worker with its
//! order, the response comes back, and both bodies flow in parts meanwhile. Requests that the
//! guest sends go the other way, and the runner sends them on.
//!
//! Invariants: at most [`WINDOW`](crate::wire::WINDOW) bytes of a body are on the way; a body
//! that does not come to its end ends with an error; what a worker sends is believed as far
//! as the crate `http` takes it.

#[cfg(not(feature = "http"))]
mod absent;
#[cfg(feature = "http")]
mod fetches;
#[cfg(feature = "http")]
mod fetching;
#[cfg(all(feature = "http", feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(feature = "http")]
mod heads;
#[cfg(feature = "http")]
mod inflow;
#[cfg(feature = "http")]
mod outflow;
#[cfg(feature = "http")]
mod runner;
#[cfg(feature = "http")]
mod worker;

#[cfg(not(feature = "http"))]
pub(super) use absent::{Answering, Fetched, Fetches, Fetching, Requesting, Responding, Unsent};
#[cfg(feature = "http")]
pub(super) use fetches::{Fetched, Fetches};
#[cfg(feature = "http")]
pub(super) use fetching::{Fetching, Slots, Unsent};
#[cfg(feature = "http")]
pub(super) use runner::{Requesting, Responding};
#[cfg(feature = "http")]
pub(super) use worker::Answering;

/// What a worker did wrong.
pub(super) type Wrong = &'static str;
