//! The named locks of a runner, where they can be had from tests.

use crate::lock_table::LockMode;
use crate::locks::{Hold, Locks};
use std::sync::Arc;

/// All named locks of a runner.
#[derive(Clone)]
pub struct NamedLocks(Arc<Locks>);

/// One that is held, until it is dropped.
pub struct Held(#[expect(dead_code, reason = "it is dropped")] Hold);

impl Default for NamedLocks {
    fn default() -> Self {
        NamedLocks(Arc::new(Locks::new()))
    }
}

impl NamedLocks {
    /// Waits for a lock; none where there are too many.
    pub async fn lock(&self, name: &str, mode: LockMode) -> Option<Held> {
        self.0.request(name, mode, false).await.ok()?.map(Held)
    }

    /// A lock, if it can be had at once.
    pub fn try_lock(&self, name: &str, mode: LockMode) -> Option<Held> {
        self.0.request_now(name, mode).ok()?.map(Held)
    }
}
