//! How many processes there are, and how many there were.
//!
//! Invariant: a process is counted from when it is ready until its owner lets go of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use wrun_sys::Unpoisoned;
use wrun_types::worker_stats::WorkerStats;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Worker,
    Zygote,
}

/// The processes of a runner.
#[derive(Debug, Default)]
pub(super) struct Census {
    /// By a number of their own, with their process id if it is known here.
    alive: Mutex<HashMap<u64, (Kind, Option<u32>)>>,
    next: AtomicU64,
    started: AtomicU64,
    restarted: AtomicU64,
}

/// Held with a process.
#[derive(Debug)]
pub(super) struct Counted {
    census: Arc<Census>,
    number: u64,
}

impl Census {
    /// A process is ready.
    pub(super) fn enter(self: &Arc<Self>, kind: Kind, pid: Option<u32>) -> Counted {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if kind == Kind::Worker {
            self.started.fetch_add(1, Ordering::Relaxed);
        }
        self.alive.lock().unpoisoned().insert(number, (kind, pid));
        Counted {
            census: self.clone(),
            number,
        }
    }

    /// A process died, and nothing had ended it.
    pub(super) fn died(&self) {
        self.restarted.fetch_add(1, Ordering::Relaxed);
    }

    /// What is counted here; idle workers are not.
    pub(super) fn stats(&self) -> WorkerStats {
        let alive: Vec<_> = {
            let alive = self.alive.lock().unpoisoned();
            alive.values().copied().collect()
        };
        let mut stats = WorkerStats::default();
        stats.alive = alive.iter().filter(|it| it.0 == Kind::Worker).count();
        stats.zygotes = alive.len() - stats.alive;
        stats.started = self.started.load(Ordering::Relaxed);
        stats.restarted = self.restarted.load(Ordering::Relaxed);
        let pids = alive.iter().filter_map(|(_, pid)| *pid);
        stats.memory_bytes = pids.filter_map(resident).sum();
        stats
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.census.alive.lock().unpoisoned().remove(&self.number);
    }
}

/// The resident memory of a process in bytes: the second number of its `statm`.
fn resident(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_counted_while_they_are_held() {
        let census = Arc::new(Census::default());
        let own = census.enter(Kind::Worker, Some(std::process::id()));
        let other = census.enter(Kind::Worker, None);
        let zygote = census.enter(Kind::Zygote, None);
        let stats = census.stats();
        assert_eq!((stats.alive, stats.zygotes, stats.started), (2, 1, 2));
        // This test's own: more than its code, and less than the machine has.
        assert!(stats.memory_bytes > 1 << 20, "{stats:?}");
        drop((own, other));
        census.died();
        let stats = census.stats();
        assert_eq!((stats.alive, stats.zygotes, stats.started), (0, 1, 2));
        assert_eq!((stats.restarted, stats.memory_bytes), (1, 0));
        drop(zygote);
        assert_eq!(census.stats().zygotes, 0);
    }
}
