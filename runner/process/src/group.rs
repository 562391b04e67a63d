//! The control group that a runner's workers are in, made when the first of them
//! is started.

use crate::jail::{Cgroup, CgroupLimits};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use wrun_sys::Unpoisoned;

pub(super) struct Group {
    limits: CgroupLimits,
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    Unmade,
    /// Or why there can be none.
    Made(Result<Cgroup, String>),
    Removed,
}

impl Group {
    pub(super) fn new(limits: CgroupLimits) -> Self {
        Group {
            limits,
            state: Mutex::default(),
        }
    }

    /// Its directory, or why there is none, for people.
    pub(super) fn path(&self) -> Result<PathBuf, String> {
        let mut state = self.state();
        if matches!(*state, State::Unmade) {
            *state = State::Made(Cgroup::create(&self.limits));
        }
        match &*state {
            State::Made(Ok(group)) => Ok(group.path().to_owned()),
            State::Made(Err(why)) => Err(why.clone()),
            State::Unmade | State::Removed => Err("the runner is shut down".to_owned()),
        }
    }

    /// Removes it, with what is in it.
    pub(super) fn remove(&self) {
        *self.state() = State::Removed;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_and_gone_at_the_end() {
        let group = Group::new(CgroupLimits {
            memory: None,
            pids: Some(8),
        });
        let first = group.path();
        assert_eq!(group.path(), first);
        group.remove();
        if let Ok(path) = first {
            assert!(!path.exists());
        }
        assert!(group.path().is_err());
    }
}
