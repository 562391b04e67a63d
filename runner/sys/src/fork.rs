//! Forking a process that has one thread.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Which side of a fork this is.
pub enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// The knowledge that this process has one thread, and will start no other.
pub struct Alone(());

impl Alone {
    /// Looks at the threads of this process; none when there are others, or the
    /// kernel does not say.
    pub fn look() -> Option<Alone> {
        let threads = std::fs::read_dir("/proc/self/task").ok()?.count();
        (threads == 1).then_some(Alone(()))
    }

    /// Forks. The parent gets a descriptor for the child, so that no other
    /// process is ever meant by it.
    ///
    /// # Errors
    ///
    /// No memory, no descriptors, or no process left.
    #[expect(unsafe_code, reason = "no safe fork exists")]
    pub fn fork(&self) -> io::Result<Forked> {
        let mut pidfd: libc::c_int = -1;
        let flags = libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: `clone` without CLONE_VM and without a stack is fork: the child
        // has a copy of everything. Its contract is that nothing is shared that
        // another thread holds a lock on or has half changed: there is no other
        // thread. The C library's own fork is not used because it gives no
        // descriptor; what it would do besides (handlers, the cached number of
        // the thread) nothing here uses.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => Ok(Forked::Child),
            pid => Ok(Forked::Parent {
                pid: i32::try_from(pid).map_err(io::Error::other)?,
                // SAFETY: the kernel made this descriptor for us and nobody else
                // knows its number.
                pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
            }),
        }
    }
}

/// Ends this process at once: nothing is flushed, no destructor runs. The end of
/// a forked child, whose memory is a copy of its parent's.
#[expect(unsafe_code, reason = "no safe _exit exists")]
pub fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` has no requirements.
    unsafe { libc::_exit(status) }
}
