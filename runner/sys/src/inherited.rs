//! Descriptors that this process has and should not.

use std::io;
use std::os::fd::{IntoRawFd, RawFd};

/// Closes every descriptor but stdin, stdout and stderr that came with the program: what
/// a runner's program holds open without close-on-exec is not its workers' to have.
///
/// What code of this program opened before, a constructor say, has close-on-exec. Its
/// owner goes on owning the number, which must not come to mean something else: it is
/// made to mean [`null`](super::null()). Workers would share it otherwise.
///
/// Only for the start of a worker, before anything of ours owns a descriptor.
#[expect(unsafe_code, reason = "descriptors are closed by number")]
pub fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        // SAFETY: `close_open_fds` requires that nothing uses the descriptors it closes
        // afterwards. Nothing of ours has opened any, and the process has one thread.
        return unsafe { close_fds::close_open_fds(3, &[]) };
    };
    let open: Vec<RawFd> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > libc::STDERR_FILENO)
        .collect();
    let mut null = None;
    for descriptor in open {
        match super::closes_on_exec(descriptor) {
            // SAFETY: nobody in this program opened it, so nobody owns it.
            Some(false) => unsafe {
                libc::close(descriptor);
            },
            Some(true) => {
                let null = null.get_or_insert_with(|| {
                    super::null().map_or(libc::STDOUT_FILENO, IntoRawFd::into_raw_fd)
                });
                let _ = mean(descriptor, *null);
            }
            // The list's own, which is closed.
            None => {}
        }
    }
    if let Some(null @ 3..) = null {
        // SAFETY: it was opened above, and its owner gave it up.
        unsafe { libc::close(null) };
    }
}

/// Makes a descriptor mean what stdout means, whatever it meant before.
///
/// # Errors
///
/// Stdout is closed.
pub fn blank(descriptor: RawFd) -> io::Result<()> {
    mean(descriptor, libc::STDOUT_FILENO)
}

/// Makes a descriptor mean what another one means.
#[expect(unsafe_code, reason = "a descriptor is replaced by number")]
fn mean(descriptor: RawFd, other: RawFd) -> io::Result<()> {
    // SAFETY: `dup3` has no requirements on memory. The one that owns the number goes
    // on owning a descriptor that is open.
    match unsafe { libc::dup3(other, descriptor, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
