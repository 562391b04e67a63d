//! A process by descriptor: no other process is ever meant, also after its number
//! is used again.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A child process that its owner has not reaped yet.
pub(crate) struct Pidfd(AsyncFd<OwnedFd>);

impl Pidfd {
    /// Opens a child by its number. Needs the context of a tokio runtime.
    ///
    /// # Errors
    ///
    /// No such process, or no descriptors left.
    #[expect(unsafe_code, reason = "registering a descriptor with the runtime")]
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid.cast_signed())
            .ok_or_else(|| io::Error::other("a process without a number"))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        // SAFETY: `register_with_interest` requires that the value keeps
        // returning the same open descriptor until the `AsyncFd` is dropped. An
        // `OwnedFd` does, and nothing takes it out.
        let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        registered
            .map(Pidfd)
            .map_err(|error| io::Error::other(error.to_string()))
    }

    /// Kills the process; one that is dead already stays dead.
    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(self.0.get_ref(), Signal::KILL);
    }

    /// Waits until the process is dead. Its owner still has to reap it.
    pub(crate) async fn exited(&self) {
        let _ = self.0.readable().await;
    }
}

/// The number of the process that a descriptor means, as this process sees it;
/// none when it is gone, or out of sight.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> Option<u32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let info = std::fs::read_to_string(path).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    // 0 and -1 stand for processes that cannot be named here.
    pid.trim().parse().ok().filter(|pid| *pid > 0)
}
