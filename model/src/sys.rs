//! What the sources use of the runner's `sys`.

#[cfg(all(test, miri))]
#[path = "../../runner/src/sys/shared_words.rs"]
mod shared_words;
#[path = "../../runner/src/sys/watch.rs"]
mod watch;

#[cfg(all(test, miri))]
pub(crate) use shared_words::SharedWords;
pub(crate) use watch::watch;
