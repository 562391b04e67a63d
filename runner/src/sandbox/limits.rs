//! The store's limiter: sums over all memories and tables of a task, because
//! wasmtime asks for each of them alone.
//!
//! Invariant: `memory` never exceeds `max_memory`, and `table_elements` never
//! exceeds `max_table_elements`. Growth that was allowed and then failed in the
//! operating system stays counted: wasmtime reports a failure also for calls it
//! never asked about, so giving back would let a guest shrink its own account.

use wasmtime::ResourceLimiter;

#[derive(Debug)]
pub(crate) struct Limiter {
    max_memory: usize,
    max_table_elements: usize,
    max_instances: usize,
    memory: usize,
    peak_memory: usize,
    table_elements: usize,
    refused: u64,
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
        }
    }

    /// Most bytes of linear memory that the task held at once.
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
        let total = self.memory.saturating_add(delta);
        if total > self.max_memory {
            self.refused += 1;
            return Ok(false);
        }
        // Beyond its own declared maximum: the guest's refusal, not ours.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.memory = total;
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
    fn own_maximum_is_not_our_refusal() {
        let mut limiter = Limiter::new(&Limits::default().max_memory(100));
        assert!(!limiter.memory_growing(0, 80, Some(40)).expect("asked"));
        assert_eq!(limiter.refused(), 0);
    }
}
