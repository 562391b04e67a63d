//! Descriptors that this process has and should not.

use std::io;
use std::os::fd::RawFd;

/// Closes every descriptor but stdin, stdout and stderr: what a runner's program
/// holds open without close-on-exec is not its workers' to have.
///
/// Only for the very start of a worker, when nothing else of this process owns a
/// descriptor.
#[expect(unsafe_code, reason = "descriptors are closed by number")]
pub(crate) fn close_inherited() {
    // SAFETY: `close_open_fds` requires that nothing uses the descriptors it
    // closes afterwards. This is the first thing a worker does: it has opened
    // nothing, has one thread, and Rust's runtime keeps no descriptor of its own.
    unsafe { close_fds::close_open_fds(3, &[]) }
}

/// Makes a descriptor mean what stdout means, whatever it meant before.
///
/// # Errors
///
/// Stdout is closed.
#[expect(unsafe_code, reason = "a descriptor is replaced by number")]
pub(crate) fn blank(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: `dup3` has no requirements on memory. Whoever owns the number goes
    // on owning a descriptor that is open.
    match unsafe { libc::dup3(libc::STDOUT_FILENO, descriptor, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
