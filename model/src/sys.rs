//! What the sources use of the runner's `sys`.

#[path = "../../runner/src/sys/shared_words.rs"]
mod shared_words;
#[path = "../../runner/src/sys/watch.rs"]
mod watch;

pub(crate) use shared_words::SharedWords;
pub(crate) use watch::watch;
