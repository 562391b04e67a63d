//! Claiming an exclusive region that came from another process: whether its new holder
//! is the only one.
//!
//! A sender that was taken over can keep a descriptor or a mapping of what it gave away,
//! and write there while the receiver's host takes what it reads for its own. The kernel
//! knows whether anything of that exists, and says so to the requester for a lease to
//! write: there is one only for the last file description that is open for writing
//! (fcntl(2), `F_SETLEASE`). All holders of a descriptor that travels share one
//! description, so the runner opens the file once more, forgets the one that came, and
//! asks for the new one. Descriptors, mappings and what lies in sockets hold the old one.
//!
//! Invariants, on which that rests:
//!
//! - Every description of a region's file was opened by its path, which the kernel counts;
//!   the one that `memfd_create` makes is not counted, and is closed before anybody gets
//!   the file. So only files that this runner made are claimed ([`Ledger`](super::Ledger)).
//! - Nobody but the runner opens the file. The jail lets tasks open files only where
//!   directories are granted; once a runner has such a task that could have regions,
//!   nothing is claimed any more: a descriptor for a path could be opened later.
//! - Two claims of one file do not meet: opening it while there is a lease breaks that.
//!
//! What cannot be claimed is copied.

use super::{Lease, MemoryFile, Region, Waiters};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

/// The same file by a description of its own. It neither waits nor breaks a lease.
pub(super) fn reopen(file: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty())
}

/// What is left of a region while its file is with the runner.
#[derive(Debug)]
pub struct Claim {
    size: u64,
    len: u64,
}

impl Region {
    /// Whether it is to be claimed before it is mapped.
    #[doc(hidden)]
    pub fn is_to_be_claimed(&self) -> bool {
        self.is_copied() && self.is_whole() && !self.is_mapped()
    }

    /// Takes apart a region that is to be claimed. No other handle to its file is left in
    /// this process; where there is one, the region comes back.
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
    /// The region again, by what the runner answered: a descriptor of the same file, and
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
