//! What a task in a worker asks its runner for, and what it is answered.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wrun_sandbox::lock_table::{LockMode, Ticket};
use wrun_sandbox::port::{PARTS, PortParts};
use wrun_sandbox::region::Kind;
use wrun_sandbox::services::SpawnError;
use wrun_types::outcome::Outcome;

/// An ask. With it come, in this order and as far as it says so, the file of its data
/// and the descriptors of a port.
#[derive(Debug, Serialize, Deserialize)]
pub enum WireAsk {
    Spawn {
        name: String,
        input: Data,
        port: Option<PortParts>,
    },
    Ended(u64),
    End(u64),
    Region {
        len: u64,
        kind: Kind,
        room: u64,
    },
    RegionBytes,
    Lock {
        name: String,
        mode: LockMode,
        if_available: bool,
    },
    Join(String),
    /// With the descriptor of a region.
    Claim,
}

/// Where data is.
#[derive(Debug, Serialize, Deserialize)]
pub enum Data {
    Inline(Bytes),
    /// This many bytes, in a sealed memory file that comes along.
    File(u64),
}

/// An answer. With it come the file of its output or of its region, or the descriptors
/// of its port, where it has one.
#[derive(Debug, Serialize, Deserialize)]
pub enum WireAnswer {
    Spawned(u64),
    NotSpawned(SpawnError),
    Ended,
    End(Outcome),
    /// The child completed, with this many bytes of output, in a sealed memory file
    /// that comes along.
    Output(u64),
    /// A region, and how many bytes those of the task have with it.
    Region(u64),
    /// There is none: the system's error number, or that of a limit.
    NoRegion(i32),
    RegionBytes(u64),
    Locked(Ticket),
    NotAvailable,
    NotLocked,
    /// With the descriptors of a port.
    Joined(PortParts),
    NotJoined,
    /// With a descriptor of the same region, and whether it is the only one.
    Claimed(bool),
}

impl WireAsk {
    /// Descriptors that come along.
    pub fn descriptors(&self) -> usize {
        match self {
            WireAsk::Spawn { input, port, .. } => {
                usize::from(matches!(input, Data::File(_))) + port.map_or(0, |_| PARTS)
            }
            WireAsk::Claim => 1,
            WireAsk::Ended(_)
            | WireAsk::End(_)
            | WireAsk::Region { .. }
            | WireAsk::RegionBytes
            | WireAsk::Lock { .. }
            | WireAsk::Join(_) => 0,
        }
    }
}

impl WireAnswer {
    /// Descriptors that come along.
    pub fn descriptors(&self) -> usize {
        match self {
            WireAnswer::Output(_) | WireAnswer::Region(_) | WireAnswer::Claimed(_) => 1,
            WireAnswer::Joined(_) => PARTS,
            _ => 0,
        }
    }
}
