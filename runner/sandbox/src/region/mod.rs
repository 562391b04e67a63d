//! Regions: bytes in a memory file that tasks share without serialization, in one process
//! or in several.
//!
//! May use `sys`; knows nothing of guests. The rules are those of Rust's borrow checker:
//!
//! | kind | holders | mapped into a guest's memory |
//! |---|---|---|
//! | exclusive | one | the pages themselves; a copy where other processes may have them |
//! | frozen | any number | copy-on-write |
//! | shared | any number | never |
//!
//! The runner makes every region, and its ledger counts it until the last holder is gone
//! ([`ledger`]); the worker that requested it reserves its pages.
//!
//! Invariants: the bytes of a [`Region`] are reserved, and its file can neither shrink nor
//! grow. While pages of an exclusive region are mapped into a memory, a [`Lease`] is out,
//! and the region is neither frozen nor split nor given away. A frozen region is never
//! written to; the kernel's seal enforces it. Pages of an exclusive region are mapped
//! themselves only if no other process has the file: a region that came from another one is
//! *claimed* first ([`claim`]), and its bytes are copied if that fails.

mod claim;
mod error;
mod ledger;
mod parts;
mod wait;
mod waiters;
mod words;

pub use error::RegionError;
use error::system;
use ledger::Charge;
pub use ledger::{Ledger, Maker};
pub use parts::Parts;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
pub use wait::Waited;
use waiters::Waiters;
pub use words::{Op, Word};
use wrun_sys::SharedWords;

/// The operations that are forbidden for every region's file.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// The operations that are forbidden for a file whose kind never changes: also to add
/// seals, by which one holder could take the right to write from the others.
const SEALS_OF_SHARED: SealFlags = SEALS.union(SealFlags::SEAL);

/// Bytes that are reserved or copied before others have their turn: milliseconds.
pub const STEP: usize = 16 << 20;

/// The holders that a [`Region`] may have, and their rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// One holder, which reads and writes; it moves in messages, and a task maps the pages
    /// themselves.
    Exclusive,
    /// Any number of holders, which read; a task maps its pages, and what it writes there
    /// is not shared.
    Frozen,
    /// Any number of holders, which read and write at the same time, by copies and atomics;
    /// never mapped.
    Shared,
}

/// Bytes that tasks and their host share without serialization. This is a handle to a
/// memory file.
///
/// `Runner::region` and `Runner::frozen_region` make them; they go to tasks in messages
/// ([`Message::region`](crate::port::Message::region)), in process mode as descriptors, so
/// that the time to send one does not depend on its size. A region lives until its last
/// holder has dropped it or ended. `wit/regions.wit` describes what a task can do with one.
///
/// A task that broke out of its sandbox can keep an exclusive or shared region that it gave
/// away, and write there later. A frozen one is never written to. No task has such pages in
/// its memory: in process mode an exclusive region that another process has kept, or has a
/// part of, is mapped by copying its bytes.
#[derive(Debug)]
pub struct Region {
    file: Arc<MemoryFile>,
    kind: Kind,
    /// Offset in the file, a multiple of the page size.
    offset: u64,
    len: u64,
    /// It has other copies while the region is mapped.
    lease: Lease,
}

/// Held while a region's pages are mapped into a memory.
#[derive(Clone, Debug, Default)]
struct Lease(Arc<()>);

#[derive(Debug)]
struct MemoryFile {
    file: OwnedFd,
    /// In whole pages.
    size: u64,
    /// Other processes have it, or may have it.
    known_elsewhere: AtomicBool,
    /// Holders can be in other processes: waiting is done in the kernel.
    elsewhere: bool,
    /// For shared regions, mapped at the first access to a word.
    words: OnceLock<SharedWords>,
    waiters: Waiters,
    /// If all holders are in this process; subtracted after the file is closed.
    _charge: Option<Charge>,
}

/// An operation that takes a region failed, and returns it.
#[derive(Debug)]
pub struct Refused {
    pub region: Region,
    pub error: RegionError,
}

/// Pages that may be mapped into the memory of the guest that holds them, or whose bytes
/// may be copied there. It must be kept until they are removed: it keeps the lease out.
/// Pages that are not to be copied have no other writer.
#[derive(Debug)]
pub struct Mappable {
    file: Arc<MemoryFile>,
    offset: u64,
    len: usize,
    private: bool,
    copied: bool,
    _lease: Lease,
}

fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

fn whole_pages(len: u64) -> Option<u64> {
    len.checked_next_multiple_of(page_size())
}

/// A region whose pages are not all reserved yet.
#[derive(Debug)]
pub struct Draft {
    file: OwnedFd,
    kind: Kind,
    len: u64,
    size: u64,
    reserved: u64,
    elsewhere: bool,
    charge: Option<Charge>,
}

impl Draft {
    /// Bytes of memory that a region of `len` bytes takes, if it is valid.
    #[doc(hidden)]
    pub fn memory(len: u64, kind: Kind) -> Result<u64, RegionError> {
        if kind == Kind::Frozen {
            return Err(RegionError::WrongKind);
        }
        whole_pages(len)
            .filter(|size| *size > 0 && i64::try_from(*size).is_ok())
            .ok_or(RegionError::OutOfBounds)
    }

    /// With `len` bytes, at least one. For the ledger.
    #[doc(hidden)]
    pub fn new(len: u64, kind: Kind, elsewhere: bool) -> Result<Self, RegionError> {
        let size = Draft::memory(len, kind)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = rustix::fs::memfd_create("wrun-region", flags)
            .map_err(system("cannot make a memory file"))?;
        rustix::fs::ftruncate(&file, size).map_err(system("cannot size a memory file"))?;
        let seals = match kind {
            Kind::Shared => SEALS_OF_SHARED,
            Kind::Exclusive | Kind::Frozen => SEALS,
        };
        rustix::fs::fcntl_add_seals(&file, seals).map_err(system("cannot seal a memory file"))?;
        if elsewhere {
            file = claim::reopen(file.as_fd()).map_err(system("cannot open a memory file"))?;
        }
        Ok(Draft {
            file,
            kind,
            len,
            size,
            reserved: 0,
            elsewhere,
            charge: None,
        })
    }

    /// The file, for the worker whose task requested it.
    #[doc(hidden)]
    pub fn into_file(self) -> OwnedFd {
        self.file
    }

    /// The file that this process's runner has made, as requested.
    #[doc(hidden)]
    pub fn from_runner(file: OwnedFd, len: u64, kind: Kind) -> Result<Self, RegionError> {
        Ok(Draft {
            file,
            kind,
            len,
            size: Draft::memory(len, kind)?,
            reserved: 0,
            elsewhere: true,
            charge: None,
        })
    }

    /// Reserves some more; `false` once all is reserved.
    #[doc(hidden)]
    pub fn reserve(&mut self) -> Result<bool, RegionError> {
        let step = (self.size - self.reserved).min(STEP as u64);
        if step > 0 {
            // Touching a page for the first time, in every task that has the region, costs more
            // than this does once. A large page that is partly present is filled with zeroes;
            // if large pages are not available, small ones are used.
            let large = step / wrun_sys::LARGE as u64;
            for page in 0..large {
                let at = self.reserved + page * wrun_sys::LARGE as u64;
                reserve(&self.file, at, page_size())?;
            }
            let len = usize::try_from(large).unwrap_or(0) * wrun_sys::LARGE;
            if len > 0 {
                let _ = wrun_sys::collapse(&self.file, self.reserved, len);
            }
            reserve(&self.file, self.reserved, step)?;
            self.reserved += step;
        }
        Ok(self.reserved < self.size)
    }

    /// The region, once all is reserved.
    #[doc(hidden)]
    pub fn finish(mut self) -> Result<Region, RegionError> {
        while self.reserve()? {}
        Ok(Region::of(
            MemoryFile {
                file: self.file,
                size: self.size,
                known_elsewhere: AtomicBool::new(false),
                elsewhere: self.elsewhere,
                words: OnceLock::new(),
                waiters: Waiters::default(),
                _charge: self.charge,
            },
            self.kind,
            0,
            self.len,
        ))
    }
}

fn reserve(file: &OwnedFd, offset: u64, len: u64) -> Result<(), RegionError> {
    rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, FallocateFlags::empty(), offset, len))
        .map_err(system("cannot reserve memory"))
}

impl Region {
    fn of(file: MemoryFile, kind: Kind, offset: u64, len: u64) -> Self {
        Region {
            file: Arc::new(file),
            kind,
            offset,
            len,
            lease: Lease::default(),
        }
    }

    /// Length in bytes; at least one.
    #[expect(clippy::len_without_is_empty, reason = "none is empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The holders it may have, and their rights.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of memory that it takes: whole pages.
    #[doc(hidden)]
    pub fn memory(&self) -> u64 {
        whole_pages(self.len).unwrap_or(u64::MAX)
    }

    /// Whether its holders can be in other processes.
    #[doc(hidden)]
    pub fn is_elsewhere(&self) -> bool {
        self.file.elsewhere
    }

    /// Another handle to the same frozen or shared region.
    ///
    /// # Errors
    ///
    /// [`RegionError::WrongKind`]: an exclusive region has one holder.
    pub fn duplicate(&self) -> Result<Region, RegionError> {
        match self.kind {
            Kind::Exclusive => Err(RegionError::WrongKind),
            Kind::Frozen | Kind::Shared => Ok(Region {
                file: self.file.clone(),
                kind: self.kind,
                offset: self.offset,
                len: self.len,
                lease: Lease::default(),
            }),
        }
    }

    /// Whether it may be given away.
    #[doc(hidden)]
    pub fn check_moves(&self) -> Result<(), RegionError> {
        match self.kind {
            Kind::Exclusive => self.check_unmapped(),
            Kind::Frozen | Kind::Shared => Ok(()),
        }
    }

    /// The offset of `[offset, offset + len)` of the region in its file.
    fn at(&self, offset: u64, len: u64) -> Result<u64, RegionError> {
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > self.len) {
            return Err(RegionError::OutOfBounds);
        }
        Ok(self.offset + offset)
    }

    /// Whether `[offset, offset + len)` is within the region.
    #[doc(hidden)]
    pub fn check(&self, offset: u64, len: u64) -> Result<(), RegionError> {
        self.at(offset, len).map(drop)
    }

    /// Whether it may be written to.
    #[doc(hidden)]
    pub fn check_writable(&self) -> Result<(), RegionError> {
        match self.kind {
            Kind::Exclusive | Kind::Shared => Ok(()),
            Kind::Frozen => Err(RegionError::WrongKind),
        }
    }

    /// Fills `bytes` from `offset` on. The kernel copies, so concurrent writes are not a
    /// problem.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfBounds`], [`RegionError::System`].
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), RegionError> {
        let mut at = self.at(offset, bytes.len() as u64)?;
        let mut left = bytes;
        while !left.is_empty() {
            let read =
                rustix::io::retry_on_intr(|| rustix::io::pread(&self.file.file, &mut *left, at))
                    .map_err(system("cannot read a region"))?;
            if read == 0 {
                return Err(RegionError::OutOfBounds);
            }
            left = &mut left[read..];
            at += read as u64;
        }
        Ok(())
    }

    /// Writes `bytes` from `offset` on; as for reading, the kernel copies.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfBounds`]; [`RegionError::WrongKind`] for a frozen one;
    /// [`RegionError::Busy`] if a task that broke out of its sandbox has kept it and
    /// obstructs writing; [`RegionError::System`].
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), RegionError> {
        self.check_writable()?;
        let mut at = self.at(offset, bytes.len() as u64)?;
        let mut left = bytes;
        while !left.is_empty() {
            let written =
                rustix::io::retry_on_intr(|| rustix::io::pwrite(&self.file.file, left, at))
                    .map_err(|errno| match errno {
                        // Another process has kept it, and has sealed it or set its description
                        // to append.
                        rustix::io::Errno::PERM => RegionError::Busy,
                        errno => system("cannot write to a region")(errno),
                    })?;
            if written == 0 {
                return Err(RegionError::OutOfBounds);
            }
            left = &left[written..];
            at += written as u64;
        }
        Ok(())
    }

    /// Whether its pages are mapped into a memory.
    #[doc(hidden)]
    pub fn is_mapped(&self) -> bool {
        Arc::strong_count(&self.lease.0) > 1
    }

    fn check_unmapped(&self) -> Result<(), RegionError> {
        match self.is_mapped() {
            true => Err(RegionError::Busy),
            false => Ok(()),
        }
    }

    fn check_kind(&self, kind: Kind) -> Result<(), RegionError> {
        match self.kind == kind {
            true => Ok(()),
            false => Err(RegionError::WrongKind),
        }
    }

    /// `len` bytes from `offset` on, as pages to be mapped into the memory of the guest
    /// that holds the region; the last page may reach beyond the end.
    #[doc(hidden)]
    pub fn map(&self, offset: u64, len: usize) -> Result<Mappable, RegionError> {
        if self.kind == Kind::Shared {
            return Err(RegionError::WrongKind);
        }
        let page = page_size();
        if len == 0 || !offset.is_multiple_of(page) || !(len as u64).is_multiple_of(page) {
            return Err(RegionError::Misaligned);
        }
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > self.memory()) {
            return Err(RegionError::OutOfBounds);
        }
        // The same pages at two addresses would be memory that changes without a write to it.
        if self.kind == Kind::Exclusive {
            self.check_unmapped()?;
        }
        Ok(Mappable {
            file: self.file.clone(),
            offset: self.offset + offset,
            len,
            private: self.kind != Kind::Exclusive,
            copied: self.is_copied(),
            _lease: self.lease.clone(),
        })
    }

    fn is_whole(&self) -> bool {
        self.offset == 0 && self.memory() == self.file.size
    }

    /// Other processes may have its pages and write to them: no guest gets the pages
    /// themselves. If a file is divided into parts, any part may be sent while another is
    /// mapped.
    fn is_copied(&self) -> bool {
        let known = self.file.known_elsewhere.load(Relaxed);
        self.kind == Kind::Exclusive && self.file.elsewhere && (known || !self.is_whole())
    }

    /// The offset of `[offset, offset + len)` of the region in its file, if it is within
    /// the region.
    #[doc(hidden)]
    pub fn in_file(&self, offset: u64, len: u64) -> Result<Range<u64>, RegionError> {
        let at = self.at(offset, len)?;
        Ok(at..at + len)
    }

    /// Changes it from exclusive to frozen, permanently.
    ///
    /// # Errors
    ///
    /// [`RegionError::WrongKind`] for another kind; [`RegionError::Busy`] if another holder
    /// has a part of it.
    pub fn freeze(&mut self) -> Result<(), RegionError> {
        self.check_kind(Kind::Exclusive)?;
        self.check_unmapped()?;
        // Seals apply to the whole file, and another holder has the other part.
        if !self.is_whole() {
            return Err(RegionError::Busy);
        }
        let seals = SealFlags::WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&self.file.file, seals).map_err(|errno| {
            match errno {
                // Another process has kept a mapping, or has sealed it against seals.
                rustix::io::Errno::BUSY | rustix::io::Errno::PERM => RegionError::Busy,
                errno => system("cannot seal a memory file")(errno),
            }
        })?;
        self.kind = Kind::Frozen;
        Ok(())
    }

    /// Whether it can be split there.
    #[doc(hidden)]
    pub fn check_split(&self, at: u64) -> Result<(), RegionError> {
        self.check_kind(Kind::Exclusive)?;
        self.check_unmapped()?;
        if at == 0 || at >= self.len {
            return Err(RegionError::OutOfBounds);
        }
        match at.is_multiple_of(page_size()) {
            true => Ok(()),
            false => Err(RegionError::Misaligned),
        }
    }

    /// `[0, at)` and `[at, len)`.
    #[doc(hidden)]
    pub fn split(self, at: u64) -> Result<(Region, Region), Refused> {
        if let Err(error) = self.check_split(at) {
            return Err(Refused {
                region: self,
                error,
            });
        }
        let part = |offset, len| Region {
            file: self.file.clone(),
            kind: Kind::Exclusive,
            offset,
            len,
            lease: Lease::default(),
        };
        Ok((part(self.offset, at), part(self.offset + at, self.len - at)))
    }

    /// Whether `next` can be joined to this one.
    #[doc(hidden)]
    pub fn check_join(&self, next: &Region) -> Result<(), RegionError> {
        for region in [self, next] {
            region.check_kind(Kind::Exclusive)?;
            region.check_unmapped()?;
        }
        let neighbours = self.offset + self.len == next.offset
            && (Arc::ptr_eq(&self.file, &next.file) || self.is_same_file(next));
        match neighbours {
            true => Ok(()),
            false => Err(RegionError::Misaligned),
        }
    }

    /// Undoes [`Region::split`].
    #[doc(hidden)]
    pub fn join(&mut self, next: Region) -> Result<(), Refused> {
        if let Err(error) = self.check_join(&next) {
            return Err(Refused {
                region: next,
                error,
            });
        }
        self.len += next.len;
        Ok(())
    }

    /// Two descriptors can be of one file if they came from elsewhere.
    fn is_same_file(&self, other: &Region) -> bool {
        let identity = |region: &Region| {
            let stat = rustix::fs::fstat(&region.file.file).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let ours = identity(self);
        ours.is_some() && ours == identity(other)
    }
}

impl wrun_sys::Pages for Mappable {
    fn file(&self) -> BorrowedFd<'_> {
        self.file.file.as_fd()
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn len(&self) -> usize {
        self.len
    }

    fn is_copied(&self) -> bool {
        self.copied
    }

    fn is_known_elsewhere(&self) -> bool {
        self.file.known_elsewhere.load(Relaxed)
    }

    fn is_private(&self) -> bool {
        self.private
    }
}

#[cfg(test)]
mod tests;
