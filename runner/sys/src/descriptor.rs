//! Descriptors by number, to examine and never to own.

use std::os::fd::RawFd;

/// Whether this descriptor will be closed when a program is executed; `None` if it is not
/// open.
#[expect(unsafe_code, reason = "a descriptor is looked at by number")]
pub fn closes_on_exec(descriptor: RawFd) -> Option<bool> {
    // SAFETY: `F_GETFD` takes any number and changes nothing.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
    (flags >= 0).then_some(flags & libc::FD_CLOEXEC != 0)
}
