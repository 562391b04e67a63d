//! A region as it is sent to another process: a descriptor and its description.
//!
//! A received description is believed only as far as the kernel confirms it: a compromised
//! sender can lie about a kind, an offset and a length, send any descriptor, and keep one.
//! It cannot make the receiver fault or wait, or accept memory that can change as memory
//! that cannot. Nor can it make an honest holder look dishonest: what it can still do to a
//! file that it gave away, sealing an exclusive one, is an error for a holder that writes
//! to it later, but not a reason to refuse the message of a holder that passes it on.

use super::waiters::Waiters;
use super::{
    Kind, MemoryFile, Region, RegionError, SEALS, SEALS_OF_SHARED, page_size, system, whole_pages,
};
use rustix::fs::{FileType, OFlags, SealFlags};
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The description of a descriptor. It need not identify the whole of a part: the kernel
/// knows which descriptors are of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    pub kind: Kind,
    pub offset: u64,
    pub len: u64,
}

impl Parts {
    /// The end of its last page in a file of `size` bytes; `None` if it is not within the
    /// file.
    pub(super) fn end(self, size: u64) -> Option<u64> {
        let page = page_size();
        let whole = self.len > 0 && self.offset.is_multiple_of(page) && size.is_multiple_of(page);
        let end = self.offset.checked_add(whole_pages(self.len)?)?;
        (whole && end <= size).then_some(end)
    }
}

/// The file system of memory files (statfs(2)); memory files on huge pages have another
/// one, and can fault if there are none left.
const TMPFS_MAGIC: i128 = 0x0102_1994;

const LOOK: &str = "cannot look at a descriptor";

impl Region {
    /// The file and the description to send. After that the region must be dropped here.
    ///
    /// # Errors
    ///
    /// [`RegionError::Busy`] while it is mapped and exclusive.
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

    /// Makes a region from a received descriptor. The time does not depend on its size.
    ///
    /// # Errors
    ///
    /// It does not match its description.
    pub fn from_parts(file: OwnedFd, parts: Parts) -> Result<Self, RegionError> {
        let Parts { kind, offset, len } = parts;
        // First calls that only the kernel handles: the file system of the descriptor is not
        // known yet, and some can delay a call for any time.
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
        // A holder cannot have sealed a shared one later.
        if kind == Kind::Shared && seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
            return Err(RegionError::Foreign("it is frozen"));
        }
        let of = rustix::fs::fstatfs(&file).map_err(system(LOOK))?;
        if i128::from(of.f_type) != TMPFS_MAGIC {
            return Err(RegionError::Foreign("it is not in ordinary memory"));
        }
        // The size cannot change, because of the seals.
        let stat = rustix::fs::fstat(&file).map_err(system(LOOK))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(RegionError::Foreign("it is not a regular file"));
        }
        let size = u64::try_from(stat.st_size).map_err(|_| RegionError::Foreign("its size"))?;
        let end = parts.end(size).ok_or(RegionError::Foreign("its place"))?;
        if kind != Kind::Exclusive && (offset != 0 || end != size) {
            return Err(RegionError::Foreign("only what is exclusive has parts"));
        }
        // A missing page might not be available when it is touched. The maker of the region
        // reserved all, and the jail prevents removing one.
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
