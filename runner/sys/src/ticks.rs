//! A timer signal that preempts guests in a process with one thread.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wasmtime::Engine;

static ENGINE: OnceLock<Engine> = OnceLock::new();
static TICKING: AtomicBool = AtomicBool::new(false);

/// Makes each tick advance this engine's epoch. Once per process.
///
/// # Errors
///
/// The signal's handler cannot be installed.
#[expect(unsafe_code, reason = "a signal handler")]
pub fn tick_for(engine: &Engine) -> io::Result<()> {
    if ENGINE.set(engine.clone()).is_err() {
        return Err(io::Error::other("the ticks are another engine's"));
    }
    // SAFETY: `register` requires an action that is safe in a signal handler.
    // `increment_epoch` is one atomic addition, documented as such; reading a
    // `OnceLock` that is set is an atomic load.
    unsafe {
        signal_hook::low_level::register(signal_hook::consts::SIGALRM, || {
            if let Some(engine) = ENGINE.get() {
                engine.increment_epoch();
            }
        })
    }
    .map(drop)
}

/// Whether [`tick_for`] was called.
pub fn has_ticks() -> bool {
    ENGINE.get().is_some()
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
