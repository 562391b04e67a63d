//! The destinations of results for which an option names a file: checked before anything is
//! loaded, so that an unwritable file costs no run; written once, or not at all.

use super::Failure;
use super::destination::Destination;
use super::in_use::InUse;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

/// The destination of a result, if any.
pub(super) enum ResultTo {
    Nowhere,
    Stdout,
    File(Destination),
}

impl ResultTo {
    /// Checks that the file named by `option` can be written, and leaves its content.
    /// It must not be one of those `in_use`: the task, its input, its output.
    pub(super) fn open(
        option: &str,
        path: Option<&Path>,
        in_use: &InUse<'_>,
    ) -> Result<Self, Failure> {
        match path {
            None => Ok(ResultTo::Nowhere),
            Some(path) if path == Path::new("-") => {
                if wrun_sys::was_stdout_closed() {
                    return Err(super::stdout_failed(&rustix::io::Errno::BADF.into()));
                }
                in_use.check_stdout()?;
                Ok(ResultTo::Stdout)
            }
            Some(path) => Destination::open(option, path, in_use).map(ResultTo::File),
        }
    }

    /// Whether it goes to stdout, by any name.
    pub(super) fn is_stdout(&self) -> bool {
        match self {
            ResultTo::Nowhere => false,
            ResultTo::Stdout => true,
            ResultTo::File(to) => to.is_stdout(),
        }
    }

    /// Whether it goes to a terminal, by any name.
    pub(super) fn is_terminal(&self) -> bool {
        match self {
            ResultTo::Nowhere => false,
            ResultTo::Stdout => std::io::stdout().is_terminal(),
            ResultTo::File(to) => to.is_terminal(),
        }
    }

    /// Writes it. Waits for the reader of a named pipe, at most for `patience`.
    pub(super) fn write(self, bytes: &[u8], patience: Option<Duration>) -> Result<(), Failure> {
        match self {
            ResultTo::Nowhere => Ok(()),
            ResultTo::Stdout => super::print(bytes).map(drop),
            ResultTo::File(to) => to.write(bytes, patience),
        }
    }

    /// [`ResultTo::write`] for text, whose last line it ends.
    pub(super) fn write_text(
        self,
        text: impl std::fmt::Display,
        patience: Option<Duration>,
    ) -> Result<(), Failure> {
        match self {
            // Not even converted to text.
            ResultTo::Nowhere => Ok(()),
            to => to.write(format!("{text}\n").as_bytes(), patience),
        }
    }
}
