//! Channels, waiting lists and named locks of the runner, its own sources, with locks
//! that loom has: `tests/` checks them in every order in which threads can come to them.
//!
//! A crate of its own, so that neither wasmtime nor the runner is compiled for it,
//! and the runner has nothing of loom. README.md has the commands.

#![expect(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    clippy::len_without_is_empty,
    clippy::duplicate_mod,
    reason = "the sources of another crate, which uses more of them"
)]

// What the sources import of that crate is what `sys` has.
extern crate self as wrun_sys;

#[path = "../../runner/sandbox/src/blocking.rs"]
mod blocking;
mod channels;
mod named;
mod sync;
mod sys;
#[cfg(not(miri))]
mod waiting;

#[path = "../../runner/sandbox/src/port/mod.rs"]
mod port;

#[path = "../../runner/sandbox/src/lock_table.rs"]
mod lock_table;
#[path = "../../runner/sandbox/src/locks.rs"]
mod locks;

/// For what lies in messages; and Miri runs what of its unit tests needs no memory file.
#[path = "../../runner/sandbox/src/region/mod.rs"]
mod region;

#[path = "../../runner/sandbox/src/turn.rs"]
mod turn;

#[doc(hidden)]
pub use sys::*;

pub use channels::Channels;
pub use lock_table::LockMode;
pub use named::{Held, NamedLocks};
pub use port::{Message, Port, PortError, Unsent};
pub use region::{Kind, Region, RegionError, Waited};
#[cfg(not(miri))]
pub use waiting::{Standing, Waiters};
