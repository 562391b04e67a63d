//! Descriptors that this process was started with and did not ask for.

/// Closes every descriptor but stdin, stdout and stderr: what a runner's program
/// holds open without close-on-exec is not its workers' to have.
///
/// Only for the very start of a worker, when nothing else of this process owns a
/// descriptor.
#[expect(unsafe_code, reason = "descriptors are closed by number")]
pub(crate) fn close_inherited() {
    // SAFETY: `close_open_fds` requires that nothing uses the descriptors it
    // closes afterwards. This is the first thing a worker does: it has opened
    // nothing, has one thread, and Rust's runtime keeps no descriptor of its own.
    unsafe { close_fds::close_open_fds(3, &[]) }
}
