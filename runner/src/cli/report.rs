//! Where results go that an option names a file for: opened before anything is loaded,
//! so that one that cannot be written costs no run; written once, or not at all.

use super::output::cannot_write;
use super::{Failure, exit};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Where a result goes, if anywhere.
pub(super) enum ReportTo {
    Nowhere,
    Stdout,
    File(ReportFile),
}

pub(super) struct ReportFile {
    path: PathBuf,
    /// None for what is opened when it is written: a pipe's opening waits for a
    /// reader.
    file: Option<File>,
    /// It was not there before, and is not to stay without a report.
    made: bool,
}

impl ReportTo {
    /// Checks that what `option` names can be written, and leaves what is there.
    /// `others` are files that this one must not be: the task, its input, its output.
    pub(super) fn open(
        option: &str,
        path: Option<&Path>,
        others: &[Option<&Path>],
    ) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(ReportTo::Nowhere);
        };
        if path == Path::new("-") {
            if crate::sys::was_stdout_closed() {
                return Err(super::stdout_failed(&rustix::io::Errno::BADF.into()));
            }
            return Ok(ReportTo::Stdout);
        }
        let mut to = ReportFile {
            path: path.to_owned(),
            file: None,
            made: false,
        };
        if std::fs::metadata(path).is_ok_and(|it| it.file_type().is_fifo()) {
            return Ok(ReportTo::File(to));
        }
        let file = match File::create_new(path) {
            Ok(file) => {
                to.made = true;
                file
            }
            Err(_) => File::options()
                .write(true)
                .open(path)
                .map_err(|error| cannot_write(path, &error))?,
        };
        let metadata = file
            .metadata()
            .map_err(|error| cannot_write(path, &error))?;
        for other in others.iter().copied().flatten() {
            let same = metadata.is_file()
                && std::fs::metadata(other)
                    .is_ok_and(|it| (it.dev(), it.ino()) == (metadata.dev(), metadata.ino()));
            if same {
                let (path, other) = (path.display(), other.display());
                let message = format!("{option} {path} would overwrite {other}");
                return Err(Failure::new(exit::USAGE, message));
            }
        }
        to.file = Some(file);
        Ok(ReportTo::File(to))
    }

    /// Whether it goes to stdout.
    pub(super) fn is_stdout(&self) -> bool {
        matches!(self, ReportTo::Stdout)
    }

    /// Writes it, text that ends with a line.
    pub(super) fn write(self, text: impl std::fmt::Display) -> Result<(), Failure> {
        match self {
            ReportTo::Nowhere => Ok(()),
            ReportTo::Stdout => super::print(format!("{text}\n").as_bytes()).map(drop),
            ReportTo::File(mut to) => to
                .write(format!("{text}\n").as_bytes())
                .map_err(|error| cannot_write(&to.path, &error)),
        }
    }
}

impl ReportFile {
    fn write(&mut self, json: &[u8]) -> std::io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => File::options().write(true).open(&self.path)?,
        };
        if file.metadata()?.is_file() {
            file.set_len(0)?;
        }
        self.made = false;
        file.write_all(json)
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        if self.made {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
