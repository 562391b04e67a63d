//! Where results go that an option names a file for: checked before anything is
//! loaded, so that one that cannot be written costs no run; written once, or not at all.

use super::Failure;
use super::destination::Destination;
use std::path::Path;
use std::time::Duration;

/// Where a result goes, if anywhere.
pub(super) enum ResultTo {
    Nowhere,
    Stdout,
    File(Destination),
}

impl ResultTo {
    /// Checks that what `option` names can be written, and leaves what is there.
    /// `others` are files that this one must not be: the task, its input, its output.
    pub(super) fn open(
        option: &str,
        path: Option<&Path>,
        others: &[Option<&Path>],
    ) -> Result<Self, Failure> {
        match path {
            None => Ok(ResultTo::Nowhere),
            Some(path) if path == Path::new("-") => {
                if wrun_sys::was_stdout_closed() {
                    return Err(super::stdout_failed(&rustix::io::Errno::BADF.into()));
                }
                Ok(ResultTo::Stdout)
            }
            Some(path) => Destination::open(option, path, others).map(ResultTo::File),
        }
    }

    /// Whether it goes to stdout, by whatever name.
    pub(super) fn is_stdout(&self) -> bool {
        match self {
            ResultTo::Nowhere => false,
            ResultTo::Stdout => true,
            ResultTo::File(to) => to.is_stdout(),
        }
    }

    /// Writes it. Waits for the reader of a named pipe, for `patience` at most.
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
            // Not even made into text.
            ResultTo::Nowhere => Ok(()),
            to => to.write(format!("{text}\n").as_bytes(), patience),
        }
    }
}
