//! How long the kernel lets a thread compute at a time.

use std::time::Duration;

/// Ten times what Linux gives by default.
const LONG: Duration = Duration::from_millis(30);

/// A thread that computes: one that wakes up, with less to do, has the processor before it. Since
/// Linux 6.12; before, it does nothing.
pub struct LongSlice {
    /// The slice that it had; `None` if it was not changed.
    before: Option<u64>,
}

impl LongSlice {
    /// From now on, on this thread.
    pub fn new() -> Self {
        let long = u64::try_from(LONG.as_nanos()).unwrap_or_default();
        LongSlice { before: set(long) }
    }
}

impl Drop for LongSlice {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            set(before);
        }
    }
}

/// Only if the thread has the usual policy, and without changing how nice it is. Returns the slice
/// that it had, in nanoseconds; `None` if it was not changed.
#[expect(unsafe_code, reason = "libc has no function for these calls")]
fn set(slice: u64) -> Option<u64> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).ok()?;
    // SAFETY: all bytes zero are a valid `sched_attr`. The kernel fills in at most `size` bytes of
    // it, and then reads as many; 0 is this thread. What it refuses is left as it was.
    unsafe {
        let mut attributes: libc::sched_attr = std::mem::zeroed();
        if libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) != 0 {
            return None;
        }
        if attributes.sched_policy != libc::SCHED_OTHER.cast_unsigned() {
            return None;
        }
        attributes.size = size;
        let before = std::mem::replace(&mut attributes.sched_runtime, slice);
        let set = libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) == 0;
        set.then_some(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gets_its_slice_back() {
        let first = set(1_000_000).expect("the usual policy");
        let long = LongSlice::new();
        assert!(long.before.is_some());
        drop(long);
        let after = set(first).expect("the usual policy");
        // Kernels before 6.12 keep no slice for such threads.
        assert!(after == 1_000_000 || after == 0, "{after}");
    }
}
