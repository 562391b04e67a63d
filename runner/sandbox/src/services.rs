//! What a running task may request from its runner, in either mode.
//!
//! In thread mode the sandbox calls the runner's own [`Services`] (`provider.rs`); in
//! process mode a client of them, which sends each request to the supervisor and waits
//! for the response (`process/requests/`). Invariant: the caller is not trusted. The
//! implementation decides what a task may have.

use crate::InputKind;
#[cfg(feature = "http")]
use crate::http::{Body, Fetch, FetchError};
use crate::lock_table::{LockMode, Ticket};
use crate::port::Port;
use crate::region::{Draft, Kind, RegionError};

use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use wrun_types::outcome::Outcome;

/// Serves the requests of one task, and knows which task that is.
#[async_trait::async_trait]
pub trait Services: Send + Sync {
    /// Serves a request. Dropping the future discards the response; the request still
    /// takes effect.
    async fn request(&self, request: ServiceRequest) -> ServiceResponse;

    /// Takes a notification, which has no response; `false` if it is not valid.
    fn notify(&self, notification: Notification) -> bool;

    /// Sends an HTTP request, and returns its response once the head is there. Dropping the
    /// future, or the body of the response, ends the request. By default, none is granted.
    #[cfg(feature = "http")]
    async fn fetch(&self, _fetch: Fetch) -> Result<http::Response<Body>, FetchError> {
        Err(FetchError::Denied)
    }
}

/// The services of one task in its runner, as the executor of the task sees them.
pub trait TaskServices: Services {
    /// Children started so far.
    fn children_started(&self) -> u64;

    /// Whether the task joined a broadcast channel.
    fn has_joined(&self) -> bool;

    /// Releases the locks of an attempt that is over.
    fn unlock_all(&self);

    /// Ends the children of the task and releases what it holds; later requests get nothing.
    /// It is over when the future is; without one, it is over.
    fn end(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>>;
}

/// A request with a response.
pub enum ServiceRequest {
    /// Start the child task that was granted under this name.
    Spawn {
        name: String,
        input: InputKind,
        /// Bytes of the input.
        len: u64,
        port: Option<Box<Port>>,
    },
    /// Wait until a child has ended.
    Ended(u64),
    /// Wait until a child has ended; the response has its outcome.
    End(u64),
    /// Make a region of this many bytes; the regions of the task may have `room` bytes
    /// together.
    Region { len: u64, kind: Kind, room: u64 },
    /// How many bytes the regions that were made for the task have, of those that
    /// still exist.
    RegionBytes,
    /// Check whether this is the only descriptor of an exclusive region that came from
    /// another process, and that no process maps it.
    Claim(OwnedFd),
    /// Acquire a lock; waits until it is available, unless `if_available` is set.
    Lock {
        name: String,
        mode: LockMode,
        if_available: bool,
    },
    /// Join a broadcast channel.
    Join(String),
}

/// The response to a [`ServiceRequest`].
pub enum ServiceResponse {
    /// A child was started; its id.
    Spawned(u64),
    /// No child was started; its port comes back.
    NotSpawned {
        error: SpawnError,
        port: Option<Box<Port>>,
    },
    Ended,
    /// The outcome of a child, as its parent may see it.
    End(Outcome),
    /// A region whose pages are not reserved yet, and how many bytes the regions of the
    /// task have, including this one.
    Region(Result<(Draft, u64), RegionError>),
    RegionBytes(u64),
    /// A descriptor of the same file, and whether it is the only one.
    Claimed {
        file: OwnedFd,
        sole: bool,
    },
    /// The lock was acquired, under this number.
    Locked(Ticket),
    /// The lock is not available now.
    NotAvailable,
    /// A limit on locks was reached.
    NotLocked,
    Joined(Port),
    /// A limit on members was reached.
    NotJoined,
    /// The caller has no such child, or the runner no longer serves requests.
    Refused,
}

/// A message without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notification {
    /// Kill a child.
    Kill(u64),
    /// Kill a child and discard its outcome.
    Release(u64),
    /// Release a lock.
    Unlock(Ticket),
    /// Stop waiting for the lock of this request. Only workers send it: their requests
    /// have numbers. In thread mode the caller drops the future instead.
    Withdraw(u64),
}

/// Why a child was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpawnError {
    NotGranted,
    Limit,
    TooLarge,
}

/// The services of a sandbox whose guest does not run.
pub struct NoServices;

#[async_trait::async_trait]
impl Services for NoServices {
    async fn request(&self, request: ServiceRequest) -> ServiceResponse {
        match request {
            ServiceRequest::Spawn { port, .. } => ServiceResponse::NotSpawned {
                error: SpawnError::NotGranted,
                port,
            },
            ServiceRequest::Ended(_) | ServiceRequest::End(_) => ServiceResponse::Refused,
            ServiceRequest::Region { .. } => ServiceResponse::Region(Err(RegionError::Limit)),
            ServiceRequest::RegionBytes => ServiceResponse::RegionBytes(0),
            ServiceRequest::Claim(file) => ServiceResponse::Claimed { file, sole: false },
            ServiceRequest::Lock { .. } => ServiceResponse::NotLocked,
            ServiceRequest::Join(_) => ServiceResponse::NotJoined,
        }
    }

    fn notify(&self, _: Notification) -> bool {
        false
    }
}
