//! Root's directories for a worker that is not root: mounts that only the worker has, on
//! which root's files on disk belong to the worker's own user.
//!
//! Invariant: a directory that was mapped shows the worker what it shows to its runner,
//! with every mount below it, or is refused.

use super::users::USERS;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::getegid;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use wrun_sys::Unpoisoned;

/// The last number that a user can have; the one after it is invalid.
const LAST: u32 = u32::MAX - 1;

/// Maximum of directories for which it is remembered whether they can be mapped.
const MAX_KNOWN: usize = 1024;

/// The owners of files, from those on disk to those that one worker sees. Root, and the
/// runner's group, become the worker's user and group; all others are unchanged.
pub(super) struct Owners(OwnedFd);

impl Owners {
    /// For a worker of this user, and of the group with that number.
    pub(super) fn seen_by(user: u32) -> io::Result<Self> {
        let group = getegid().as_raw();
        wrun_sys::user_namespace(&map(0, user), &map(group, user)).map(Owners)
    }

    /// The directory with its owners mapped; the mount is removed with its descriptor. The
    /// kernel then waits for all processors, which takes a moment.
    pub(super) fn map(&self, directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_NO_AUTOMOUNT;
        let mount = open_tree(directory, "", flags)?;
        wrun_sys::map_owners(mount.as_fd(), self.0.as_fd())?;
        Ok(mount)
    }
}

/// Determines whether directories can be mapped, before there is a worker for them.
#[derive(Default)]
pub(super) struct Trial(Mutex<Tried>);

/// The results, which are valid until a mount is added or removed.
#[derive(Default)]
struct Tried {
    owners: Option<Owners>,
    /// The list of mounts, and whether one of them is not copied with those around it.
    mounts: Option<(File, bool)>,
    /// Whether each can be mapped.
    known: HashMap<MountedDir, bool>,
}

/// A directory on a mount.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct MountedDir {
    device: (u32, u32),
    inode: u64,
    mount: u64,
}

impl Trial {
    /// Whether all these directories are known to be mappable.
    pub(super) fn knows<'a>(&self, directories: impl IntoIterator<Item = &'a Path>) -> bool {
        let mut tried = self.tried();
        if tried.look_again().is_err() {
            return false;
        }
        directories.into_iter().all(|path| {
            let dir = open(path)
                .ok()
                .and_then(|directory| MountedDir::of(&directory));
            dir.is_some_and(|dir| tried.known.get(&dir) == Some(&true))
        })
    }

    /// The first of these directories that cannot be mapped, and why. One that cannot even
    /// be opened is reported elsewhere.
    pub(super) fn obstacle<'a>(
        &self,
        directories: impl IntoIterator<Item = &'a Path>,
    ) -> Option<(&'a Path, io::Error)> {
        for path in directories {
            let Ok(directory) = open(path) else {
                continue;
            };
            // The mapping is removed after the lock is released.
            let mapped = self.tried().mapped(&directory);
            if let Err(error) = mapped {
                return Some((path, error));
            }
        }
        None
    }

    fn tried(&self) -> MutexGuard<'_, Tried> {
        self.0.lock().unpoisoned()
    }
}

impl Tried {
    /// Forgets the results if mounts were added or removed since.
    fn look_again(&mut self) -> io::Result<()> {
        let mut file = match self.mounts.take() {
            Some((file, unbindable)) => {
                let mut watched = [PollFd::new(&file, PollFlags::PRI)];
                poll(&mut watched, Some(&Timespec::default()))?;
                if !watched[0]
                    .revents()
                    .intersects(PollFlags::PRI | PollFlags::ERR)
                {
                    self.mounts = Some((file, unbindable));
                    return Ok(());
                }
                file
            }
            None => File::open("/proc/self/mountinfo")?,
        };
        self.known.clear();
        let mut mounts = String::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_string(&mut mounts)?;
        self.mounts = Some((file, has_unbindable(&mounts)));
        Ok(())
    }

    /// A mount with the directory mapped, or `None` if that is known to be possible; or why
    /// it is not.
    fn mapped(&mut self, directory: &OwnedFd) -> io::Result<Option<OwnedFd>> {
        self.look_again()?;
        // A copy of mounts lacks those that are not to be copied.
        if self
            .mounts
            .as_ref()
            .is_some_and(|(_, unbindable)| *unbindable)
        {
            return Err(io::Error::other("the system has unbindable mounts"));
        }
        let dir = MountedDir::of(directory);
        match dir.and_then(|dir| self.known.get(&dir)) {
            Some(true) => return Ok(None),
            Some(false) => return Err(Errno::INVAL.into()),
            None => {}
        }
        let owners = match self.owners.take() {
            Some(owners) => owners,
            None => Owners::seen_by(*USERS.start())?,
        };
        let mapped = self.owners.insert(owners).map(directory.as_fd());
        let is_lasting = match &mapped {
            Ok(_) => true,
            // Other errors may be different a moment later.
            Err(error) => error.raw_os_error() == Some(Errno::INVAL.raw_os_error()),
        };
        if let Some(dir) = dir.filter(|_| is_lasting) {
            if self.known.len() >= MAX_KNOWN {
                self.known.clear();
            }
            self.known.insert(dir, mapped.is_ok());
        }
        mapped.map(Some)
    }
}

impl MountedDir {
    fn of(directory: &OwnedFd) -> Option<Self> {
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let about = statx(directory, "", AtFlags::EMPTY_PATH, wanted).ok()?;
        (about.stx_mask & wanted.bits() == wanted.bits()).then_some(MountedDir {
            device: (about.stx_dev_major, about.stx_dev_minor),
            inode: about.stx_ino,
            mount: about.stx_mnt_id,
        })
    }
}

/// Why a directory could not be mapped, as text.
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

/// Opens a granted directory, to be opened again by its user.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A map in the kernel's syntax: `from` becomes `to`, which no file on disk has, and all
/// others are unchanged.
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

/// Whether a list of mounts, in the format of `/proc`, has one that is not copied with
/// those around it.
fn has_unbindable(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        // Six fields, any number of optional ones, a dash, and three more.
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

    #[test]
    fn what_was_tried_is_known_until_mounts_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let trial = Trial::default();
        let path = || [directory.path()];
        assert!(!trial.knows(path()));
        match trial.obstacle(path()) {
            None => assert!(trial.knows(path())),
            // An ordinary user, or no such mounts here.
            Some((obstacle, error)) => {
                assert_eq!(obstacle, directory.path());
                assert!(!trial.knows(path()), "{}", why(&error));
            }
        }
        trial.tried().mounts = None;
        assert!(!trial.knows(path()));
        // It cannot be mapped; a missing directory is reported elsewhere.
        assert!(trial.obstacle([Path::new("/proc")]).is_some());
        assert!(trial.obstacle([Path::new("/proc/none")]).is_none());
    }
}
