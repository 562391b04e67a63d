//! HTTP: a request as what a run is given, and the response that its guest makes.
//!
//! Invariant: a response body ends well only if its guest finished it. A guest that traps in
//! the middle of a body leaves a body that ends with an error.

#[cfg(not(feature = "http"))]
mod absent;
#[cfg(feature = "http")]
mod exchange;
#[cfg(feature = "http")]
mod handling;
#[cfg(feature = "http")]
mod host;

#[cfg(not(feature = "http"))]
pub use absent::Exchange;
#[cfg(not(feature = "http"))]
pub(crate) use absent::{Handling, Over};
#[cfg(feature = "http")]
pub use exchange::{Body, BodyError, Exchange};
#[cfg(feature = "http")]
pub(crate) use handling::{Handling, Over};
#[cfg(feature = "http")]
pub(crate) use host::HttpHost;
