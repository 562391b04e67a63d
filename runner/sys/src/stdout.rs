//! Whether this process was started without a stdout.
//!
//! Rust's runtime opens `/dev/null` in place of a standard descriptor that is
//! closed, before `main`, so that a result written there is lost without a word.
//! Only code that runs earlier can tell.

use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether descriptor 1 was not open when the program was started.
pub fn was_stdout_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}

extern "C" fn look() {
    let closed = rustix::io::fcntl_getfd(rustix::stdio::stdout()).is_err();
    CLOSED.store(closed, Ordering::Relaxed);
}

// SAFETY: the loader calls every function in `.init_array` once, before `main`,
// with the C convention. `look` has it, cannot unwind, uses nothing that Rust's
// runtime sets up, and makes one system call.
#[expect(unsafe_code, reason = "a function the loader calls before main")]
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;
