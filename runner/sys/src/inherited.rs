//! Descriptors that this process inherited and must not keep.

use std::io;
use std::os::fd::{IntoRawFd, RawFd};

/// Closes every descriptor but stdin, stdout and stderr that came with the program: workers
/// must not have what a runner's program holds open without close-on-exec.
///
/// Descriptors that code of this program opened before, such as in a constructor, have
/// close-on-exec. Their owners continue to own the numbers, which must not come to refer to
/// something else: they are redirected to [`null`](super::null()). Otherwise workers would
/// share them.
///
/// Only for the start of a worker, before other code of this crate owns a descriptor.
#[expect(unsafe_code, reason = "descriptors are closed by number")]
pub fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        // SAFETY: `close_open_fds` requires that nothing uses the descriptors it closes
        // afterwards. No code of this program has opened any, and the process has one thread.
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
            // SAFETY: no code of this program opened it, so none owns it.
            Some(false) => unsafe {
                libc::close(descriptor);
            },
            Some(true) => {
                let null = null.get_or_insert_with(|| {
                    super::null().map_or(libc::STDOUT_FILENO, IntoRawFd::into_raw_fd)
                });
                let _ = mean(descriptor, *null);
            }
            // The descriptor of the listing itself, which is closed by now.
            None => {}
        }
    }
    if let Some(null @ 3..) = null {
        // SAFETY: it was opened above, and its owner gave it up.
        unsafe { libc::close(null) };
    }
}

/// Makes a descriptor refer to what stdout refers to.
///
/// # Errors
///
/// Stdout is closed.
pub fn blank(descriptor: RawFd) -> io::Result<()> {
    mean(descriptor, libc::STDOUT_FILENO)
}

/// Makes a descriptor refer to what another one refers to.
#[expect(unsafe_code, reason = "a descriptor is replaced by number")]
fn mean(descriptor: RawFd, other: RawFd) -> io::Result<()> {
    // SAFETY: `dup3` has no requirements on memory. The owner of the number continues to
    // own an open descriptor.
    match unsafe { libc::dup3(other, descriptor, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
