//! Regions, with their kind in the type.

use crate::bindings::wrun::task::regions::{Kind, Region as Handle};
use crate::mapping::{self, Mapping};
use crate::words::{SharedU32, SharedU64};
use std::fmt;

pub use crate::bindings::wrun::task::regions::RegionError;

/// Any region, as it comes in a message.
#[derive(Debug)]
pub enum Region {
    /// This task has it alone.
    Exclusive(Exclusive),
    /// Nobody writes to it.
    Frozen(Frozen),
    /// Several may write to it, word by word.
    Shared(Shared),
}

/// Bytes that this task has alone: they move in messages, can be split into parts and
/// joined again, and are mapped read-write.
#[derive(Debug)]
pub struct Exclusive(pub(crate) Handle);

/// Bytes that nobody changes any more, for any number of holders.
#[derive(Debug)]
pub struct Frozen(pub(crate) Handle);

/// Bytes for any number of holders, who may all write: by copies and atomics through
/// the host, never by a mapping.
#[derive(Debug)]
pub struct Shared(pub(crate) Handle);

/// What could not be done with an exclusive region, which is as it was.
#[derive(Debug)]
pub struct Refused {
    /// Why not.
    pub error: RegionError,
    /// What it was to be done with.
    pub region: Exclusive,
}

impl Region {
    pub(crate) fn new(handle: Handle) -> Self {
        match handle.kind() {
            Kind::Exclusive => Region::Exclusive(Exclusive(handle)),
            Kind::Frozen => Region::Frozen(Frozen(handle)),
            Kind::Shared => Region::Shared(Shared(handle)),
        }
    }

    pub(crate) fn handle(&self) -> &Handle {
        match self {
            Region::Exclusive(Exclusive(handle))
            | Region::Frozen(Frozen(handle))
            | Region::Shared(Shared(handle)) => handle,
        }
    }

    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region has bytes")]
    pub fn len(&self) -> u64 {
        self.handle().len()
    }
}

impl Exclusive {
    /// A new region of `len` bytes, all zero.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfBounds`] for no bytes, [`RegionError::Limit`] for more than
    /// this task may have: its regions count as its memory does.
    pub fn new(len: u64) -> Result<Self, RegionError> {
        Handle::create(len, Kind::Exclusive).map(Exclusive)
    }

    /// A new region with these bytes.
    ///
    /// # Errors
    ///
    /// As for [`Exclusive::new`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RegionError> {
        let mut region = Exclusive::new(bytes.len() as u64)?;
        region.write(0, bytes)?;
        Ok(region)
    }

    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region has bytes")]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// A copy of `len` bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfBounds`] where there are not as many.
    pub fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, RegionError> {
        self.0.read(offset, len)
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfBounds`] where there is no room for them.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), RegionError> {
        self.0.write(offset, bytes)
    }

    /// Lays all of it into this task's memory, where it is read and written as any
    /// other. It cannot be sent, split or frozen meanwhile: the mapping borrows it.
    ///
    /// # Errors
    ///
    /// [`RegionError::Limit`] for more than memory has room for, or after some
    /// hundreds of mappings at ever new addresses.
    pub fn map(&mut self) -> Result<Mapping<'_>, RegionError> {
        mapping::map(&self.0, 0, self.len())
    }

    /// As [`Exclusive::map`], of `len` bytes from `offset` on, a multiple of
    /// [`PAGE`](crate::PAGE).
    ///
    /// # Errors
    ///
    /// As for [`Exclusive::map`]; and [`RegionError::Misaligned`] or
    /// [`RegionError::OutOfBounds`] for what is no such range.
    pub fn map_range(&mut self, offset: u64, len: u64) -> Result<Mapping<'_>, RegionError> {
        mapping::map(&self.0, offset, len)
    }

    /// Nobody can write to it from now on, so that any number of tasks may have it.
    ///
    /// # Errors
    ///
    /// [`RegionError::Busy`] for a part of a region.
    pub fn freeze(self) -> Result<Frozen, Refused> {
        match self.0.freeze() {
            Ok(()) => Ok(Frozen(self.0)),
            Err(error) => Err(Refused {
                error,
                region: self,
            }),
        }
    }

    /// Two regions, `[0, at)` and `[at, len)`; `at` is a multiple of
    /// [`PAGE`](crate::PAGE).
    ///
    /// # Errors
    ///
    /// [`RegionError::Misaligned`], or [`RegionError::OutOfBounds`] where a part would
    /// have no bytes.
    pub fn split(self, at: u64) -> Result<(Exclusive, Exclusive), Refused> {
        match self.0.split(at) {
            Ok((low, high)) => Ok((Exclusive(low), Exclusive(high))),
            Err(error) => Err(Refused {
                error,
                region: self,
            }),
        }
    }

    /// Undoes [`Exclusive::split`]: `next` is the part behind this one.
    ///
    /// # Errors
    ///
    /// [`RegionError::Misaligned`] where they are not neighbours of one region. `next`
    /// comes back.
    pub fn join(&mut self, next: Exclusive) -> Result<(), Refused> {
        match self.0.join(&next.0) {
            Ok(()) => Ok(()),
            Err(error) => Err(Refused {
                error,
                region: next,
            }),
        }
    }
}

impl Frozen {
    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region has bytes")]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Another handle to the same region, to give away.
    ///
    /// # Errors
    ///
    /// [`RegionError::Limit`] where this task may have no more.
    pub fn duplicate(&self) -> Result<Self, RegionError> {
        self.0.duplicate().map(Frozen)
    }

    /// A copy of `len` bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfBounds`] where there are not as many.
    pub fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, RegionError> {
        self.0.read(offset, len)
    }

    /// Lays all of it into this task's memory. What is written there stays private to
    /// the mapping, and costs a page of memory the first time.
    ///
    /// # Errors
    ///
    /// As for [`Exclusive::map`].
    // It borrows nothing: nobody changes these bytes, and the host keeps them for as
    // long as they are mapped.
    pub fn map(&self) -> Result<Mapping<'static>, RegionError> {
        mapping::map(&self.0, 0, self.len())
    }

    /// As [`Frozen::map`], of `len` bytes from `offset` on, a multiple of
    /// [`PAGE`](crate::PAGE).
    ///
    /// # Errors
    ///
    /// As for [`Exclusive::map_range`].
    pub fn map_range(&self, offset: u64, len: u64) -> Result<Mapping<'static>, RegionError> {
        mapping::map(&self.0, offset, len)
    }
}

impl Shared {
    /// A new region of `len` bytes, all zero.
    ///
    /// # Errors
    ///
    /// As for [`Exclusive::new`].
    pub fn new(len: u64) -> Result<Self, RegionError> {
        Handle::create(len, Kind::Shared).map(Shared)
    }

    /// Bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region has bytes")]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Another handle to the same region, to give away.
    ///
    /// # Errors
    ///
    /// [`RegionError::Limit`] where this task may have no more.
    pub fn duplicate(&self) -> Result<Self, RegionError> {
        self.0.duplicate().map(Shared)
    }

    /// A copy of `len` bytes from `offset` on. What others write meanwhile can be in
    /// it or not, byte by byte: agree with them by a word, a message or a
    /// [`Barrier`](crate::Barrier).
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfBounds`] where there are not as many.
    pub fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, RegionError> {
        self.0.read(offset, len)
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfBounds`] where there is no room for them.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), RegionError> {
        self.0.write(offset, bytes)
    }

    /// The word of 32 bits at `offset`, a multiple of 4.
    ///
    /// # Errors
    ///
    /// [`RegionError::Misaligned`], [`RegionError::OutOfBounds`].
    pub fn u32(&self, offset: u64) -> Result<SharedU32<'_>, RegionError> {
        SharedU32::new(self, offset)
    }

    /// The word of 64 bits at `offset`, a multiple of 8.
    ///
    /// # Errors
    ///
    /// [`RegionError::Misaligned`], [`RegionError::OutOfBounds`].
    pub fn u64(&self, offset: u64) -> Result<SharedU64<'_>, RegionError> {
        SharedU64::new(self, offset)
    }
}

macro_rules! into_region {
    ($($kind:ident),*) => {$(
        impl From<$kind> for Region {
            fn from(region: $kind) -> Self {
                Region::$kind(region)
            }
        }

        impl TryFrom<Region> for $kind {
            type Error = RegionError;

            /// [`RegionError::WrongKind`] for a region of another kind.
            fn try_from(region: Region) -> Result<Self, RegionError> {
                match region {
                    Region::$kind(region) => Ok(region),
                    _ => Err(RegionError::WrongKind),
                }
            }
        }
    )*};
}
into_region!(Exclusive, Frozen, Shared);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Refused {}
