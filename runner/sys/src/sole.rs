//! Whether a file description is the only one of its file that can write.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets the signal that reports events on a descriptor (fcntl(2)); the same number on all
/// supported systems.
const F_SETSIG: libc::c_int = 10;

/// Whether no other description of the file is open for writing, in any process: not by a
/// descriptor, a mapping, or a message in a socket. Descriptions that were opened by path
/// are counted, the one that `memfd_create` makes is not.
///
/// # Errors
///
/// The system does not support leases for this file, or not for this user.
#[expect(unsafe_code, reason = "leases of files")]
pub fn is_sole(file: BorrowedFd<'_>) -> io::Result<bool> {
    let set = |command, value: libc::c_int| {
        // SAFETY: these commands take a number, and change the kernel's state of the
        // descriptor, which is open.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, value) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // A process that opens the file breaks the lease, and the kernel then sends `SIGIO` to
    // this process, which would end it. SIGURG is ignored by default; releasing the lease
    // resets it.
    set(F_SETSIG, libc::SIGURG)?;
    match set(libc::F_SETLEASE, libc::F_WRLCK) {
        Ok(()) => {
            set(libc::F_SETLEASE, libc::F_UNLCK)?;
            Ok(true)
        }
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
        Err(error) => Err(error),
    }
}
