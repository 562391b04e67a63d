//! Mounts on which files have other owners than on disk: the map, and its application to a
//! mount that no other process has.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

/// Bytes of stack for a process that ends at once.
const STACK: usize = 16 << 10;

/// An aligned part of that stack.
type Part = MaybeUninit<u128>;

/// A user namespace with these maps of users and groups, without a process in it.
///
/// # Errors
///
/// The kernel's error: namespaces are forbidden or used up, or this process may not write
/// such maps.
pub fn user_namespace(users: &str, groups: &str) -> io::Result<OwnedFd> {
    let dead = Dead::in_user_namespace()?;
    let of = format!("/proc/{}", dead.0);
    fs::write(format!("{of}/uid_map"), users)?;
    fs::write(format!("{of}/gid_map"), groups)?;
    Ok(fs::File::open(format!("{of}/ns/user"))?.into())
}

/// A process that has ended and was not reaped: `/proc` has its namespace until this is
/// dropped.
struct Dead(libc::pid_t);

impl Dead {
    /// Starts a process in a new user namespace, which ends at once.
    ///
    /// It sends no signal when it ends, so that its number is kept until it is waited for
    /// by number, even if `SIGCHLD` is ignored or another thread of this program waits for
    /// any child.
    #[expect(unsafe_code, reason = "a process without a program")]
    fn in_user_namespace() -> io::Result<Self> {
        extern "C" fn end(_: *mut libc::c_void) -> libc::c_int {
            0
        }
        let mut stack: Vec<Part> = vec![Part::uninit(); STACK / size_of::<Part>()];
        let top = stack.as_mut_ptr_range().end;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_NEWUSER;
        // SAFETY: all zeroes is a set of signals on Linux.
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: both sets outlive the calls. No handler of this program runs in the
        // process, which has this thread's mask.
        unsafe {
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        }
        // SAFETY: the process shares this one's memory, and this thread waits until it is gone
        // (`CLONE_VFORK`): the stack, whose end is `top`, aligned to 16 bytes as both
        // architectures require, is used by it alone for that time. The function that it runs
        // touches nothing and returns, after which libc's wrapper ends it by a system call.
        let pid = unsafe { libc::clone(end, top.cast(), flags, ptr::null_mut()) };
        let error = io::Error::last_os_error();
        // SAFETY: the mask is the one that the kernel gave.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut()) };
        drop(stack);
        match pid {
            ..0 => Err(error),
            pid => Ok(Dead(pid)),
        }
    }
}

impl Drop for Dead {
    #[expect(
        unsafe_code,
        reason = "a child that ends without a signal is asked for by a flag"
    )]
    fn drop(&mut self) {
        // SAFETY: no status is requested. The child is dead, so the call does not wait.
        unsafe { libc::waitpid(self.0, ptr::null_mut(), libc::__WALL) };
    }
}

/// Applies the maps of a user namespace to a mount and all mounts below it: a number on the
/// left side of a map, as on disk, becomes the number on its right side.
///
/// # Errors
///
/// `EINVAL` if the mount is already in a tree of mounts, or a file system does not support
/// such maps; `EPERM` if a mount has maps already, or the rights are not sufficient.
#[expect(unsafe_code, reason = "a system call without a wrapper")]
pub fn map_owners(mount: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd().unsigned_abs().into(),
    };
    // SAFETY: the path is empty and ends with a zero, the kernel reads as many bytes of the
    // attributes as the call states, and both descriptors are open.
    let set = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    #[expect(unsafe_code, reason = "asking whether there is such a child")]
    fn a_namespace_leaves_no_process_behind() {
        let dead = match Dead::in_user_namespace() {
            Ok(dead) => dead,
            Err(error) => return println!("SKIPPED: user namespaces are forbidden: {error}"),
        };
        let pid = dead.0;
        assert!(fs::read_link(format!("/proc/{pid}/ns/user")).is_ok());
        drop(dead);
        // SAFETY: no status is requested.
        let left = unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
        assert_eq!(left, -1);
        assert!(user_namespace("nonsense", "0 0 1").is_err());
    }

    #[test]
    fn what_lies_in_a_tree_is_not_mapped() {
        let root = fs::File::open("/").expect("the root");
        let none = fs::File::open("/dev/null").expect("no namespace");
        assert!(map_owners(root.as_fd(), none.as_fd()).is_err());
    }
}
