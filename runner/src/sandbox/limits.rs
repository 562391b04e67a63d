//! The store's limiter: sums over all memories and tables of a task, because
//! wasmtime asks for each of them alone, and over the regions that it holds.
//!
//! Invariant: `memory` and the bytes of regions together never exceed `max_memory`, and `table_elements` never
//! exceeds `max_table_elements`. Growth that was allowed and then failed in the
//! operating system stays counted: wasmtime reports a failure also for calls it
//! never asked about, so giving back would let a guest shrink its own account.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use wasmtime::ResourceLimiter;

/// Regions that one task holds at most: each is a descriptor.
const MAX_REGIONS: usize = 256;

#[derive(Debug)]
pub(crate) struct Limiter {
    max_memory: usize,
    max_table_elements: usize,
    max_instances: usize,
    memory: usize,
    peak_memory: usize,
    table_elements: usize,
    refused: u64,
    regions: Arc<Regions>,
}

/// The regions that a task holds. One thread at a time changes them: the task's.
#[derive(Debug, Default)]
struct Regions {
    bytes: AtomicU64,
    number: AtomicUsize,
}

/// A region's share of what its task may hold; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    regions: Arc<Regions>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.regions.bytes.fetch_sub(self.bytes, Relaxed);
        self.regions.number.fetch_sub(1, Relaxed);
    }
}

impl Charge {
    /// Moves so many bytes into a charge of their own, where one more region may be
    /// held.
    pub(crate) fn split(&mut self, bytes: u64) -> Option<Charge> {
        let number = &self.regions.number;
        if bytes > self.bytes || number.load(Relaxed) >= MAX_REGIONS {
            return None;
        }
        number.fetch_add(1, Relaxed);
        self.bytes -= bytes;
        Some(Charge {
            regions: self.regions.clone(),
            bytes,
        })
    }

    /// Undoes [`Charge::split`]; both are of one task.
    pub(crate) fn join(&mut self, mut next: Charge) {
        self.bytes += std::mem::take(&mut next.bytes);
    }
}

impl Limiter {
    pub(crate) fn new(limits: &crate::limits::Limits) -> Self {
        Limiter {
            max_memory: usize::try_from(limits.max_memory).unwrap_or(usize::MAX),
            max_table_elements: usize::try_from(limits.max_table_elements).unwrap_or(usize::MAX),
            max_instances: limits.max_instances as usize,
            memory: 0,
            peak_memory: 0,
            table_elements: 0,
            refused: 0,
            regions: Arc::default(),
        }
    }

    /// Counts what `other` has counted, of an instance that is to be this one's, if
    /// it fits.
    pub(crate) fn takes_over(&mut self, other: &Limiter) -> bool {
        let fits = self.max_memory >= other.memory
            && self.max_table_elements >= other.table_elements
            // How many there are, only the store knows.
            && self.max_instances >= other.max_instances
            && other.refused == 0;
        if fits {
            self.memory = other.memory;
            self.peak_memory = other.peak_memory;
            self.table_elements = other.table_elements;
        }
        fits
    }

    /// Counts a region of so many bytes, if it may be held.
    pub(crate) fn charge(&mut self, bytes: u64) -> Option<Charge> {
        let held = self.regions.bytes.load(Relaxed).saturating_add(bytes);
        let held_here = usize::try_from(held).unwrap_or(usize::MAX);
        let total = self.memory.saturating_add(held_here);
        if total > self.max_memory {
            self.refused += 1;
            return None;
        }
        if self.regions.number.load(Relaxed) >= MAX_REGIONS {
            return None;
        }
        self.peak_memory = self.peak_memory.max(total);
        self.regions.bytes.store(held, Relaxed);
        self.regions.number.fetch_add(1, Relaxed);
        Some(Charge {
            regions: self.regions.clone(),
            bytes,
        })
    }

    /// Bytes of the regions that are held.
    fn in_regions(&self) -> usize {
        usize::try_from(self.regions.bytes.load(Relaxed)).unwrap_or(usize::MAX)
    }

    /// Most bytes of linear memory and regions that the task held at once.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.peak_memory as u64
    }

    /// How often growth of a memory or a table was refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let delta = desired.saturating_sub(current);
        let memory = self.memory.saturating_add(delta);
        let total = memory.saturating_add(self.in_regions());
        if total > self.max_memory {
            self.refused += 1;
            return Ok(false);
        }
        // Beyond its own declared maximum: the guest's refusal, not ours.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.memory = memory;
        self.peak_memory = self.peak_memory.max(total);
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let delta = desired.saturating_sub(current);
        let total = self.table_elements.saturating_add(delta);
        if total > self.max_table_elements {
            self.refused += 1;
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.table_elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.max_instances
    }

    fn tables(&self) -> usize {
        self.max_instances
    }

    fn memories(&self) -> usize {
        self.max_instances
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn memories_are_summed() {
        let mut limiter = Limiter::new(&Limits::default().max_memory(100));
        assert!(limiter.memory_growing(0, 60, None).expect("first"));
        assert!(!limiter.memory_growing(0, 60, None).expect("second"));
        assert!(limiter.memory_growing(60, 100, None).expect("grow"));
        assert_eq!((limiter.peak_memory(), limiter.refused()), (100, 1));
    }

    #[test]
    fn regions_and_memories_are_summed() {
        let mut limiter = Limiter::new(&Limits::default().max_memory(100));
        let mut first = limiter.charge(60).expect("fits");
        assert!(!limiter.memory_growing(0, 60, None).expect("asked"));
        assert!(limiter.memory_growing(0, 30, None).expect("asked"));
        assert!(limiter.charge(20).is_none());
        let second = first.split(40).expect("one more");
        drop(first);
        let third = limiter.charge(20).expect("what was given back");
        assert!(limiter.charge(20).is_none());
        assert_eq!((limiter.peak_memory(), limiter.refused()), (90, 3));
        drop((second, third));
        assert_eq!(limiter.in_regions(), 0);
    }

    #[test]
    fn what_another_counted_is_taken_over_where_it_fits() {
        let mut other = Limiter::new(&Limits::default());
        assert!(other.memory_growing(0, 60, None).expect("fits"));
        assert!(other.table_growing(0, 10, None).expect("fits"));
        let fits = |limits: Limits| {
            let mut limiter = Limiter::new(&limits);
            limiter.takes_over(&other).then_some(limiter)
        };
        let narrow = Limits::default();
        assert!(fits(narrow.clone().max_memory(59)).is_none());
        assert!(fits(narrow.clone().max_table_elements(9)).is_none());
        assert!(fits(narrow.max_instances(999)).is_none());
        let mut limiter = fits(Limits::default().max_memory(100)).expect("fits");
        assert!(!limiter.memory_growing(60, 101, None).expect("asked"));
        assert!(limiter.memory_growing(60, 100, None).expect("asked"));
        assert_eq!(limiter.peak_memory(), 100);
    }

    #[test]
    fn regions_are_counted() {
        let mut limiter = Limiter::new(&Limits::default());
        let mut held: Vec<_> = (0..MAX_REGIONS)
            .map(|_| limiter.charge(4096).expect("fits"))
            .collect();
        assert!(limiter.charge(4096).is_none());
        assert!(held[0].split(1).is_none());
        let last = held.pop().expect("there are some");
        held[0].join(last);
        assert!(limiter.charge(4096).is_some());
        assert_eq!(limiter.refused(), 0);
    }

    #[test]
    fn own_maximum_is_not_our_refusal() {
        let mut limiter = Limiter::new(&Limits::default().max_memory(100));
        assert!(!limiter.memory_growing(0, 80, Some(40)).expect("asked"));
        assert_eq!(limiter.refused(), 0);
    }
}
