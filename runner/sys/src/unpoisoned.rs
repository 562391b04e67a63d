//! Locks whose holder may have panicked.

use std::sync::{LockResult, PoisonError};

/// Takes what a lock protects even if a thread panicked while it held the lock.
///
/// A panic in one task must not fail others, so no lock of this project stays unusable after
/// one. What a lock protects has to be valid whenever code under it can panic. The crates with
/// locks that have no poisoning are in `docs/adr/0035-crates-tried.md`.
pub trait Unpoisoned {
    /// The guard, or what the guard protects.
    type Value;

    /// The value, poisoned or not.
    fn unpoisoned(self) -> Self::Value;
}

impl<T> Unpoisoned for LockResult<T> {
    type Value = T;

    fn unpoisoned(self) -> T {
        self.unwrap_or_else(PoisonError::into_inner)
    }
}
