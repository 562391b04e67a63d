//! Whether a file description is the only one of its file that can write.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Which signal tells of what happens to a descriptor (fcntl(2)); the same on all systems
/// that this runs on.
const F_SETSIG: libc::c_int = 10;

/// Whether no other description of the file is open for writing, in any process: not by
/// a descriptor, a mapping, or a message that lies in a socket. Descriptions that were
/// opened by path are counted, and the one that `memfd_create` makes is not.
///
/// # Errors
///
/// The system has no leases for this file, or not for this user.
#[expect(unsafe_code, reason = "leases of files")]
pub fn is_sole(file: BorrowedFd<'_>) -> io::Result<bool> {
    let set = |command, value: libc::c_int| {
        // SAFETY: these commands take a number, and change what the kernel keeps of the
        // descriptor, which is open.
        match unsafe { libc::fcntl(file.as_raw_fd(), command, value) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // The one that opens the file would break the lease, and the kernel tell this process by
    // `SIGIO`, which ends it. This one nobody heeds; giving the lease back resets it.
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
