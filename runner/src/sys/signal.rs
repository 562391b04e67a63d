//! Signals that are to be errors instead.

use std::io;

/// Has a write beyond the limit of a file's size fail (`EFBIG`) instead of ending
/// the process.
///
/// # Errors
///
/// What the kernel says.
#[expect(unsafe_code, reason = "signal dispositions are set through libc")]
pub(crate) fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: `SIG_IGN` installs no handler, so nothing can run in a place where
    // it must not.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
