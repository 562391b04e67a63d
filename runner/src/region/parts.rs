//! A region as it goes to another process: a descriptor, and what it is.
//!
//! What comes back from one is believed only as far as the kernel says so itself: a
//! sender that was taken over can lie about a kind, a place and a length, send any
//! descriptor, and keep one. It cannot make the receiver fault or wait, or take
//! memory that can change for memory that cannot.

use super::{
    Kind, MemoryFile, Refused, Region, RegionError, SEALS, page_size, reserve, system, whole_pages,
};
use rustix::fs::{FileType, OFlags, SealFlags};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// What a descriptor is of. Which whole a part is of needs no word: the kernel
/// knows which descriptors are of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parts {
    pub(crate) kind: Kind,
    pub(crate) offset: u64,
    pub(crate) len: u64,
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

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "for ports, which are still to come")
)]
impl Region {
    /// Takes it apart, to be sent. `busy` while it is mapped.
    pub(crate) fn into_parts(self) -> Result<(OwnedFd, Parts), Refused> {
        if self.is_mapped() {
            return Err(Refused {
                region: self,
                error: RegionError::Busy,
            });
        }
        let parts = Parts {
            kind: self.kind,
            offset: self.offset,
            len: self.len,
        };
        self.file.known_elsewhere.store(true, Relaxed);
        let file = match Arc::try_unwrap(self.file) {
            Ok(MemoryFile { file, .. }) => file,
            // Other parts of it, or other holders, are here and stay.
            Err(shared) => match shared.file.try_clone() {
                Ok(file) => file,
                Err(source) => {
                    let region = Region {
                        file: shared,
                        ..self
                    };
                    let error = RegionError::System {
                        what: "cannot copy a descriptor",
                        source,
                    };
                    return Err(Refused { region, error });
                }
            },
        };
        Ok((file, parts))
    }

    /// Makes a region of what somebody sent. Whoever calls has bounded `parts.len`.
    ///
    /// # Errors
    ///
    /// It is not what it is said to be; there is no memory.
    pub(crate) fn from_parts(file: OwnedFd, parts: Parts) -> Result<Self, RegionError> {
        let Parts { kind, offset, len } = parts;
        // First what asks the kernel only: whose file system a descriptor is of is not
        // known yet, and some answer when they like.
        let flags = rustix::fs::fcntl_getfl(&file).map_err(system(LOOK))?;
        if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE != OFlags::RDWR {
            return Err(RegionError::Foreign("it is not for reading and writing"));
        }
        let seals = rustix::fs::fcntl_get_seals(&file)
            .map_err(|_| RegionError::Foreign("it cannot be sealed"))?;
        let mut wanted = SEALS;
        if kind == Kind::Frozen {
            wanted |= SealFlags::WRITE;
        }
        if !seals.contains(wanted) {
            return Err(RegionError::Foreign("it is not sealed"));
        }
        // Nobody could write to it, the kernel would say; the reverse is a lie too.
        if kind != Kind::Frozen && seals.contains(SealFlags::WRITE) {
            return Err(RegionError::Foreign("it is frozen"));
        }
        let of = rustix::fs::fstatfs(&file).map_err(system(LOOK))?;
        if i128::from(of.f_type) != TMPFS_MAGIC {
            return Err(RegionError::Foreign("it is not in ordinary memory"));
        }
        // The size stays, for there are seals.
        let stat = rustix::fs::fstat(&file).map_err(system(LOOK))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(RegionError::Foreign("it is no regular file"));
        }
        let size = u64::try_from(stat.st_size).map_err(|_| RegionError::Foreign("its size"))?;
        let end = parts.end(size).ok_or(RegionError::Foreign("its place"))?;
        if kind != Kind::Exclusive && (offset != 0 || end != size) {
            return Err(RegionError::Foreign("only what is exclusive has parts"));
        }
        // A page that is not there could not be had when it is touched.
        reserve(&file, offset, end - offset)?;
        let region = Region::of(file, kind, offset, len, size)?;
        region.file.known_elsewhere.store(true, Relaxed);
        Ok(region)
    }
}
