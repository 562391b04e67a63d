//! A directory with a file for each output, named by a template.
//!
//! Invariant: a file gets its name when it is complete. No name leads out of the directory, and no
//! two inputs of a run get one file.

use super::stream::cannot_write;
use crate::error::Error;
use crate::template::{Subject, Template};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// A directory with a file for each output, named by a template. A file gets its name when it is
/// complete; no name leads out of the directory, and no two inputs of a run get one file.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    template: Template,
    /// Where the next file is written.
    part: PathBuf,
    /// A file that was changed since then was made by this run.
    began: (i64, i64),
    sync: bool,
    /// Files that stay as they are, by their real names.
    others: Vec<PathBuf>,
    /// Directories with new names in them.
    changed: BTreeSet<PathBuf>,
}

/// What became of an output.
pub(crate) enum Kept {
    /// It is a file with this name in the directory.
    As(String),
    /// It cannot be one, for this reason, which concerns this output alone.
    Not(String),
}

impl Kept {
    /// Another input has the file.
    pub(crate) fn taken(name: &str) -> Self {
        Kept::Not(format!(
            "another input of this run has the file {name:?}: use {{}} or {{#}} in the template"
        ))
    }
}

impl Folder {
    /// A directory, which is made if it does not exist. `id` is a part of the name of temporary
    /// files: that of the journal, or another word.
    ///
    /// # Errors
    ///
    /// The directory cannot be made or written to.
    pub fn open(path: &Path, template: Template, id: &str) -> Result<Self, Error> {
        let part = path.join(format!(".wrun-map-{id}.part"));
        let made = fs::create_dir_all(path).and_then(|()| {
            let probe = File::create(&part)?.metadata()?;
            fs::remove_file(&part)?;
            Ok((probe.ctime(), probe.ctime_nsec()))
        });
        let began = made.map_err(|error| cannot_write(path, error))?;
        Ok(Folder {
            path: path.to_owned(),
            template,
            part,
            began,
            sync: false,
            others: Vec::new(),
            changed: BTreeSet::new(),
        })
    }

    /// Whether files are on the disk before their names are. Default: no.
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// Files that no output replaces: the task, what is read, other results. They need not exist
    /// yet.
    pub fn keep_off<'a>(mut self, files: impl IntoIterator<Item = &'a Path>) -> Self {
        self.others.extend(files.into_iter().filter_map(real_name));
        self
    }

    /// The name for an input, within the directory.
    pub(crate) fn name(&self, text: Option<&str>, number: u64) -> Result<String, String> {
        let filled = self.template.fill(Subject { text, number });
        let filled = filled.map_err(|error| error.to_string())?;
        let mut name = PathBuf::new();
        for part in Path::new(&filled).components() {
            match part {
                Component::Normal(part) => name.push(part),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                Component::ParentDir => {
                    return Err(format!("the name {filled:?} leads out of the directory"));
                }
            }
        }
        let is_file =
            name.file_name().is_some() && !filled.ends_with('/') && !filled.contains('\0');
        match name.to_str().filter(|_| is_file) {
            Some(name) => Ok(name.to_owned()),
            None => Err(format!("the name {filled:?} is not that of a file")),
        }
    }

    /// Writes an output. An error is one of the system, which concerns all that follow, too.
    pub(crate) fn write(&mut self, name: &str, output: &[u8]) -> Result<Kept, Error> {
        let target = self.path.join(name);
        match target.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => {
                return Ok(Kept::Not(format!("{} is a directory", target.display())));
            }
            Ok(_) if real_name(&target).is_some_and(|it| self.others.contains(&it)) => {
                let why = format!("{} is used by this run", target.display());
                return Ok(Kept::Not(why));
            }
            // Made by this run.
            Ok(metadata) if (metadata.ctime(), metadata.ctime_nsec()) >= self.began => {
                return Ok(Kept::taken(name));
            }
            _ => {}
        }
        match self.put(&target, output) {
            Ok(()) => Ok(Kept::As(name.to_owned())),
            Err(error) if is_of_the_name(&error) => Ok(Kept::Not(format!(
                "cannot write {}: {error}",
                target.display()
            ))),
            Err(error) => Err(cannot_write(&target, error)),
        }
    }

    fn put(&mut self, target: &Path, output: &[u8]) -> io::Result<()> {
        let folder = target.parent().unwrap_or(&self.path);
        if folder != self.path {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::create(&self.part)?;
        file.write_all(output)?;
        if self.sync {
            file.sync_data()?;
        }
        fs::rename(&self.part, target)?;
        if self.sync {
            // Each may be new.
            let within = folder
                .ancestors()
                .take_while(|it| it.starts_with(&self.path));
            self.changed.extend(within.map(Path::to_owned));
        }
        Ok(())
    }

    /// Waits until all names are on the disk, if that was asked for.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        for path in std::mem::take(&mut self.changed) {
            let synced = File::open(&path).and_then(|folder| folder.sync_all());
            synced.map_err(|error| cannot_write(&path, error))?;
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // There is none unless writing failed.
        let _ = fs::remove_file(&self.part);
    }
}

/// The name of a file that need not exist, with the real name of its directory.
fn real_name(path: &Path) -> Option<PathBuf> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Some(fs::canonicalize(folder).ok()?.join(path.file_name()?))
}

/// Errors that are due to the name: others may be written.
fn is_of_the_name(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|it| {
        [
            Errno::NAMETOOLONG,
            Errno::NOTDIR,
            Errno::ISDIR,
            Errno::EXIST,
            Errno::LOOP,
        ]
        .contains(&it)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_directory() {
        let scratch = tempfile::tempdir().expect("a directory");
        let name = |template: &str, text: &str| {
            let folder = Folder::open(scratch.path(), Template::new(template), "x");
            folder.expect("opened").name(Some(text), 1)
        };
        assert_eq!(name("{}", "/a/./b"), Ok("a/b".into()));
        assert_eq!(name("{/.}.html", "a/b.md"), Ok("b.html".into()));
        assert_eq!(name("{#}", "../x"), Ok("1".into()));
        for bad in ["..", "a/../b", "", "/", "a/", "a\0b"] {
            assert!(name("{}", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_is_whole_and_has_one_input() {
        let scratch = tempfile::tempdir().expect("a directory");
        fs::write(scratch.path().join("old"), "of before").expect("written");
        // The kernel's clock for files ticks every few milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let open = || Folder::open(scratch.path(), Template::new("{}"), "x").expect("opened");
        let used = scratch.path().join(".").join("used");
        fs::write(&used, "by this run").expect("written");
        let mut folder = open().sync(true).keep_off([&*used]);
        let mut write = |name: &str| folder.write(name, b"new").expect("written");
        assert!(matches!(write("old"), Kept::As(name) if name == "old"));
        assert!(matches!(write("used"), Kept::Not(why) if why.contains("used by this run")));
        assert!(matches!(write("a/b"), Kept::As(_)));
        assert!(matches!(write("a"), Kept::Not(why) if why.contains("directory")));
        assert!(matches!(write("a/b"), Kept::Not(why) if why.contains("another input")));
        assert!(matches!(write("a/b/c"), Kept::Not(_)));
        assert!(matches!(write(&"x".repeat(300)), Kept::Not(_)));
        folder.flush().expect("synced");
        drop(folder);
        // A run that goes on: the file is of one that was interrupted.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut resumed = open();
        assert!(matches!(resumed.write("a/b", b"newer"), Ok(Kept::As(_))));
        drop(resumed);
        assert_eq!(
            fs::read(scratch.path().join("a/b")).expect("read"),
            b"newer"
        );
        assert_eq!(
            fs::read_dir(scratch.path()).expect("a directory").count(),
            3
        );
    }
}
