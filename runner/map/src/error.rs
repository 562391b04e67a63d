//! Why a batch ends before its inputs do.

use std::io;
use std::path::PathBuf;

/// Why a batch does not begin, or ends before its inputs do. What becomes of a single input is
/// never an `Error`: it is in its [`Record`](crate::Record).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file with inputs, or their names, cannot be read.
    #[error("cannot read {}: {source}{}", .path.display(), wrun::limit_hint(.source))]
    Source {
        /// The file; `-` for stdin.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file with inputs is not in the expected format.
    #[error("{}: {why}", .path.display())]
    Format {
        /// The file; `-` for stdin.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A result cannot be written.
    #[error("cannot write {}: {source}{}", .path.display(), wrun::limit_hint(.source))]
    Write {
        /// The file; `-` for stdout.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The journal cannot be opened, read or written.
    #[error("the journal {}: {why}", .path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The journal was made for something else.
    #[error(
        "the journal {} was made with other {what}: resume with those, or start again with \
         another journal", .path.display()
    )]
    Changed {
        /// The journal.
        path: PathBuf,
        /// What changed, by name.
        what: String,
    },
    /// The output is not what the journal says it is.
    #[error("{}: {why}", .path.display())]
    Output {
        /// The output.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The inputs are not those that the journal was made with.
    #[error(
        "the inputs are not those that the journal was made with: resume with those, or start \
         again with another journal"
    )]
    InputsChanged,
    /// The runner failed, and not because of the input.
    #[error(transparent)]
    Runner(#[from] wrun::Error),
    /// The place where tasks run failed, and not because of the input.
    #[error("{_0}")]
    Place(String),
    /// A thread cannot be started.
    #[error("cannot start a thread: {_0}{}", wrun::limit_hint(.0))]
    Thread(io::Error),
}

impl Error {
    /// The error of the system behind it, if there is one.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Error::Source { source, .. } | Error::Write { source, .. } => Some(source),
            Error::Thread(error) => Some(error),
            _ => None,
        }
    }
}
