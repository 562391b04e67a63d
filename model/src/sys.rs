//! What the sources use of the runner's `sys`.

#[path = "../../runner/sys/src/pages.rs"]
mod pages;
#[path = "../../runner/sys/src/shared_words.rs"]
mod shared_words;
#[path = "../../runner/sys/src/sole.rs"]
mod sole;
#[path = "../../runner/sys/src/unpoisoned.rs"]
mod unpoisoned;
#[path = "../../runner/sys/src/unread.rs"]
mod unread;
#[path = "../../runner/sys/src/watch.rs"]
mod watch;

pub use pages::Pages;
pub use process::Process;
pub use shared_words::SharedWords;
pub use sole::is_sole;
pub use unpoisoned::Unpoisoned;
pub use unread::has_unread;
pub use watch::{Watched, watch};

/// Nothing here forks.
mod process {
    /// The only one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Process;

    impl Process {
        pub fn current() -> Self {
            Process
        }

        pub fn is_current(self) -> bool {
            self == Process::current()
        }
    }
}

/// Nobody maps what is checked here.
pub const LARGE: usize = 2 << 20;

pub fn collapse(_: impl std::os::fd::AsFd, _: u64, _: usize) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
