//! Atomics on shared regions, sequentially consistent.

use super::{Region, RegionError};
use crate::sys::SharedWords;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// What is done to a word; each gives the value before.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op<W> {
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
pub(crate) trait Word: Copy {
    /// Does it to the word at `offset` of a mapping; none where there is none.
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

impl Region {
    /// Does something to the word at `offset`.
    pub(crate) fn apply<W: Word>(&self, offset: u64, op: Op<W>) -> Result<W, RegionError> {
        let (words, at) = self.word(offset, size_of::<W>())?;
        W::apply(words, at, op).ok_or(RegionError::OutOfBounds)
    }

    /// The mapping with the word at `offset`, and where in the mapping.
    pub(super) fn word(
        &self,
        offset: u64,
        size: usize,
    ) -> Result<(&SharedWords, usize), RegionError> {
        let words = self.file.words.as_ref().ok_or(RegionError::WrongKind)?;
        if !offset.is_multiple_of(size as u64) {
            return Err(RegionError::Misaligned);
        }
        let at = self.at(offset, size as u64)?;
        let at = usize::try_from(at).map_err(|_| RegionError::OutOfBounds)?;
        Ok((words, at))
    }
}
