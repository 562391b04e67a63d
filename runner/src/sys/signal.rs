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

/// Leaves a signal to the system: for SIGINT and its like, it ends this process. Its
/// handler stays registered with whoever had it, and is not called any more.
#[expect(unsafe_code, reason = "signal dispositions are set through libc")]
pub(crate) fn default_action(signal: i32) -> io::Result<()> {
    // SAFETY: SIG_DFL is an action for any signal, and runs no code of this program.
    match unsafe { libc::signal(signal, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
