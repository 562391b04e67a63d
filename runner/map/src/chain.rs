//! Which inputs a journal is about: a digest of all inputs up to a position, and what is left of
//! them when a batch is resumed.
//!
//! Invariant: nothing of the rest runs before all inputs that were taken earlier were seen again,
//! and were the same.

use crate::input::{Input, Payload};
use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt;

/// A digest of the first inputs of a batch.
pub(crate) type Chain = [u8; 32];

/// An input with its position.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) index: u64,
    pub(crate) input: Input,
    /// Of all inputs up to this one.
    pub(crate) chain: Chain,
}

/// Numbers inputs.
#[derive(Debug, Default)]
pub(crate) struct Numbering {
    next: u64,
    chain: Chain,
    /// Whether digests are wanted.
    digests: bool,
}

impl Numbering {
    pub(crate) fn new(digests: bool) -> Self {
        Numbering {
            digests,
            ..Numbering::default()
        }
    }

    pub(crate) fn number(&mut self, input: Input) -> Item {
        if self.digests {
            self.chain = extended(&self.chain, &input);
        }
        let index = self.next;
        self.next += 1;
        Item {
            index,
            input,
            chain: self.chain,
        }
    }
}

fn extended(chain: &Chain, input: &Input) -> Chain {
    let mut hasher = blake3::Hasher::new();
    let mut add = |kind: u8, bytes: &[u8]| {
        hasher.update(&[kind]);
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    add(0, chain);
    add(1, input.name.as_bytes());
    match &input.payload {
        Ok(Payload::Bytes(bytes)) => add(2, bytes),
        Ok(Payload::File(file)) => {
            add(3, file.path.as_os_str().as_bytes());
            add(4, &file.len.to_le_bytes());
            add(5, &file.modified.to_le_bytes());
        }
        Err(_) => add(6, b""),
    }
    if let Some(carried) = &input.carried {
        add(7, carried.to_string().as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// What a journal knows of the inputs.
#[derive(Debug, Default)]
pub struct Resume {
    /// Ranges of positions that are done, first and last, in order and apart from each other.
    pub(crate) done: Vec<(u64, u64)>,
    /// The digest up to the last of them; `None` if other inputs are accepted.
    pub(crate) chain: Option<Chain>,
    /// The range that the next position is in or before.
    at: usize,
    /// Those that are not done, until all before the end of `done` were seen.
    held: VecDeque<Item>,
}

/// The inputs are not those of the journal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changed;

impl Resume {
    pub(crate) fn new(done: Vec<(u64, u64)>, chain: Option<Chain>) -> Self {
        Resume {
            done,
            chain,
            at: 0,
            held: VecDeque::new(),
        }
    }

    /// The number of inputs that must be there.
    fn end(&self) -> u64 {
        self.done.last().map_or(0, |(_, last)| last + 1)
    }

    /// Takes the next input. What may run is added to `admitted`.
    pub(crate) fn admit(
        &mut self,
        item: Item,
        admitted: &mut VecDeque<Item>,
    ) -> Result<(), Changed> {
        let (index, end) = (item.index, self.end());
        if index >= end {
            admitted.push_back(item);
            return Ok(());
        }
        let chain = item.chain;
        while self
            .done
            .get(self.at)
            .is_some_and(|(_, last)| *last < index)
        {
            self.at += 1;
        }
        if self
            .done
            .get(self.at)
            .is_none_or(|(first, _)| index < *first)
        {
            self.held.push_back(item);
        }
        if index + 1 == end {
            if self.chain.is_some_and(|expected| expected != chain) {
                return Err(Changed);
            }
            admitted.append(&mut self.held);
        }
        Ok(())
    }

    /// There are no more inputs than `count`.
    pub(crate) fn ended(
        &mut self,
        count: u64,
        admitted: &mut VecDeque<Item>,
    ) -> Result<(), Changed> {
        if count < self.end() && self.chain.is_some() {
            return Err(Changed);
        }
        admitted.append(&mut self.held);
        Ok(())
    }
}

impl Numbering {
    /// How many were numbered.
    pub(crate) fn count(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(names: &[&str]) -> Vec<Item> {
        let mut numbering = Numbering::new(true);
        let input = |name: &&str| numbering.number(Input::bytes(*name, name.as_bytes().to_vec()));
        names.iter().map(input).collect()
    }

    fn rest(
        done: &[(u64, u64)],
        chain: Option<Chain>,
        names: &[&str],
    ) -> Result<Vec<u64>, Changed> {
        let mut resume = Resume::new(done.to_vec(), chain);
        let mut admitted = VecDeque::new();
        let count = names.len() as u64;
        for item in items(names) {
            resume.admit(item, &mut admitted)?;
        }
        resume.ended(count, &mut admitted)?;
        Ok(admitted.iter().map(|item| item.index).collect())
    }

    #[test]
    fn what_is_done_is_not_done_again() {
        let names = ["a", "b", "c", "d", "e"];
        let chain = |upto: usize| Some(items(&names)[upto].chain);
        assert_eq!(rest(&[], None, &names), Ok(vec![0, 1, 2, 3, 4]));
        assert_eq!(rest(&[(0, 1)], chain(1), &names), Ok(vec![2, 3, 4]));
        let holes = [(0, 0), (2, 3)];
        assert_eq!(rest(&holes, chain(3), &names), Ok(vec![1, 4]));
        assert_eq!(rest(&[(0, 4)], chain(4), &names), Ok(vec![]));
    }

    #[test]
    fn other_inputs_are_refused() {
        let names = ["a", "b", "c"];
        let chain = Some(items(&names)[1].chain);
        for other in [
            &["a", "x", "c"][..],
            &["b", "a", "c"],
            &["a"],
            &[],
            &["", "ab", "c"],
        ] {
            assert_eq!(rest(&[(0, 1)], chain, other), Err(Changed), "{other:?}");
        }
        assert_eq!(
            rest(&[(0, 1)], chain, &["a", "b", "x", "y"]),
            Ok(vec![2, 3])
        );
        assert_eq!(rest(&[(1, 1)], None, &["x"]), Ok(vec![0]));
    }
}
