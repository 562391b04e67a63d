//! The waiters at a word, if all that can wake them are in this process.
//!
//! Invariant: a waiter that was counted by [`Waiters::notify`] is not in the list any more,
//! and its wait ends; one that left by itself was never counted.

use crate::sync::{Mutex, MutexGuard, Notify};
use std::collections::VecDeque;
use std::sync::Arc;
use wrun_sys::Unpoisoned;

/// The waiters, in the order of their arrival.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<VecDeque<Arc<Waiter>>>);

#[derive(Debug)]
struct Waiter {
    /// Position of the word in the file.
    at: usize,
    woken: Notify,
}

impl Waiters {
    fn list(&self) -> MutexGuard<'_, VecDeque<Arc<Waiter>>> {
        self.0.lock().unpoisoned()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    /// Adds a waiter for the word at `at` to the list, if `still` confirms the value.
    ///
    /// A holder that changes the value and then notifies finds the waiter in the list, or
    /// `still` finds the changed value: no notification happens in between.
    pub(super) fn stand(&self, at: usize, still: impl FnOnce() -> bool) -> Option<Standing<'_>> {
        let mut list = self.list();
        if !still() {
            return None;
        }
        let waiter = Arc::new(Waiter {
            at,
            woken: Notify::new(),
        });
        list.push_back(waiter.clone());
        drop(list);
        Some(Standing {
            waiters: self,
            waiter,
        })
    }

    /// Wakes up to `count` waiters at `at`; returns how many.
    pub(super) fn notify(&self, at: usize, count: u32) -> u32 {
        let mut woken = 0;
        self.list().retain(|waiter| {
            let wakes = waiter.at == at && woken < count;
            if wakes {
                woken += 1;
                waiter.woken.notify_one();
            }
            !wakes
        });
        woken
    }
}

/// A waiter in a list, until it is dropped.
pub(super) struct Standing<'a> {
    waiters: &'a Waiters,
    waiter: Arc<Waiter>,
}

impl Standing<'_> {
    /// Waits for a notification.
    pub(super) async fn woken(&self) {
        self.waiter.woken.notified().await;
    }

    /// Leaves the list; `false` if it was removed by a notification.
    pub(super) fn leave(&self) -> bool {
        let mut list = self.waiters.list();
        let place = list.iter().position(|it| Arc::ptr_eq(it, &self.waiter));
        place.and_then(|place| list.remove(place)).is_some()
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
