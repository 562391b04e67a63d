//! Directories of root's for a worker that is not root: mounts, which only the worker has,
//! on which what is root's on disk is the worker's own user's.
//!
//! Invariant: a directory that was mapped shows what it shows to its runner, with every
//! mount below it, or is refused.

use super::users::USERS;
use crate::sys;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::getegid;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The last number that a user can have; the one beyond it means nobody.
const LAST: u32 = u32::MAX - 1;

/// The owners of files, from those on disk to those that one worker sees. Root, and the
/// runner's group, are the worker's user and group; all others are who they are.
pub(super) struct Owners(OwnedFd);

impl Owners {
    /// For a worker of this user, and of the group of that number.
    pub(super) fn seen_by(user: u32) -> io::Result<Self> {
        let group = getegid().as_raw();
        sys::user_namespace(&map(0, user), &map(group, user)).map(Owners)
    }

    /// The directory with its owners mapped; the mount is gone with its descriptor.
    pub(super) fn map(&self, directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_NO_AUTOMOUNT;
        // A copy of mounts lacks those that are not to be copied.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        if has_unbindable(&mounts) {
            return Err(io::Error::other("the system has unbindable mounts"));
        }
        let mount = open_tree(directory, "", flags)?;
        sys::map_owners(mount.as_fd(), self.0.as_fd())?;
        Ok(mount)
    }
}

/// Tells of directories whether they can be mapped, before there is a worker for them.
#[derive(Default)]
pub(super) struct Trial(Mutex<Option<Arc<Owners>>>);

impl Trial {
    /// The first of these directories that cannot be mapped, and why. One that cannot even
    /// be opened is for others to complain about.
    pub(super) fn obstacle<'a>(
        &self,
        directories: impl IntoIterator<Item = &'a Path>,
    ) -> Option<(&'a Path, io::Error)> {
        for path in directories {
            let mapped = || -> io::Result<()> {
                let Ok(directory) = open(path) else {
                    return Ok(());
                };
                self.owners()?.map(directory.as_fd()).map(drop)
            };
            if let Err(error) = mapped() {
                return Some((path, error));
            }
        }
        None
    }

    fn owners(&self) -> io::Result<Arc<Owners>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owners) = &*made {
            return Ok(owners.clone());
        }
        let owners = Arc::new(Owners::seen_by(*USERS.start())?);
        *made = Some(owners.clone());
        Ok(owners)
    }
}

/// Why a directory could not be mapped, in words.
pub(super) fn why(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::INVAL) => {
            "its file system, or one that is mounted below it, has no id-mapped mounts".into()
        }
        Some(Errno::PERM) => "the kernel does not permit id-mapped mounts here".into(),
        Some(Errno::NOSYS) => "the kernel has no id-mapped mounts (Linux 5.12)".into(),
        _ => error.to_string(),
    }
}

/// Opens a directory that is granted, for whoever is to open it anew.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A map in the kernel's words: `from` becomes `to`, which nobody on disk is, and all
/// others stay.
fn map(from: u32, to: u32) -> String {
    let mut text = format!("{from} {to} 1\n");
    let (low, high) = (from.min(to), from.max(to));
    let mut first = 0;
    for (end, next) in [(low, low + 1), (high, high + 1), (LAST + 1, 0)] {
        if first < end {
            let _ = writeln!(text, "{first} {first} {}", end - first);
        }
        first = next;
    }
    text
}

/// Whether a list of mounts, as `/proc` has it, has one that is not copied with those
/// around it.
fn has_unbindable(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        // Six fields, others as far as there are any, a dash, and three more.
        let others = line.split(' ').skip(6).take_while(|field| *field != "-");
        others.into_iter().any(|field| field == "unbindable")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_is_another_and_the_rest_remains() {
        assert_eq!(map(0, 5), "0 5 1\n1 1 4\n6 6 4294967289\n");
        assert_eq!(map(3, 1), "3 1 1\n0 0 1\n2 2 1\n4 4 4294967291\n");
        assert_eq!(map(0, 1), "0 1 1\n2 2 4294967293\n");
        assert_eq!(map(0, LAST), "0 4294967294 1\n1 1 4294967293\n");
    }

    #[test]
    fn mounts_that_are_not_copied_are_noticed() {
        let plain = "36 35 98:0 / /unbindable rw,noatime shared:1 - ext3 unbindable rw\n";
        assert!(!has_unbindable(plain));
        let other = "37 35 98:0 / /mnt rw unbindable - ext3 /dev/root rw\n";
        assert!(has_unbindable(&format!("{plain}{other}")));
        assert!(!has_unbindable(""));
    }
}
