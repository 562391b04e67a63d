//! Leaving the namespaces in which a process was started; forks that other namespaces have.

use rustix::process::Pid;
use rustix::thread::UnshareFlags;
use std::io;

/// Moves this process into new namespaces.
///
/// # Errors
///
/// The kernel's error; also `EINVAL` for a shared descriptor table, which is not a
/// namespace.
#[expect(unsafe_code, reason = "unshare can take descriptors from threads")]
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    if flags.contains(UnshareFlags::FILES) {
        return Err(rustix::io::Errno::INVAL.into());
    }
    // SAFETY: `unshare_unsafe` requires that no thread sees another's descriptors
    // disappear, which only `FILES` can cause; it was refused.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

/// The side of [`fork_sibling`] that returned.
pub enum Side {
    /// The calling process; the number is that of the new one.
    Caller(Pid),
    /// The new process.
    Sibling,
}

/// Forks a copy of this process as a child of this process's own parent, with the same
/// signal to the parent when it ends.
///
/// # Errors
///
/// The kernel's error; `EINVAL` in a process with more than one thread.
pub fn fork_sibling() -> io::Result<Side> {
    fork_with(libc::CLONE_PARENT)
}

/// Forks a copy of this process that is the first one of a new process namespace, in a new user
/// namespace if `user`. It leads a process group, and all of its signals are blocked: what is sent
/// to the group of its parent, such as Ctrl-Z, has not reached it yet.
///
/// # Errors
///
/// The kernel's error; `EINVAL` in a process with more than one thread.
pub fn fork_inside(user: bool) -> io::Result<Side> {
    let mut flags = libc::CLONE_NEWPID;
    if user {
        flags |= libc::CLONE_NEWUSER;
    }
    let before = super::signal::block_all()?;
    let side = fork_with(flags);
    match side {
        // Each of the two does it, so that it is done for both.
        Ok(Side::Sibling) => rustix::process::setpgid(None, None)?,
        Ok(Side::Caller(pid)) => {
            let _ = rustix::process::setpgid(Some(pid), Some(pid));
            super::signal::restore(&before);
        }
        Err(_) => super::signal::restore(&before),
    }
    side
}

#[expect(unsafe_code, reason = "a fork that libc has no function for")]
fn fork_with(flags: libc::c_int) -> io::Result<Side> {
    if !is_single_threaded() {
        return Err(rustix::io::Errno::INVAL.into());
    }
    // Libc's fork updates its record of the thread's number: the kernel writes it where
    // libc told the kernel that it is. musl keeps a lock there.
    let tid = rustix::thread::get_clear_child_tid_address()
        .ok()
        .flatten()
        .filter(|_| cfg!(target_env = "gnu"))
        .map_or(std::ptr::null_mut(), |tid| tid.as_ptr());
    let mut flags = flags | libc::SIGCHLD;
    if !tid.is_null() {
        flags |= libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    }
    let zero: libc::c_ulong = 0;
    // SAFETY: without `CLONE_VM` and without a stack this is a fork: the child is a
    // copy that returns from the call. The process has one thread, so no lock is
    // held by a thread that the child lacks. The kernel writes the child's number
    // into the child's copy of the thread's own control block, an int that libc
    // registered for that. The order of the last two arguments is that of each
    // architecture.
    let pid = unsafe {
        if cfg!(target_arch = "x86_64") {
            libc::syscall(
                libc::SYS_clone,
                flags as libc::c_ulong,
                zero,
                zero,
                tid,
                zero,
            )
        } else {
            libc::syscall(
                libc::SYS_clone,
                flags as libc::c_ulong,
                zero,
                zero,
                zero,
                tid,
            )
        }
    };
    match pid {
        0 => {
            crate::wait::forget_thread_cpu();
            Ok(Side::Sibling)
        }
        pid => i32::try_from(pid)
            .ok()
            .filter(|pid| *pid > 0)
            .and_then(Pid::from_raw)
            .map(Side::Caller)
            .ok_or_else(io::Error::last_os_error),
    }
}

/// Whether this process has one thread; true if that cannot be determined.
fn is_single_threaded() -> bool {
    has_one_thread().unwrap_or(true)
}

/// Whether this process has one thread; `None` if the kernel does not say.
#[expect(unsafe_code, reason = "a flag that rustix does not have")]
pub(crate) fn has_one_thread() -> Option<bool> {
    // SAFETY: the call takes no pointers, and with this flag it changes nothing: the kernel only
    // refuses it to a process with several threads.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        return Some(true);
    }
    let refused = io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL);
    // A filter, or a kernel that does not know the flag, may refuse it as well.
    match std::fs::read_dir("/proc/self/task") {
        Ok(threads) => Some(threads.count() == 1),
        Err(_) => refused.then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt;

    #[test]
    fn threads_are_seen() {
        // The tests have several; a fork has one.
        assert_eq!(has_one_thread(), Some(false));
        assert!(fork_sibling().is_err());
        match attempt::fork().expect("a fork") {
            None => crate::exit_now(i32::from(has_one_thread() != Some(true))),
            Some(child) => {
                let ended =
                    rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
                let (_, status) = ended.expect("waited for").expect("ended");
                assert_eq!(status.exit_status(), Some(0));
            }
        }
    }
}
