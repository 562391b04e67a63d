//! The compilations that are running for a loader, so that threads that need the same code
//! wait for it.
//!
//! Invariant: a compilation ends when its `Making` is dropped, whatever its result, and
//! threads that wait for it then continue.

use super::code::Code;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use wrun_sys::Unpoisoned;

#[derive(Default)]
pub(super) struct Makings(Mutex<HashMap<String, Arc<Other>>>);

/// A compilation by another thread.
#[derive(Default)]
pub(super) struct Other {
    status: Mutex<Status>,
    changed: Condvar,
}

#[derive(Default)]
enum Status {
    #[default]
    Begun,
    Done(Arc<Code>),
    Failed,
}

/// A compilation by this thread.
pub(super) struct Making<'a> {
    makings: &'a Makings,
    key: String,
    shared: Arc<Other>,
}

impl Makings {
    /// Begins a compilation, or returns the one that another thread has begun.
    pub(super) fn begin(&self, key: &str) -> Result<Making<'_>, Arc<Other>> {
        let mut begun = self.begun();
        if let Some(other) = begun.get(key) {
            return Err(other.clone());
        }
        let shared = Arc::<Other>::default();
        begun.insert(key.to_owned(), shared.clone());
        Ok(Making {
            makings: self,
            key: key.to_owned(),
            shared,
        })
    }

    /// The number of running compilations.
    pub(super) fn count(&self) -> usize {
        self.begun().len()
    }

    fn begun(&self) -> MutexGuard<'_, HashMap<String, Arc<Other>>> {
        self.0.lock().unpoisoned()
    }
}

impl Other {
    /// Waits for its code; `None` if it failed, or has not ended in that time.
    pub(super) fn wait(&self, patience: Duration) -> Option<Arc<Code>> {
        let begun = |status: &mut Status| matches!(status, Status::Begun);
        let (status, _) = self
            .changed
            .wait_timeout_while(self.status(), patience, begun)
            .unpoisoned();
        match &*status {
            Status::Done(code) => Some(code.clone()),
            Status::Begun | Status::Failed => None,
        }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unpoisoned()
    }
}

impl Making<'_> {
    /// Gives the code to all threads that wait.
    pub(super) fn done(&mut self, code: Code) -> Arc<Code> {
        let code = Arc::new(code);
        *self.shared.status() = Status::Done(code.clone());
        code
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.makings.begun().remove(&self.key);
        let mut status = self.shared.status();
        if matches!(*status, Status::Begun) {
            *status = Status::Failed;
        }
        self.shared.changed.notify_all();
    }
}
