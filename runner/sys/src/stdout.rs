//! Whether this process was started without a stdout.
//!
//! Rust's runtime opens `/dev/null` in place of a closed standard descriptor before `main`,
//! so that a result written there would be lost silently. Only earlier code can detect it.
//! If there is no `/dev/null` (a container, a chroot), that runtime ends the process without a
//! message, so earlier code must also open something else.

use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether descriptor 1 was not open when the program was started.
pub fn was_stdout_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

extern "C" fn look() {
    let closed = rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err();
    CLOSED.store(closed, Ordering::Relaxed);
    // If no descriptor is left, Rust's runtime says so.
    let _ = super::fill_standard_streams();
}

// SAFETY: the loader calls every function in `.init_array` once, before `main`, with the C
// convention. `look` has this convention, cannot unwind, uses nothing that Rust's runtime
// sets up, and only makes system calls.
#[expect(unsafe_code, reason = "a function the loader calls before main")]
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;
