//! Claiming an exclusive region that came from another process: whether its new holder
//! is the only one.
//!
//! A compromised sender can keep a descriptor or a mapping of a region that it gave away,
//! and write there while the receiver's host relies on what it reads. The kernel knows
//! whether any such reference exists, and reports it to a process that requests a write
//! lease: it grants one only for the last file description that is open for writing
//! (fcntl(2), `F_SETLEASE`). All holders of a descriptor that was sent share one
//! description, so the runner opens the file again, closes the description that came, and
//! requests the lease for the new one. Descriptors, mappings and messages in sockets keep
//! the old description open.
//!
//! Invariants on which this relies:
//!
//! - Every description of a region's file was opened by its path, which the kernel counts;
//!   the one that `memfd_create` makes is not counted, and is closed before the file is
//!   given out. So only files that this runner made are claimed
//!   ([`Ledger`](super::Ledger)).
//! - Only the runner opens the file. The jail lets tasks open files only if directories are
//!   granted; once a runner has such a task that could have regions, no region is claimed
//!   any more: a descriptor for a path could be opened later.
//! - Two claims of one file do not overlap: opening it breaks an existing lease.
//!
//! A region that cannot be claimed is copied.

use super::{Lease, MemoryFile, Region, Waiters};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

/// The same file by a new description. It neither waits nor breaks a lease.
pub(super) fn reopen(file: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty())
}

/// The rest of a region while the runner has its file.
#[derive(Debug)]
pub struct Claim {
    size: u64,
    len: u64,
}

impl Region {
    /// Whether it must be claimed before it is mapped.
    #[doc(hidden)]
    pub fn is_to_be_claimed(&self) -> bool {
        self.is_copied() && self.is_whole() && !self.is_mapped()
    }

    /// Takes apart a region that is to be claimed. This process must have no other handle
    /// to its file; if it has one, the region is returned.
    #[doc(hidden)]
    pub fn into_claim(self) -> Result<(OwnedFd, Claim), Region> {
        if !self.is_to_be_claimed() {
            return Err(self);
        }
        let Region {
            file,
            kind,
            offset,
            len,
            lease,
        } = self;
        match Arc::try_unwrap(file) {
            Ok(MemoryFile { file, size, .. }) => Ok((file, Claim { size, len })),
            Err(file) => Err(Region {
                file,
                kind,
                offset,
                len,
                lease,
            }),
        }
    }
}

impl Claim {
    /// The region again, from the runner's response: a descriptor of the same file, and
    /// whether it is the only one.
    #[doc(hidden)]
    pub fn answered(self, file: OwnedFd, sole: bool) -> Region {
        Region {
            file: Arc::new(MemoryFile {
                file,
                size: self.size,
                known_elsewhere: AtomicBool::new(!sole),
                elsewhere: true,
                words: OnceLock::new(),
                waiters: Waiters::default(),
                _charge: None,
            }),
            kind: super::Kind::Exclusive,
            offset: 0,
            len: self.len,
            lease: Lease::default(),
        }
    }
}
