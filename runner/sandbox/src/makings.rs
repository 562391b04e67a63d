//! What is being compiled by a loader, so that threads that want the same wait for it.
//!
//! Invariant: a making ends when it is dropped, whatever became of it, and the one that waits
//! for it then goes on.

use super::code::Code;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use wrun_sys::Unpoisoned;

#[derive(Default)]
pub(super) struct Makings(Mutex<HashMap<String, Arc<Other>>>);

/// What another thread makes.
#[derive(Default)]
pub(super) struct Other {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Begun,
    Done(Arc<Code>),
    Failed,
}

/// What this thread makes.
pub(super) struct Making<'a> {
    makings: &'a Makings,
    key: String,
    shared: Arc<Other>,
}

impl Makings {
    /// Begins to make it, or gives what another thread has begun.
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

    /// How many are being made.
    pub(super) fn count(&self) -> usize {
        self.begun().len()
    }

    fn begun(&self) -> MutexGuard<'_, HashMap<String, Arc<Other>>> {
        self.0.lock().unpoisoned()
    }
}

impl Other {
    /// What it made; none where it failed, or has not ended in that time.
    pub(super) fn wait(&self, patience: Duration) -> Option<Arc<Code>> {
        let begun = |state: &mut State| matches!(state, State::Begun);
        let (state, _) = self
            .changed
            .wait_timeout_while(self.state(), patience, begun)
            .unpoisoned();
        match &*state {
            State::Done(code) => Some(code.clone()),
            State::Begun | State::Failed => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }
}

impl Making<'_> {
    /// Gives it to all who wait.
    pub(super) fn done(&mut self, code: Code) -> Arc<Code> {
        let code = Arc::new(code);
        *self.shared.state() = State::Done(code.clone());
        code
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.makings.begun().remove(&self.key);
        let mut state = self.shared.state();
        if matches!(*state, State::Begun) {
            *state = State::Failed;
        }
        self.shared.changed.notify_all();
    }
}
