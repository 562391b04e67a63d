//! The locks and wake-ups of what `model/` checks in every order: channels, waiting
//! lists and named locks. There, a module of this name has loom's.
//!
//! Counted references stay the standard library's in both: loom has no weak ones.

pub(crate) use std::sync::{Mutex, MutexGuard, RwLock};
pub(crate) use tokio::sync::Notify;
