//! A temporary folder for the duration of a comparison.
//!
//! Removed when it is dropped. A killed program cannot remove its own: the next comparison
//! removes those of this user that are not locked. Invariant: a folder is locked as long as
//! its owner lives, so that only abandoned ones are removed.

use rustix::fs::{Mode, OFlags, open};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const PREFIX: &str = "wrun-compare-";
/// The file that its owner has locked.
const LOCK: &str = "lock";
/// Maximum of entries that are examined in the folder for temporary files.
const MOST: usize = 100_000;

#[derive(Debug)]
pub(super) struct Scratch {
    folder: tempfile::TempDir,
    _lock: File,
}

impl Scratch {
    /// Makes one, in the folder for temporary files.
    pub(super) fn new() -> io::Result<Self> {
        sweep(&std::env::temp_dir());
        Scratch::within(&std::env::temp_dir())
    }

    fn within(parent: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        // It gets its name only once it is locked.
        let unlocked = folder.path().join("new");
        let lock = File::create_new(&unlocked)?;
        lock.try_lock().map_err(io::Error::from)?;
        fs::rename(unlocked, folder.path().join(LOCK))?;
        Ok(Scratch {
            folder,
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes abandoned folders; one that cannot be removed stays.
fn sweep(parent: &Path) {
    let own = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .take(MOST)
    {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry
                .metadata()
                .is_ok_and(|it| it.is_dir() && it.uid() == own);
        if !is_ours {
            continue;
        }
        // Whatever exists there, no link is followed and nothing blocks.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(lock) = open(entry.path().join(LOCK), flags, Mode::empty()) else {
            continue;
        };
        if File::from(lock).try_lock().is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_nobodys_is_removed() {
        let parent = tempfile::tempdir().expect("a folder");
        let scratch = || Scratch::within(parent.path()).expect("a folder");
        let (one, killed) = (scratch(), scratch());
        // As if its owner had been killed: the lock is released, the folder stays.
        let Scratch { folder, _lock } = killed;
        drop(_lock);
        let left = folder.keep();
        let others = parent.path().join("somebody-elses");
        let unlocked = parent.path().join(format!("{PREFIX}being-made"));
        for folder in [&others, &unlocked] {
            fs::create_dir(folder).expect("a folder");
        }
        sweep(parent.path());
        assert!(!left.exists());
        assert!(one.path().exists() && others.exists() && unlocked.exists());
        let path = one.path().to_owned();
        drop(one);
        assert!(!path.exists());
    }
}
