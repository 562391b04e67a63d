//! HTTP: a request as what a run is given, and the response that its guest makes; requests that
//! a guest sends itself, which its runner passes on.
//!
//! Invariant: a body that a guest writes ends well only if the guest finished it. A guest that
//! traps in the middle of a body leaves a body that ends with an error.

#[cfg(not(feature = "http"))]
mod absent;
#[cfg(feature = "http")]
mod exchange;
#[cfg(feature = "http")]
mod fetch;
mod fetch_error;
#[cfg(feature = "http")]
mod guest_body;
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
pub use fetch::{Fetch, MAX_FETCHES, MAX_FIELDS, Waits, check, fits};
pub use fetch_error::FetchError;
#[cfg(feature = "http")]
pub(crate) use handling::{Handling, Over};
#[cfg(feature = "http")]
pub(crate) use host::HttpHost;
