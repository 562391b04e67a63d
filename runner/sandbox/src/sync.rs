//! The locks and wake-ups of the code that `model/` checks in every order: channels,
//! waiting lists and named locks. There, a module of this name provides loom's.
//!
//! `Arc` is the standard library's in both: loom has no weak references.

pub(crate) use std::sync::{Mutex, MutexGuard, RwLock};
pub(crate) use tokio::sync::Notify;
