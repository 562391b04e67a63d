//! Compiled code on disk, across runs and shared by processes.
//!
//! One file per key. A file appears complete, by rename, and never changes; readers verify
//! its digest. A damaged, foreign or unreadable entry counts as absent and is replaced. No
//! error here fails a run: without a usable cache, code is compiled again. A process that
//! compiles a missing entry holds a lock on it, so that others, in this process or another,
//! wait for the result; the kernel releases the lock of a process that died. Invariant:
//! nothing is read from a directory or file that another user could have written.

use super::code::Code;
use super::engine::Checks;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use wrun_types::config::Cache as CacheConfig;

/// Old entries are removed until the rest fits.
const MAX_BYTES: u64 = 2 << 30;
/// A temporary file of this age belongs to a process that died.
const STALE: Duration = Duration::from_secs(3600);
const SUFFIX: &str = "wrun";
const LOCK: &str = "lock";
/// How often a waiting caller looks again: at first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// A usable cache directory.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Opens or creates the configured directory; `None` if no cache is configured.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, as text: it cannot be created, or is not this user's alone.
    pub(crate) fn open(config: &CacheConfig) -> Result<Option<Self>, String> {
        let directory = match config {
            CacheConfig::Off => return Ok(None),
            CacheConfig::Directory(directory) => directory.clone(),
            // `User`; other variants are not known yet.
            _ => user_directory().map_err(|why| format!("there is no cache directory: {why}"))?,
        };
        // The format is in the name: entries of another version are not even seen.
        let directory = directory.join(concat!("v4-", env!("CARGO_PKG_VERSION")));
        let unusable = |error| format!("cannot make {}: {error}", directory.display());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(unusable)?;
        let metadata = fs::symlink_metadata(&directory).map_err(unusable)?;
        let wrong = match () {
            () if !metadata.is_dir() => "is not a directory",
            () if metadata.uid() != rustix::process::geteuid().as_raw() => {
                "belongs to another user"
            }
            () if !is_ours(&metadata) => "is writable by other users",
            () => return Ok(Some(Cache { directory })),
        };
        Err(format!("{} {wrong}", directory.display()))
    }

    /// The key of a task file's code.
    pub(crate) fn key(source: &blake3::Hash, checks: Checks) -> String {
        let fuel = if checks.metered { "-fuel" } else { "" };
        let epochs = if checks.epochs { "-epochs" } else { "" };
        format!("{}{fuel}{epochs}", source.to_hex())
    }

    /// Waits until no other caller makes the entry, or until it exists, but not longer than
    /// `patience` and only while `wanted`. `None` if locking is not possible: the directory
    /// cannot be written to, or its file system has no locks.
    pub(crate) fn turn(
        &self,
        key: &str,
        patience: Duration,
        wanted: impl Fn() -> bool,
    ) -> Option<Turn> {
        let path = self.directory.join(key).with_extension(LOCK);
        let began = Instant::now();
        let mut pause = LOOK.0;
        let mut file = open_lock(&path)?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // The previous holder removed it; another caller may have created it again.
                Ok(()) if file.metadata().ok()?.nlink() == 0 => file = open_lock(&path)?,
                Ok(()) => return Some(Turn { path, file }),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    if self.path(key).exists() || !wanted() {
                        return None;
                    }
                    let left = patience.checked_sub(began.elapsed())?;
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(LOOK.1);
                }
                Err(_) => return None,
            }
        }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory.join(key).with_extension(SUFFIX)
    }

    /// The entry, if it exists, is complete and belongs to this user.
    pub(crate) fn get(&self, key: &str) -> Option<Code> {
        let path = self.path(key);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut file = File::from(rustix::fs::open(&path, flags, Mode::empty()).ok()?);
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || !is_ours(&metadata) {
            return None;
        }
        let code = Code::from_file(&mut file).ok()?;
        // Eviction goes by last use; once an hour is precise enough.
        let used = metadata.modified().ok();
        if used.and_then(|used| used.elapsed().ok()) > Some(STALE) {
            let _ = file.set_modified(SystemTime::now());
        }
        Some(code)
    }

    /// Stores an entry.
    ///
    /// # Errors
    ///
    /// Why it cannot be stored, as text.
    pub(crate) fn put(&self, key: &str, code: &Code) -> Result<(), String> {
        self.write(key, code).map_err(|error| {
            let directory = self.directory.display();
            format!("cannot write to {directory}: {error}")
        })?;
        self.evict();
        Ok(())
    }

    fn write(&self, key: &str, code: &Code) -> io::Result<()> {
        // Without a name until it is complete, so nothing is left if this process dies. If the
        // file system does not support that, a temporary name is used.
        let mut file = tempfile::Builder::new()
            .prefix(".tmp-")
            .tempfile_in(&self.directory)?;
        code.copy_to(file.as_file_mut())?;
        file.persist(self.path(key)).map_err(|error| error.error)?;
        Ok(())
    }

    /// Removes an entry that turned out to be unusable.
    pub(crate) fn remove(&self, key: &str) {
        let _ = fs::remove_file(self.path(key));
    }

    /// Removes files that dead processes left, and the least recently used entries over
    /// [`MAX_BYTES`].
    fn evict(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        let mut total = 0;
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in entries.flatten() {
            let (Ok(metadata), path) = (entry.metadata(), entry.path()) else {
                continue;
            };
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let temporary = entry.file_name().to_string_lossy().starts_with(".tmp-")
                || path.extension().is_some_and(|extension| extension == LOCK);
            if temporary {
                if modified.elapsed().is_ok_and(|age| age > STALE) {
                    let _ = fs::remove_file(&path);
                }
            } else {
                total += metadata.len();
                files.push((modified, metadata.len(), path));
            }
        }
        files.sort();
        for (_, len, path) in files {
            if total <= MAX_BYTES {
                break;
            }
            if fs::remove_file(&path).is_ok() {
                total -= len;
            }
        }
    }
}

/// The right to make an entry; released when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    path: PathBuf,
    file: File,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // While it is locked: the next holder sees that it has no name.
        let _ = fs::remove_file(&self.path);
        // Also for processes that were forked meanwhile and share the open file.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

fn open_lock(path: &Path) -> Option<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).ok()?;
    Some(File::from(file))
}

fn is_ours(metadata: &fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0
}

fn user_directory() -> Result<PathBuf, String> {
    use etcetera::BaseStrategy;
    match std::env::var_os("WRUN_CACHE_DIR") {
        Some(directory) if !directory.is_empty() => Ok(directory.into()),
        _ => {
            let strategy = etcetera::choose_base_strategy();
            let home = std::env::var_os("HOME");
            let directory = match (strategy, &home) {
                (Ok(strategy), _) => strategy.cache_dir(),
                (Err(_), Some(_)) => return Err("HOME is empty".into()),
                (Err(_), None) => return Err("HOME is not set".into()),
            };
            // HOME may be anything, but a cache must not depend on the working directory.
            match home {
                _ if directory.is_absolute() => Ok(directory.join("wrun")),
                Some(home) if !home.is_empty() => Err(format!(
                    "expected an absolute path in HOME, and it is {:?}",
                    home.to_string_lossy()
                )),
                _ => Err("the home directory of the user is not an absolute path".into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Meta;
    use crate::source::Shape;
    use std::os::unix::fs::PermissionsExt;

    const CHECKS: Checks = Checks {
        metered: false,
        epochs: false,
    };

    fn meta(source: &blake3::Hash) -> Meta {
        Meta::new(Shape::Component, CHECKS, source, 1)
    }

    fn code(source: &blake3::Hash) -> Code {
        Code::new(b"code", &meta(source)).expect("a memory file")
    }

    fn opened(directory: &Path) -> Cache {
        let cache = Cache::open(&CacheConfig::Directory(directory.into()));
        cache.expect("opens").expect("is wanted")
    }

    #[test]
    fn entries_survive_and_damage_is_absence() {
        let directory = tempfile::tempdir().expect("tempdir");
        let cache = opened(directory.path());
        let source = blake3::hash(b"a");
        let key = Cache::key(&source, CHECKS);
        assert!(cache.get(&key).is_none());
        cache.put(&key, &code(&source)).expect("kept");
        assert_eq!(cache.get(&key).expect("there").meta, meta(&source));
        fs::write(cache.path(&key), b"rubbish").expect("write");
        assert!(cache.get(&key).is_none());
        cache.put(&key, &code(&source)).expect("kept");
        assert!(cache.get(&key).is_some());
    }

    #[test]
    fn what_others_can_write_is_not_trusted() {
        let directory = tempfile::tempdir().expect("tempdir");
        let cache = opened(directory.path());
        let source = blake3::hash(b"a");
        let key = Cache::key(&source, CHECKS);
        cache.put(&key, &code(&source)).expect("kept");
        let open = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(cache.path(&key), open(0o666)).expect("chmod");
        assert!(cache.get(&key).is_none());
        fs::set_permissions(&cache.directory, open(0o777)).expect("chmod");
        let config = CacheConfig::Directory(directory.path().into());
        let why = Cache::open(&config).expect_err("it is anybody's");
        assert!(why.contains("writable by other users"), "{why}");
    }

    #[test]
    fn one_at_a_time_makes_an_entry() {
        let directory = tempfile::tempdir().expect("tempdir");
        let cache = opened(directory.path());
        let long = Duration::from_secs(600);
        let turn = |patience| cache.turn("a", patience, || true);
        let first = turn(long).expect("nobody has it");
        assert!(turn(Duration::ZERO).is_none(), "it is taken");
        assert!(
            cache.turn("a", long, || false).is_none(),
            "not wanted any more"
        );
        assert!(cache.turn("b", long, || true).is_some(), "another entry");
        drop(first);
        let second = turn(long).expect("it was given back");
        std::thread::scope(|scope| {
            let third = scope.spawn(|| turn(long).is_some());
            drop(second);
            assert!(third.join().expect("no panic"), "whoever waits has it next");
        });
        // Made meanwhile, so there is no wait.
        let source = blake3::hash(b"a");
        let _turn = turn(long).expect("free");
        cache.put("a", &code(&source)).expect("kept");
        assert!(turn(long).is_none());
        drop(_turn);
        let left = fs::read_dir(&cache.directory).expect("reads").flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["a.wrun"], "no locks are left");
    }

    #[test]
    fn where_nothing_can_be_written_nobody_waits() {
        let directory = tempfile::tempdir().expect("tempdir");
        let cache = opened(directory.path());
        fs::remove_dir_all(directory.path()).expect("removes");
        assert!(cache.turn("a", Duration::from_secs(600), || true).is_none());
        let source = blake3::hash(b"a");
        let why = cache.put("a", &code(&source)).expect_err("it is gone");
        assert!(why.starts_with("cannot write to /"), "{why}");
    }

    #[test]
    fn why_a_directory_cannot_be_used_is_said() {
        let directory = tempfile::tempdir().expect("tempdir");
        let file = directory.path().join("file");
        fs::write(&file, b"").expect("write");
        let open = |path: PathBuf| Cache::open(&CacheConfig::Directory(path));
        for path in [file, "/proc/wrun".into(), "/dev/null/wrun".into()] {
            let why = open(path.clone()).expect_err("no directory");
            let named = format!("cannot make {}/v", path.display());
            assert!(why.starts_with(&named), "{why}");
        }
        assert!(
            Cache::open(&CacheConfig::Off)
                .expect("not wanted")
                .is_none()
        );
    }

    #[test]
    fn a_link_is_not_followed() {
        let directory = tempfile::tempdir().expect("tempdir");
        let cache = opened(directory.path());
        let source = blake3::hash(b"a");
        cache.put("real", &code(&source)).expect("kept");
        std::os::unix::fs::symlink(cache.path("real"), cache.path("link")).expect("link");
        assert!(cache.get("real").is_some());
        assert!(cache.get("link").is_none());
    }
}
