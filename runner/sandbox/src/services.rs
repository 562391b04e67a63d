//! What a running task may ask its runner for, in either mode.
//!
//! In thread mode the sandbox has the runner's own [`Services`] at hand
//! (`provider.rs`); in process mode a client of them, which sends each ask to the
//! supervisor and waits for its answer (`process/requests/`). Invariant: the caller
//! is not trusted. What a task may have is decided by the implementation.

use crate::InputKind;
use crate::lock_table::{LockMode, Ticket};
use crate::port::Port;
use crate::region::{Draft, Kind, RegionError};

use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use wrun_types::outcome::Outcome;

/// Answers one task's asks, and knows which task that is.
#[async_trait::async_trait]
pub trait Services: Send + Sync {
    /// Answers. Dropping the future takes back only the wish to know.
    async fn ask(&self, ask: Ask) -> Answer;

    /// Takes note of something that has no answer; `false` when it makes no sense.
    fn tell(&self, word: Word) -> bool;
}

/// The services of one task where its runner is, as the executor of the task sees them.
#[async_trait::async_trait]
pub trait TaskServices: Services {
    /// Children started so far.
    fn children_started(&self) -> u64;

    /// Whether it was a member of a broadcast channel.
    fn has_joined(&self) -> bool;

    /// Takes back the locks of an attempt that is over.
    fn unlock_all(&self);

    /// Ends what there is for the task, and waits until it is gone. Nothing more is
    /// given out.
    async fn end(&self);
}

/// What is asked.
pub enum Ask {
    /// To start the child task that was granted under this name.
    Spawn {
        name: String,
        input: InputKind,
        /// Bytes of the input.
        len: u64,
        port: Option<Box<Port>>,
    },
    /// To be told when a child has ended.
    Ended(u64),
    /// How a child ended; waits until it has.
    End(u64),
    /// A region of this many bytes, where those of the task may have `room` bytes
    /// together.
    Region { len: u64, kind: Kind, room: u64 },
    /// How many bytes the regions that were made for the task have, of those that
    /// exist.
    RegionBytes,
    /// Whether this is the only descriptor of an exclusive region that came from another
    /// process, and nobody has a mapping.
    Claim(OwnedFd),
    /// For a lock; waits until it can be had, unless it is `if_available`.
    Lock {
        name: String,
        mode: LockMode,
        if_available: bool,
    },
    /// To be a member of a broadcast channel.
    Join(String),
}

/// What is answered.
pub enum Answer {
    /// A child was started; its id.
    Spawned(u64),
    /// No child was started; its port comes back.
    NotSpawned {
        error: SpawnError,
        port: Option<Box<Port>>,
    },
    Ended,
    /// How a child ended, as its parent may know it.
    End(Outcome),
    /// A region whose pages are not reserved yet, and how many bytes those of the
    /// task have with it.
    Region(Result<(Draft, u64), RegionError>),
    RegionBytes(u64),
    /// A descriptor of the same file; and whether it is the only one.
    Claimed {
        file: OwnedFd,
        sole: bool,
    },
    /// The lock is the task's, by this number.
    Locked(Ticket),
    /// It cannot be had at once.
    NotAvailable,
    /// There is no room for another lock.
    NotLocked,
    Joined(Port),
    /// There is no room for another member.
    NotJoined,
    /// The asker has no such thing; or there is nobody to answer any more.
    Refused,
}

/// What needs no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// Ends a child.
    Kill(u64),
    /// Ends a child, and wants to know nothing more of it.
    Release(u64),
    /// Gives a lock back.
    Unlock(Ticket),
    /// Waits no longer for the lock that this ask was for: of a worker, whose asks have
    /// numbers. Elsewhere, the one that waits no longer drops what it waits with.
    Withdraw(u64),
}

/// Why no child was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpawnError {
    NotGranted,
    Limit,
    TooLarge,
}

/// For a sandbox whose guest does not run.
pub struct NoServices;

#[async_trait::async_trait]
impl Services for NoServices {
    async fn ask(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Spawn { port, .. } => Answer::NotSpawned {
                error: SpawnError::NotGranted,
                port,
            },
            Ask::Ended(_) | Ask::End(_) => Answer::Refused,
            Ask::Region { .. } => Answer::Region(Err(RegionError::Limit)),
            Ask::RegionBytes => Answer::RegionBytes(0),
            Ask::Claim(file) => Answer::Claimed { file, sole: false },
            Ask::Lock { .. } => Answer::NotLocked,
            Ask::Join(_) => Answer::NotJoined,
        }
    }

    fn tell(&self, _: Word) -> bool {
        false
    }
}
