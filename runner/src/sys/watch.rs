//! Descriptors that an event loop watches.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor for reading and writing. Needs the context of a tokio
/// runtime.
///
/// # Errors
///
/// The runtime has no event loop, or the kernel refuses.
#[expect(
    unsafe_code,
    reason = "the library asks that the descriptor stays open"
)]
pub(crate) fn watch(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: the descriptor that the `Arc` gives is always the same, and stays open
    // as long as the registration, which owns the `Arc`.
    let watched =
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE.add(Interest::WRITABLE)) };
    Ok(watched?)
}
