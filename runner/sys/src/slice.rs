//! How long the kernel lets a thread compute at a time.

use std::time::Duration;

/// Ten times what Linux gives by default.
const LONG: Duration = Duration::from_millis(30);

/// A thread that computes: one that wakes up, with less to do, has the processor before it. Since
/// Linux 6.12; before, it does nothing.
pub struct LongSlice(());

impl LongSlice {
    /// From now on, on this thread.
    pub fn new() -> Self {
        set(LONG);
        LongSlice(())
    }
}

impl Drop for LongSlice {
    fn drop(&mut self) {
        // The default.
        set(Duration::ZERO);
    }
}

/// Only if the thread has the usual policy, and without changing how nice it is.
#[expect(unsafe_code, reason = "libc has no function for these calls")]
fn set(slice: Duration) {
    let Ok(size) = u32::try_from(size_of::<libc::sched_attr>()) else {
        return;
    };
    // SAFETY: all bytes zero are a valid `sched_attr`. The kernel fills in at most `size` bytes of
    // it, and then reads as many; 0 is this thread. What it refuses is left as it was.
    unsafe {
        let mut attributes: libc::sched_attr = std::mem::zeroed();
        if libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) != 0 {
            return;
        }
        if attributes.sched_policy != libc::SCHED_OTHER.cast_unsigned() {
            return;
        }
        attributes.size = size;
        attributes.sched_runtime = u64::try_from(slice.as_nanos()).unwrap_or_default();
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
    }
}
