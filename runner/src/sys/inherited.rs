//! Descriptors that this process was started with.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// Takes ownership of an inherited descriptor, once each; marks it
/// close-on-exec.
///
/// Only a worker calls this, before it opens anything: the numbers it names are
/// then either what its parent put there, or not open at all.
///
/// # Errors
///
/// The descriptor is not open, or was taken already.
#[expect(unsafe_code, reason = "a number becomes an owned descriptor")]
pub(crate) fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().map_err(|_| io::ErrorKind::Other)?;
    if taken.contains(&number) || number < 0 {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // SAFETY: `BorrowedFd::borrow_raw` requires a descriptor that is open for
    // the borrow's life and is not -1. Whether it is open is what the call on
    // it finds out; a closed number yields EBADF and nothing else.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
    taken.push(number);
    // SAFETY: `OwnedFd::from_raw_fd` requires that nothing else owns the
    // descriptor. It is open, was inherited, and `TAKEN` hands it out once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
