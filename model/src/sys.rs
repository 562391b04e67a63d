//! What the sources use of the runner's `sys`.

#[expect(dead_code, reason = "nobody maps what is checked here")]
#[path = "../../runner/src/sys/pages.rs"]
mod pages;
#[path = "../../runner/src/sys/shared_words.rs"]
mod shared_words;
#[path = "../../runner/src/sys/sole.rs"]
mod sole;
#[path = "../../runner/src/sys/unread.rs"]
mod unread;
#[path = "../../runner/src/sys/watch.rs"]
mod watch;

pub(crate) use pages::Pages;
pub(crate) use process::Process;
pub(crate) use shared_words::SharedWords;
pub(crate) use sole::is_sole;
pub(crate) use unread::has_unread;
pub(crate) use watch::{Watched, watch};

/// Nothing here forks.
mod process {
    /// The only one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Process;

    impl Process {
        pub(crate) fn current() -> Self {
            Process
        }

        pub(crate) fn is_current(self) -> bool {
            self == Process::current()
        }
    }
}

/// Nobody maps what is checked here.
pub(crate) const LARGE: usize = 2 << 20;

pub(crate) fn collapse(_: impl std::os::fd::AsFd, _: u64, _: usize) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
