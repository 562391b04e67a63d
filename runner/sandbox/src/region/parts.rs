//! A region as it goes to another process: a descriptor, and what it is.
//!
//! What comes back from one is believed only as far as the kernel says so itself: a
//! sender that was taken over can lie about a kind, a place and a length, send any
//! descriptor, and keep one. It cannot make the receiver fault or wait, or take
//! memory that can change for memory that cannot. Nor can it make an honest holder look
//! like a liar: what it can still do to a file that it gave away, seal an exclusive one,
//! is an error of the one that wants to write there, and no reason to refuse the message of
//! the one that hands it on.

use super::waiters::Waiters;
use super::{
    Kind, MemoryFile, Region, RegionError, SEALS, SEALS_OF_SHARED, page_size, system, whole_pages,
};
use rustix::fs::{FileType, OFlags, SealFlags};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What a descriptor is of. Which whole a part is of needs no word: the kernel
/// knows which descriptors are of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    pub kind: Kind,
    pub offset: u64,
    pub len: u64,
}

impl Parts {
    /// Where its last page ends in a file of `size` bytes; none where it cannot be
    /// there.
    pub(super) fn end(self, size: u64) -> Option<u64> {
        let page = page_size();
        let whole = self.len > 0 && self.offset.is_multiple_of(page) && size.is_multiple_of(page);
        let end = self.offset.checked_add(whole_pages(self.len)?)?;
        (whole && end <= size).then_some(end)
    }
}

/// What memory files are files of (statfs(2)); those on huge pages are not, and can
/// fault for want of one.
const TMPFS_MAGIC: i128 = 0x0102_1994;

const LOOK: &str = "cannot look at a descriptor";

impl Region {
    /// What is sent of it: its file, and what it is. What was sent is to be dropped
    /// here.
    ///
    /// # Errors
    ///
    /// [`RegionError::Busy`] while it is mapped and has one holder.
    pub fn to_send(&self) -> Result<(BorrowedFd<'_>, Parts), RegionError> {
        self.check_moves()?;
        self.file.known_elsewhere.store(true, Relaxed);
        let parts = Parts {
            kind: self.kind,
            offset: self.offset,
            len: self.len,
        };
        Ok((self.file.file.as_fd(), parts))
    }

    /// Makes a region of what somebody sent. Takes as long whatever its size.
    ///
    /// # Errors
    ///
    /// It is not what it is said to be.
    pub fn from_parts(file: OwnedFd, parts: Parts) -> Result<Self, RegionError> {
        let Parts { kind, offset, len } = parts;
        // First what asks the kernel only: whose file system a descriptor is of is not
        // known yet, and some answer when they like.
        let flags = rustix::fs::fcntl_getfl(&file).map_err(system(LOOK))?;
        if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE != OFlags::RDWR {
            return Err(RegionError::Foreign("it is not for reading and writing"));
        }
        let seals = rustix::fs::fcntl_get_seals(&file)
            .map_err(|_| RegionError::Foreign("it cannot be sealed"))?;
        let wanted = match kind {
            Kind::Exclusive => SEALS,
            Kind::Frozen => SEALS | SealFlags::WRITE,
            Kind::Shared => SEALS_OF_SHARED,
        };
        if !seals.contains(wanted) {
            return Err(RegionError::Foreign("it is not sealed"));
        }
        // Nobody can have done that to a shared one later.
        if kind == Kind::Shared && seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
            return Err(RegionError::Foreign("it is frozen"));
        }
        let of = rustix::fs::fstatfs(&file).map_err(system(LOOK))?;
        if i128::from(of.f_type) != TMPFS_MAGIC {
            return Err(RegionError::Foreign("it is not in ordinary memory"));
        }
        // The size stays, for there are seals.
        let stat = rustix::fs::fstat(&file).map_err(system(LOOK))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(RegionError::Foreign("it is not a regular file"));
        }
        let size = u64::try_from(stat.st_size).map_err(|_| RegionError::Foreign("its size"))?;
        let end = parts.end(size).ok_or(RegionError::Foreign("its place"))?;
        if kind != Kind::Exclusive && (offset != 0 || end != size) {
            return Err(RegionError::Foreign("only what is exclusive has parts"));
        }
        // A page that is not there might not be had when it is touched. The one that made
        // the region reserved all, and the jail lets nobody take one away.
        let there = u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512);
        if there < size {
            return Err(RegionError::Foreign("pages of it are missing"));
        }
        let file = MemoryFile {
            file,
            size,
            known_elsewhere: AtomicBool::new(true),
            elsewhere: true,
            words: OnceLock::new(),
            waiters: Waiters::default(),
            _charge: None,
        };
        Ok(Region::of(file, kind, offset, len))
    }
}
