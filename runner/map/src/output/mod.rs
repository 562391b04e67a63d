//! Where results go: a stream of records or bytes, and a directory with a file for each output.

mod folder;
mod stream;

pub use folder::Folder;
pub(crate) use folder::Kept;
pub use stream::Stream;

/// What the stream has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A line of JSON for each input.
    Records {
        /// Whether records have times and other things that differ from run to run.
        stats: bool,
    },
    /// The outputs of completed tasks, one after another.
    Bytes,
}
