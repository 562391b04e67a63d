//! A file that an option names for a result.
//!
//! Invariants: no file that the same command reads or writes elsewhere is opened for
//! writing; a regular file is written beside and renamed, so that its old content stays
//! until the new content is complete. One that cannot be replaced, in a directory that is not
//! writable or as a mount of its own, is written over once the new content is complete. A pipe
//! or a device is written directly, and opened when there is something to write: opening a pipe
//! waits for its reader.

use super::in_use::InUse;
use super::signals::{self, Time};
use super::stdio::Patient;
use super::{Failure, exit};
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, IsTerminal, Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::NamedTempFile;

/// How often a named pipe is checked for a reader: the kernel has no way to wait for one
/// with a deadline.
const PIPE_POLL: Duration = Duration::from_millis(10);
/// Maximum of links from a name to its file, as in Linux.
const MAX_LINKS: usize = 40;

/// See the [module](self).
pub(super) struct Destination {
    /// As it was typed.
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    /// A regular file, or no file yet: `new` becomes `target` when it is complete.
    Beside { new: NamedTempFile, target: PathBuf },
    /// A regular file in a directory where no other can be created: `old` gets the content of
    /// `new`, which has no name, when it is complete.
    Aside { new: File, old: File },
    /// The same, where no file for `new` can be created: written as it comes.
    InPlace(File),
    /// A pipe, a device, a socket, or the name of a descriptor of this process.
    AsItIs { is_pipe: bool },
}

impl Destination {
    /// Checks that the file named by `option` can be written, and leaves its content.
    /// It must not be one of those `in_use`, by any name, link or hard link.
    pub(super) fn open(option: &str, path: &Path, in_use: &InUse<'_>) -> Result<Self, Failure> {
        let failed = |error: io::Error| cannot_write(path, &error);
        let target = resolved(path).map_err(failed)?;
        let metadata = match fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        if let Some(other) = in_use.find(metadata.as_ref(), &target) {
            let message = format!("{option} {} would overwrite {other}", path.display());
            return Err(Failure::new(exit::USAGE, message));
        }
        let kind = match &metadata {
            Some(metadata) if metadata.is_dir() => {
                return Err(failed(io::ErrorKind::IsADirectory.into()));
            }
            Some(metadata) if !metadata.is_file() || is_of_a_process(&target) => {
                may_write(path).map_err(failed)?;
                let is_pipe = metadata.file_type().is_fifo();
                Kind::AsItIs { is_pipe }
            }
            Some(metadata) => {
                may_write(path).map_err(failed)?;
                match beside(&target, Some(metadata)) {
                    Ok(new) => Kind::Beside { new, target },
                    // A writable file in a directory that is not.
                    Err(error) if is_refusal(&error) => {
                        let old = File::options().write(true).open(path).map_err(failed)?;
                        match tempfile::tempfile() {
                            Ok(new) => Kind::Aside { new, old },
                            Err(_) => Kind::InPlace(old),
                        }
                    }
                    Err(error) => return Err(failed(error)),
                }
            }
            None => {
                let new = beside(&target, None).map_err(failed)?;
                Kind::Beside { new, target }
            }
        };
        Ok(Destination {
            path: path.to_owned(),
            kind,
        })
    }

    /// As it was typed.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is this process's stdout, by any name.
    pub(super) fn is_stdout(&self) -> bool {
        let stdout = rustix::stdio::stdout();
        let (Ok(one), Ok(two)) = (fs::metadata(&self.path), rustix::fs::fstat(stdout)) else {
            return false;
        };
        // Devices other than terminals keep nothing that could be mixed.
        (!one.file_type().is_char_device() || stdout.is_terminal())
            && (one.dev(), one.ino()) == (two.st_dev, two.st_ino)
    }

    /// Whether it is a terminal, by any name.
    pub(super) fn is_terminal(&self) -> bool {
        let is_device = fs::metadata(&self.path).is_ok_and(|it| it.file_type().is_char_device());
        // Without waiting for a line of it, and without becoming its session.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        is_device
            && rustix::fs::open(&self.path, flags, Mode::empty())
                .is_ok_and(|device| device.is_terminal())
    }

    /// Opens the file for the content, on a thread that may wait for it.
    pub(super) fn opener(&self) -> io::Result<Opener> {
        Ok(match &self.kind {
            Kind::Beside { new, .. } => Opener::File(new.as_file().try_clone()?),
            Kind::Aside { new, .. } => Opener::File(new.try_clone()?),
            Kind::InPlace(file) => Opener::File(file.try_clone()?),
            Kind::AsItIs { is_pipe: true } => Opener::Pipe(self.path.clone()),
            Kind::AsItIs { is_pipe: false } => Opener::AsItIs(self.path.clone()),
        })
    }

    /// What is left of content that is not kept, for people; `None` if that went to others.
    pub(super) fn left(&self) -> Option<String> {
        let path = self.path.display();
        match self.kind {
            Kind::Beside { .. } | Kind::Aside { .. } => {
                Some(format!("{path} was not written: the output is incomplete"))
            }
            Kind::InPlace(_) => Some(format!(
                "{path} has a part of the output, and not what was there before: neither its \
                 directory nor that of temporary files (TMPDIR) can be written to"
            )),
            Kind::AsItIs { .. } => None,
        }
    }

    /// Moves the complete content to its destination. Otherwise the old content stays.
    pub(super) fn keep(self) -> Result<(), Failure> {
        let path = self.path;
        match self.kind {
            Kind::Beside { new, target } => {
                let Err(refused) = new.persist(&target) else {
                    return Ok(());
                };
                // It may be a mount of its own (`docker -v FILE:FILE`), or the file of another
                // user in a directory of all users: both can be written to, but not replaced.
                match File::options().write(true).open(&target) {
                    Ok(old) => write_over(&old, refused.file.as_file())
                        .map_err(|error| cannot_write(&path, &error)),
                    Err(_) => Err(cannot_write(&path, &refused.error)),
                }
            }
            Kind::Aside { new, old } => {
                write_over(&old, &new).map_err(|error| cannot_write(&path, &error))
            }
            Kind::InPlace(_) | Kind::AsItIs { .. } => Ok(()),
        }
    }

    /// Writes and keeps all of it. `patience` as for [`Opener::open`].
    pub(super) fn write(self, bytes: &[u8], patience: Option<Duration>) -> Result<(), Failure> {
        let opened = self.opener().and_then(|opener| opener.open(patience));
        let written = opened.and_then(|file| Patient(file).write_all(bytes));
        written.map_err(|error| cannot_write(&self.path, &error))?;
        self.keep()
    }
}

/// Replaces the content of a file by that of another.
fn write_over(mut old: &File, mut new: &File) -> io::Result<()> {
    new.rewind()?;
    old.set_len(0)?;
    io::copy(&mut new, &mut old).map(drop)
}

pub(super) fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    let hint = wrun::limit_hint(error);
    let message = format!("cannot write {}: {error}{hint}", path.display());
    let interrupted = signals::arrived().filter(|_| error.kind() == io::ErrorKind::Interrupted);
    Failure::new(interrupted.unwrap_or(exit::RUNNER), message)
}

/// See [`Destination::opener`].
pub(super) enum Opener {
    File(File),
    Pipe(PathBuf),
    AsItIs(PathBuf),
}

impl Opener {
    /// The file to write to, empty. For a named pipe, waits until it has a reader, at most
    /// for `patience`.
    pub(super) fn open(self, patience: Option<Duration>) -> io::Result<File> {
        match self {
            Opener::File(file) => {
                file.set_len(0)?;
                Ok(file)
            }
            Opener::Pipe(path) => open_pipe(&path, patience),
            // A regular file, such as `/dev/stdout` can be, is treated as `>` does.
            Opener::AsItIs(path) => File::options().write(true).truncate(true).open(path),
        }
    }
}

/// A named pipe, which is opened when something is written: that waits until it has a reader.
pub(super) enum LatePipe {
    Unopened(Opener),
    Open(File),
    Failed,
}

impl Write for LatePipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        *self = match std::mem::replace(self, LatePipe::Failed) {
            // Interrupted calls are made again, by those who write.
            LatePipe::Unopened(opener) => LatePipe::Open(
                opener
                    .open(None)
                    .map_err(|error| io::Error::other(error.to_string()))?,
            ),
            opened => opened,
        };
        match self {
            LatePipe::Open(file) => file.write(bytes),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a named pipe for writing once it is open for reading.
fn open_pipe(path: &Path, patience: Option<Duration>) -> io::Result<File> {
    let time = patience.map(Time::new);
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    loop {
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(pipe) => {
                // This program has just opened this description.
                rustix::fs::fcntl_setfl(&pipe, OFlags::WRONLY)?;
                return Ok(pipe.into());
            }
            Err(rustix::io::Errno::NXIO) if time.is_some_and(Time::is_over) => {
                let why = "no program opened the pipe for reading within --timeout";
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            Err(rustix::io::Errno::NXIO) if signals::arrived().is_some() => {
                let why = "interrupted while no program had opened the pipe for reading";
                return Err(io::Error::new(io::ErrorKind::Interrupted, why));
            }
            Err(rustix::io::Errno::NXIO) => std::thread::sleep(PIPE_POLL),
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The target of symbolic links, which need not exist.
pub(super) fn resolved(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                // A descriptor of a process: the text of its link need not be a path.
                if is_of_a_process(&path) {
                    return Ok(path);
                }
                let link = fs::read_link(&path)?;
                path = directory(&path).join(link);
            }
            _ => return Ok(path),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

/// Whether it is a path like `/proc/self/fd/1`, to which `/dev/stdout` leads.
fn is_of_a_process(path: &Path) -> bool {
    fs::canonicalize(directory(path)).is_ok_and(|it| it.starts_with("/proc"))
}

/// Without opening it: that alone is an event for a pipe.
fn may_write(path: &Path) -> io::Result<()> {
    rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?;
    Ok(())
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// A file without a name yet, with the permissions and the owner of the file that it
/// replaces.
fn beside(target: &Path, old: Option<&Metadata>) -> io::Result<NamedTempFile> {
    if target.file_name().is_none() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    // The system's error, which the returned error hides behind a temporary name.
    let mut errno = None;
    let made = tempfile::Builder::new()
        .prefix(".wrun-")
        .make_in(directory(target), |path| {
            // With the usual permissions, according to this process's umask.
            let mut options = File::options();
            let opened = options.read(true).write(true).create_new(true).open(path);
            opened.inspect_err(|error| errno = error.raw_os_error())
        });
    let new = made.map_err(|error| errno.map_or(error, io::Error::from_raw_os_error))?;
    if let Some(old) = old {
        let ours = new.as_file().metadata()?;
        if (ours.uid(), ours.gid()) != (old.uid(), old.gid()) {
            // Only root may give files away; otherwise it belongs to this user.
            let _ = std::os::unix::fs::fchown(new.as_file(), Some(old.uid()), Some(old.gid()));
        }
        let mode = Permissions::from_mode(old.mode() & 0o7777);
        new.as_file().set_permissions(mode)?;
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, others: &[&Path]) -> Result<Destination, String> {
        let in_use = InUse::new(others.iter().copied());
        Destination::open("--output", path, &in_use).map_err(|failure| failure.message)
    }

    #[test]
    fn what_was_there_stays_until_the_new_is_whole() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("file");
        fs::write(&path, "old").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).expect("set");
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink("file", &link).expect("a link");
        let given_up = open(&link, &[]).expect("opened");
        let opened = given_up.opener().and_then(|it| it.open(None));
        let mut half = opened.expect("a file");
        half.write_all(b"half").expect("written");
        drop(given_up);
        assert_eq!(fs::read(&path).expect("there"), b"old");
        open(&link, &[])
            .expect("opened")
            .write(b"new", None)
            .expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"new");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o640);
        assert_eq!(
            fs::read_dir(scratch.path()).expect("a directory").count(),
            2
        );
    }

    #[test]
    fn nothing_that_is_read_is_written() {
        let scratch = tempfile::tempdir().expect("a directory");
        let [path, hard, link, new] =
            ["file", "hard", "link", "new"].map(|name| scratch.path().join(name));
        fs::write(&path, "old").expect("written");
        fs::hard_link(&path, &hard).expect("a link");
        std::os::unix::fs::symlink("file", &link).expect("a link");
        let dotted = scratch.path().join(".").join("file");
        for name in [&path, &hard, &link, &dotted] {
            let told = open(name, &[&path]).err().expect("refused");
            assert!(told.contains("would overwrite"), "{told}");
        }
        // Two results with the same name, which does not exist yet.
        let dotted = scratch.path().join(".").join("new");
        let told = open(&new, &[&dotted]).err().expect("refused");
        assert!(told.contains("would overwrite"), "{told}");
        drop(open(&new, &[&path]).expect("another"));
        assert!(!new.exists());
    }

    #[test]
    fn a_link_to_nothing_gets_its_file() {
        let scratch = tempfile::tempdir().expect("a directory");
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink("real", &link).expect("a link");
        open(&link, &[])
            .expect("opened")
            .write(b"x", None)
            .expect("written");
        assert_eq!(fs::read(scratch.path().join("real")).expect("there"), b"x");
        let looped = scratch.path().join("loop");
        std::os::unix::fs::symlink("loop", &looped).expect("a link");
        assert!(open(&looped, &[]).is_err());
    }
}
