//! The timer signal that preempts guests in a process with one thread: see [`preempt`].
//!
//! [`preempt`]: crate::preempt

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static READY: AtomicBool = AtomicBool::new(false);
static TICKING: AtomicBool = AtomicBool::new(false);

/// Makes each tick preempt the guest that is running. Once per process; a fork inherits it.
///
/// # Errors
///
/// The signal's handler cannot be installed, or there is no memory for a stack.
pub fn prepare_ticks() -> io::Result<()> {
    crate::preempt::prepare()?;
    crate::preempt::handle_ticks(libc::SIGALRM)?;
    READY.store(true, Ordering::Relaxed);
    Ok(())
}

/// Whether [`prepare_ticks`] was called.
pub fn has_ticks() -> bool {
    READY.load(Ordering::Relaxed)
}

/// Starts the ticks, at this interval. A fork does not inherit them.
pub fn start_ticks(every: Duration) {
    TICKING.store(set(every), Ordering::Relaxed);
}

/// Stops the ticks.
pub fn stop_ticks() {
    TICKING.store(false, Ordering::Relaxed);
    set(Duration::ZERO);
}

/// Whether the signal is sent at an interval: calls that wait in the kernel are then
/// interrupted.
pub fn are_ticking() -> bool {
    TICKING.load(Ordering::Relaxed)
}

#[expect(unsafe_code, reason = "no safe setitimer is at hand")]
fn set(every: Duration) -> bool {
    let time = libc::timeval {
        tv_sec: every.as_secs().cast_signed(),
        tv_usec: i64::from(every.subsec_micros()),
    };
    let timer = libc::itimerval {
        it_interval: time,
        it_value: time,
    };
    // SAFETY: the pointer is to a local value; null is allowed for the old one. It fails
    // only for values out of range.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) == 0 }
}
