//! What a runner is doing, as numbers.

use crate::runner::Runner;
use wrun_types::worker_stats::WorkerStats;

/// What a [`Runner`] is doing at one moment; see [`Runner::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunnerStats {
    /// Submitted tasks that wait for a permit to run: the length of the queue.
    pub queued: usize,
    /// Submitted tasks that have a permit: at most
    /// [`max_running`](crate::Builder::max_running).
    pub running: usize,
    /// Tasks that were started by other tasks and run: at most
    /// [`max_children`](crate::Builder::max_children).
    pub children: usize,
    /// Task files that are being compiled, as [`Runner::compiling`].
    pub compiling: usize,
    /// The worker processes; `None` in thread mode.
    pub workers: Option<WorkerStats>,
}

impl Runner {
    /// What this runner is doing. For monitoring: the numbers are read one after another while
    /// tasks go on. No task waits for it; in process mode it reads a file of `/proc` for each
    /// worker process. All are zero in a fork of the process that made the runner.
    ///
    /// ```
    /// use wrun::{Mode, Runner};
    ///
    /// let runner = Runner::builder().mode(Mode::Thread).build()?;
    /// let stats = runner.stats();
    /// assert_eq!((stats.queued, stats.running), (0, 0));
    /// assert!(stats.workers.is_none());
    /// # Ok::<(), wrun::Error>(())
    /// ```
    pub fn stats(&self) -> RunnerStats {
        let core = &self.core;
        if !core.made_in.is_current() {
            return RunnerStats::default();
        }
        let in_use = |most: usize, semaphore: &tokio::sync::Semaphore| {
            most.saturating_sub(semaphore.available_permits())
        };
        let config = &core.config;
        let running = in_use(config.max_running, &core.starter.permits);
        RunnerStats {
            queued: core.admission.count().saturating_sub(running),
            running,
            children: in_use(config.max_children, &core.starter.child_permits),
            compiling: self.compiling(),
            workers: core.executor.workers(),
        }
    }
}
