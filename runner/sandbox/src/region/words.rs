//! Atomics on shared regions, sequentially consistent.

use super::{Kind, MemoryFile, Region, RegionError};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, AtomicU64};
use wrun_sys::SharedWords;

/// An operation on a word; each returns the value before.
#[derive(Clone, Copy, Debug)]
pub enum Op<W> {
    Load,
    Store(W),
    Add(W),
    And(W),
    Or(W),
    Xor(W),
    Exchange(W),
    CompareExchange { expected: W, value: W },
}

/// A word of 32 or 64 bits.
pub trait Word: Copy {
    /// Applies it to the word at `offset` of a mapping; `None` if that is not in the
    /// mapping.
    fn apply(words: &SharedWords, offset: usize, op: Op<Self>) -> Option<Self>;
}

macro_rules! word {
    ($word:ident, $atomic:ident) => {
        impl Word for $word {
            fn apply(words: &SharedWords, offset: usize, op: Op<$word>) -> Option<$word> {
                let word: &$atomic = words.$word(offset)?;
                Some(match op {
                    Op::Load => word.load(SeqCst),
                    Op::Store(value) | Op::Exchange(value) => word.swap(value, SeqCst),
                    Op::Add(value) => word.fetch_add(value, SeqCst),
                    Op::And(value) => word.fetch_and(value, SeqCst),
                    Op::Or(value) => word.fetch_or(value, SeqCst),
                    Op::Xor(value) => word.fetch_xor(value, SeqCst),
                    Op::CompareExchange { expected, value } => {
                        match word.compare_exchange(expected, value, SeqCst, SeqCst) {
                            Ok(before) | Err(before) => before,
                        }
                    }
                })
            }
        }
    };
}
word!(u32, AtomicU32);
word!(u64, AtomicU64);

macro_rules! atomics {
    ($word:ident, $load:ident, $store:ident, $add:ident, $compare_exchange:ident) => {
        #[doc = concat!("The `", stringify!($word), "` at `offset` of a shared region.")]
        ///
        /// # Errors
        ///
        /// [`RegionError::OutOfBounds`]; [`RegionError::Misaligned`] if `offset` is not a
        /// multiple of its size; [`RegionError::WrongKind`] for another kind.
        pub fn $load(&self, offset: u64) -> Result<$word, RegionError> {
            self.apply(offset, Op::Load)
        }

        #[doc = concat!("Sets the `", stringify!($word), "` at `offset`.")]
        ///
        /// # Errors
        ///
        #[doc = concat!("As [`Region::", stringify!($load), "`].")]
        pub fn $store(&self, offset: u64, value: $word) -> Result<(), RegionError> {
            self.apply(offset, Op::Store(value)).map(drop)
        }

        #[doc = concat!("Adds to the `", stringify!($word), "` at `offset`, around its end; what it was before.")]
        ///
        /// # Errors
        ///
        #[doc = concat!("As [`Region::", stringify!($load), "`].")]
        pub fn $add(&self, offset: u64, value: $word) -> Result<$word, RegionError> {
            self.apply(offset, Op::Add(value))
        }

        #[doc = concat!("Sets the `", stringify!($word), "` at `offset` if it is `expected`; what it was before.")]
        ///
        /// # Errors
        ///
        #[doc = concat!("As [`Region::", stringify!($load), "`].")]
        pub fn $compare_exchange(
            &self,
            offset: u64,
            expected: $word,
            value: $word,
        ) -> Result<$word, RegionError> {
            self.apply(offset, Op::CompareExchange { expected, value })
        }
    };
}

/// Atomics, sequentially consistent.
impl Region {
    atomics!(u32, load_u32, store_u32, add_u32, compare_exchange_u32);
    atomics!(u64, load_u64, store_u64, add_u64, compare_exchange_u64);
}

impl Region {
    /// Applies an operation to the word at `offset`.
    pub fn apply<W: Word>(&self, offset: u64, op: Op<W>) -> Result<W, RegionError> {
        let (words, at) = self.word(offset, size_of::<W>())?;
        W::apply(words, at, op).ok_or(RegionError::OutOfBounds)
    }

    /// The mapping with the word at `offset`, and the word's position in the mapping.
    pub(super) fn word(
        &self,
        offset: u64,
        size: usize,
    ) -> Result<(&SharedWords, usize), RegionError> {
        if self.kind != Kind::Shared {
            return Err(RegionError::WrongKind);
        }
        if !offset.is_multiple_of(size as u64) {
            return Err(RegionError::Misaligned);
        }
        let at = self.at(offset, size as u64)?;
        let at = usize::try_from(at).map_err(|_| RegionError::OutOfBounds)?;
        Ok((self.file.words()?, at))
    }
}

impl MemoryFile {
    /// The words of a shared region, which is mapped at the first access.
    fn words(&self) -> Result<&SharedWords, RegionError> {
        if let Some(words) = self.words.get() {
            return Ok(words);
        }
        let len = usize::try_from(self.size).map_err(|_| RegionError::OutOfBounds)?;
        let words = SharedWords::map(&self.file, len).map_err(|error| RegionError::System {
            what: "cannot map a memory file",
            error,
        })?;
        // Another thread may have been first; then this mapping is dropped.
        Ok(self.words.get_or_init(|| words))
    }
}
