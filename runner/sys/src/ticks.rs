//! The timer signal that preempts guests in a process with one thread: see [`preempt`].
//!
//! [`preempt`]: crate::preempt

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

static READY: AtomicBool = AtomicBool::new(false);
static TICKING: AtomicBool = AtomicBool::new(false);
/// The interval, in microseconds.
static EVERY: AtomicU32 = AtomicU32::new(0);

/// How soon a tick comes that is to find what the last one missed.
const SOON: Duration = Duration::from_micros(200);

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
    let micros = u32::try_from(every.as_micros()).unwrap_or(u32::MAX);
    EVERY.store(micros, Ordering::Relaxed);
    TICKING.store(set(every, every), Ordering::Relaxed);
}

/// Lets the next tick come sooner. For the signal's handler.
pub(crate) fn soon() {
    if TICKING.load(Ordering::Relaxed) {
        let every = Duration::from_micros(EVERY.load(Ordering::Relaxed).into());
        set(SOON.min(every), every);
    }
}

/// Stops the ticks.
pub fn stop_ticks() {
    TICKING.store(false, Ordering::Relaxed);
    set(Duration::ZERO, Duration::ZERO);
}

/// Whether the signal is sent at an interval: calls that wait in the kernel are then
/// interrupted.
pub fn are_ticking() -> bool {
    TICKING.load(Ordering::Relaxed)
}

#[expect(unsafe_code, reason = "no safe setitimer is at hand")]
fn set(first: Duration, every: Duration) -> bool {
    let time = |time: Duration| libc::timeval {
        tv_sec: time.as_secs().cast_signed(),
        tv_usec: i64::from(time.subsec_micros()),
    };
    let timer = libc::itimerval {
        it_interval: time(every),
        it_value: time(first),
    };
    // SAFETY: the pointer is to a local value; null is allowed for the old one. It fails
    // only for values out of range.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) == 0 }
}
