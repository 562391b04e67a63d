//! The files that one command reads, and those that it writes.
//!
//! Invariant: no result goes over one of them, whether an option names the file or a shell has
//! opened it for stdin or stdout.

use super::destination::{directory, resolved};
use super::{Failure, exit};
use rustix::fs::{OFlags, SeekFrom, Stat};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct InUse<'a> {
    paths: Vec<&'a Path>,
    reads_stdin: bool,
}

impl<'a> InUse<'a> {
    /// A command that reads these files.
    pub(super) fn new(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        InUse {
            paths: paths.into_iter().collect(),
            reads_stdin: false,
        }
    }

    /// One file more.
    pub(super) fn add(&mut self, path: Option<&'a Path>) {
        self.paths.extend(path);
    }

    /// The input of the task: a file, or stdin by the name `-`.
    pub(super) fn add_input(&mut self, path: &'a Path) {
        match path == Path::new("-") {
            true => self.reads_stdin = true,
            false => self.paths.push(path),
        }
    }

    /// The name of the one that is the file of `metadata`, or will be at `target`.
    pub(super) fn find(&self, metadata: Option<&Metadata>, target: &Path) -> Option<String> {
        let is_it = |other: &&&Path| is_same(metadata, target, other);
        if let Some(other) = self.paths.iter().find(is_it) {
            return Some(other.display().to_string());
        }
        let stdin = stat_of(rustix::stdio::stdin()).filter(|_| self.reads_stdin)?;
        let is_stdin = metadata.is_some_and(|one| has_one_place(one) && is_one(one, &stdin));
        is_stdin.then(|| "the file that stdin is read from".to_owned())
    }

    /// For a command that writes to stdout: the shell may have opened one of the files for it.
    pub(super) fn check_stdout(&self) -> Result<(), Failure> {
        let Some(stdout) = stat_of(rustix::stdio::stdout()).filter(is_file) else {
            return Ok(());
        };
        let is_stdout = |path: &&&Path| fs::metadata(path).is_ok_and(|it| is_one(&it, &stdout));
        let refused = |what: &dyn std::fmt::Display| {
            let message = format!("stdout would overwrite {what}: redirect it to another file");
            Err(Failure::new(exit::USAGE, message))
        };
        match self.paths.iter().find(is_stdout) {
            Some(path) => refused(&path.display()),
            None if self.reads_stdin && is_read_again(&stdout) => {
                refused(&"the file that stdin is read from")
            }
            None => Ok(()),
        }
    }
}

/// Whether reading stdin comes to what was written to stdout, without an end. A shell that opens
/// one file for both (`<file 1<>file`) has its content replaced by what a filter makes of it,
/// which is as far as reading is.
fn is_read_again(stdout: &Stat) -> bool {
    let (input, output) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    let is_one = stat_of(input).is_some_and(|it| place(&it) == place(stdout));
    let appends = rustix::fs::fcntl_getfl(output).is_ok_and(|it| it.contains(OFlags::APPEND));
    let written_at = match appends {
        true => u64::try_from(stdout.st_size).ok(),
        false => rustix::fs::seek(output, SeekFrom::Current(0)).ok(),
    };
    is_one && rustix::fs::seek(input, SeekFrom::Current(0)).ok() < written_at
}

fn stat_of(descriptor: rustix::fd::BorrowedFd<'_>) -> Option<Stat> {
    rustix::fs::fstat(descriptor).ok()
}

fn is_file(stat: &Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file()
}

fn place(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn is_one(one: &Metadata, two: &Stat) -> bool {
    (one.dev(), one.ino()) == place(two)
}

/// A device may have several writers and readers.
fn has_one_place(one: &Metadata) -> bool {
    one.is_file() || one.file_type().is_fifo()
}

/// Whether `other` is the file of `metadata`, or will be at `target`.
fn is_same(metadata: Option<&Metadata>, target: &Path, other: &Path) -> bool {
    match (metadata, fs::metadata(other)) {
        (Some(one), Ok(two)) => {
            has_one_place(one) && (one.dev(), one.ino()) == (two.dev(), two.ino())
        }
        (None, Err(_)) => {
            let (Ok(one), Ok(two)) = (whole(target), resolved(other).and_then(|it| whole(&it)))
            else {
                return false;
            };
            one == two
        }
        _ => false,
    }
}

/// The name of a file that need not exist, with the real name of its directory.
fn whole(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default();
    Ok(fs::canonicalize(directory(path))?.join(name))
}
