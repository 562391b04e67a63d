//! Channels and waiting lists of the runner, its own sources, with locks that loom
//! has: `tests/` checks them in every order in which threads can come to them.
//!
//! A crate of its own, so that neither wasmtime nor the runner is compiled for it,
//! and the runner has nothing of loom. README.md has the commands.

mod channels;
mod sync;
mod sys;
#[cfg(not(miri))]
mod waiting;

#[expect(dead_code, reason = "the runner uses more of it")]
#[path = "../../runner/src/port/mod.rs"]
mod port;

/// Miri runs what of its unit tests needs no memory file.
#[cfg(all(test, miri))]
#[expect(unused_imports, dead_code, reason = "the runner uses more of it")]
#[path = "../../runner/src/region/mod.rs"]
mod region;

pub use channels::Channels;
pub use port::{Message, Port, PortError, Unsent};
#[cfg(not(miri))]
pub use waiting::{Standing, Waiters};
