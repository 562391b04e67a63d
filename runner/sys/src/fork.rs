//! Forking a process that has one thread.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// The side of a fork that returned.
pub enum Forked {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// Proof that this process has one thread. It must not start another.
pub struct Alone(());

impl Alone {
    /// Examines the threads of this process; `None` if there are others, or the kernel does
    /// not say.
    pub fn look() -> Option<Alone> {
        crate::namespace::has_one_thread()?.then_some(Alone(()))
    }

    /// Forks. The parent gets a descriptor for the child, which can never refer to another
    /// process.
    ///
    /// # Errors
    ///
    /// No memory, descriptors or processes are left.
    #[expect(unsafe_code, reason = "no safe fork exists")]
    pub fn fork(&self) -> io::Result<Forked> {
        let mut pidfd: libc::c_int = -1;
        let flags = libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: `clone` without CLONE_VM and without a stack is fork: the child has a copy of
        // everything. Its contract is that no other thread holds a lock on shared state or has
        // half changed it: there is no other thread. The C library's own fork is not used
        // because it gives no descriptor; nothing here needs what it does in addition
        // (handlers, the cached number of the thread).
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                crate::wait::forget_thread_cpu();
                Ok(Forked::Child)
            }
            pid => Ok(Forked::Parent {
                pid: i32::try_from(pid).map_err(io::Error::other)?,
                // SAFETY: the kernel made this descriptor for this call, and no other code
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
