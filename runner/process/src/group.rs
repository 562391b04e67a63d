//! The control group of a runner's workers, made when the first of them is started.

use crate::jail::{Cgroup, CgroupLimits};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use wrun_sys::Unpoisoned;

pub(super) struct Group {
    limits: CgroupLimits,
    lifecycle: Mutex<Lifecycle>,
}

#[derive(Default)]
enum Lifecycle {
    #[default]
    Unmade,
    /// The error says why there can be none.
    Made(Result<Cgroup, String>),
    Removed,
}

impl Group {
    pub(super) fn new(limits: CgroupLimits) -> Self {
        Group {
            limits,
            lifecycle: Mutex::default(),
        }
    }

    /// Its directory, or why there is none, for people.
    pub(super) fn path(&self) -> Result<PathBuf, String> {
        let mut lifecycle = self.lifecycle();
        if matches!(*lifecycle, Lifecycle::Unmade) {
            *lifecycle = Lifecycle::Made(Cgroup::create(&self.limits));
        }
        match &*lifecycle {
            Lifecycle::Made(Ok(group)) => Ok(group.path().to_owned()),
            Lifecycle::Made(Err(why)) => Err(why.clone()),
            Lifecycle::Unmade | Lifecycle::Removed => Err("the runner is shut down".to_owned()),
        }
    }

    /// Removes it, with everything in it.
    pub(super) fn remove(&self) {
        *self.lifecycle() = Lifecycle::Removed;
    }

    fn lifecycle(&self) -> MutexGuard<'_, Lifecycle> {
        self.lifecycle.lock().unpoisoned()
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
