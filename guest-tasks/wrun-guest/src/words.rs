//! Words of a shared region.

use crate::bindings::wrun::task::regions::WaitResult;
use crate::region::{RegionError, Shared};
use std::time::Duration;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Somebody notified, or the value changed meanwhile.
    Woken,
    /// The value was another from the start.
    NotEqual,
    /// The time was over first.
    TimedOut,
}

/// A word is made only where there is one, and a region stays as it is: nothing is
/// left that the host could refuse.
fn certain<T>(done: Result<T, RegionError>) -> T {
    match done {
        Ok(value) => value,
        Err(error) => unreachable!("a word of a region: {error}"),
    }
}

macro_rules! word {
    ($name:ident, $word:ident, $load:ident, $store:ident, $add:ident, $and:ident, $or:ident,
     $xor:ident, $exchange:ident, $compare_exchange:ident, $what:literal) => {
        #[doc = $what]
        /// of a shared region: every holder sees the same value, in one order
        /// (sequentially consistent). Each access is a call to the host, some tens of
        /// nanoseconds.
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'region> {
            region: &'region Shared,
            offset: u64,
        }

        impl<'region> $name<'region> {
            pub(crate) fn new(region: &'region Shared, offset: u64) -> Result<Self, RegionError> {
                // The host checks where it is; nothing is changed.
                region.0.$load(offset)?;
                Ok($name { region, offset })
            }

            /// The value.
            #[must_use]
            pub fn load(&self) -> $word {
                certain(self.region.0.$load(self.offset))
            }

            /// Sets the value.
            pub fn store(&self, value: $word) {
                certain(self.region.0.$store(self.offset, value));
            }

            /// Sets the value; gives the one before.
            pub fn swap(&self, value: $word) -> $word {
                certain(self.region.0.$exchange(self.offset, value))
            }

            /// Adds, around the end; gives the value before.
            pub fn fetch_add(&self, value: $word) -> $word {
                certain(self.region.0.$add(self.offset, value))
            }

            /// Subtracts, around the end; gives the value before.
            pub fn fetch_sub(&self, value: $word) -> $word {
                self.fetch_add(value.wrapping_neg())
            }

            /// Keeps the bits of `value`; gives the value before.
            pub fn fetch_and(&self, value: $word) -> $word {
                certain(self.region.0.$and(self.offset, value))
            }

            /// Sets the bits of `value`; gives the value before.
            pub fn fetch_or(&self, value: $word) -> $word {
                certain(self.region.0.$or(self.offset, value))
            }

            /// Flips the bits of `value`; gives the value before.
            pub fn fetch_xor(&self, value: $word) -> $word {
                certain(self.region.0.$xor(self.offset, value))
            }

            /// Sets the value where it is `current`.
            ///
            /// # Errors
            ///
            /// The value, where it is another.
            pub fn compare_exchange(&self, current: $word, new: $word) -> Result<$word, $word> {
                let before = self.region.0.$compare_exchange(self.offset, current, new);
                match certain(before) {
                    before if before == current => Ok(before),
                    before => Err(before),
                }
            }
        }
    };
}
word!(
    SharedU32,
    u32,
    load_u32,
    store_u32,
    add_u32,
    and_u32,
    or_u32,
    xor_u32,
    exchange_u32,
    compare_exchange_u32,
    "A word of 32 bits"
);
word!(
    SharedU64,
    u64,
    load_u64,
    store_u64,
    add_u64,
    and_u64,
    or_u64,
    xor_u64,
    exchange_u64,
    compare_exchange_u64,
    "A word of 64 bits"
);

impl SharedU32<'_> {
    /// Waits while the value is `expected`, until somebody notifies. It can return
    /// early: look at the value again.
    pub fn wait(&self, expected: u32) {
        self.waited(expected, None);
    }

    /// As [`SharedU32::wait`], for at most `timeout`.
    pub fn wait_timeout(&self, expected: u32, timeout: Duration) -> Waited {
        let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        self.waited(expected, Some(timeout))
    }

    fn waited(&self, expected: u32, timeout: Option<u64>) -> Waited {
        match certain(self.region.0.wait(self.offset, expected, timeout)) {
            WaitResult::Woken => Waited::Woken,
            WaitResult::NotEqual => Waited::NotEqual,
            WaitResult::TimedOut => Waited::TimedOut,
        }
    }

    /// Wakes up to `count` of those that wait here; gives how many. Change the value
    /// first: who is about to wait is not woken.
    pub fn notify(&self, count: u32) -> u32 {
        certain(self.region.0.notify(self.offset, count))
    }

    /// Wakes all that wait here.
    pub fn notify_all(&self) {
        self.notify(u32::MAX);
    }
}
