//! Requests of a task in a worker, and the responses of its runner.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wrun_sandbox::lock_table::{LockMode, Ticket};
use wrun_sandbox::port::{PARTS, PortParts};
use wrun_sandbox::region::Kind;
use wrun_sandbox::services::SpawnError;
use wrun_types::outcome::Outcome;

/// A request. If it says so, the file of its data and the descriptors of a port come with
/// it, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub enum WireRequest {
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

/// Where the data is.
#[derive(Debug, Serialize, Deserialize)]
pub enum Data {
    Inline(Bytes),
    /// This many bytes, in a sealed memory file that comes with the message.
    File(u64),
}

/// A response. The file of its output or region, or the descriptors of its port, come
/// with it.
#[derive(Debug, Serialize, Deserialize)]
pub enum WireResponse {
    Spawned(u64),
    NotSpawned(SpawnError),
    Ended,
    End(Outcome),
    /// The child completed, with this many bytes of output in a sealed memory file that
    /// comes with the response.
    Output(u64),
    /// A region was made; how many bytes the regions of the task have, including this one.
    Region(u64),
    /// No region was made: the system's error number, or that of a limit.
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

impl WireRequest {
    /// Number of descriptors that come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            WireRequest::Spawn { input, port, .. } => {
                usize::from(matches!(input, Data::File(_))) + port.map_or(0, |_| PARTS)
            }
            WireRequest::Claim => 1,
            WireRequest::Ended(_)
            | WireRequest::End(_)
            | WireRequest::Region { .. }
            | WireRequest::RegionBytes
            | WireRequest::Lock { .. }
            | WireRequest::Join(_) => 0,
        }
    }
}

impl WireResponse {
    /// Number of descriptors that come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            WireResponse::Output(_) | WireResponse::Region(_) | WireResponse::Claimed(_) => 1,
            WireResponse::Joined(_) => PARTS,
            _ => 0,
        }
    }
}
