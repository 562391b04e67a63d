//! Descriptors that an event loop watches.

use super::Process;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that an event loop watches until this is dropped.
///
/// In a fork of the process that registered it, dropping it does nothing: both share the
/// kernel's side of the event loop, and the other process still uses it.
pub struct Watched {
    registered: ManuallyDrop<AsyncFd<Arc<OwnedFd>>>,
    by: Process,
}

impl Deref for Watched {
    type Target = AsyncFd<Arc<OwnedFd>>;

    fn deref(&self) -> &Self::Target {
        &self.registered
    }
}

impl Drop for Watched {
    #[expect(unsafe_code, reason = "dropping what is not dropped everywhere")]
    fn drop(&mut self) {
        if self.by.is_current() {
            // SAFETY: this is the only code that drops it, and it is not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.registered) }
        }
    }
}

/// Registers a descriptor for what is to be noticed. Needs the context of a tokio runtime.
///
/// A descriptor that is watched for room to write wakes the event loop each time the other side
/// reads: watch one for that only where it may have to wait for room.
///
/// # Errors
///
/// The runtime has no event loop, or the kernel refuses.
#[expect(
    unsafe_code,
    reason = "the library asks that the descriptor stays open"
)]
pub fn watch(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<Watched> {
    // SAFETY: the `Arc` always gives the same descriptor, which stays open as long as the
    // registration, which owns the `Arc`.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(Watched {
        registered: ManuallyDrop::new(watched?),
        by: Process::current(),
    })
}
