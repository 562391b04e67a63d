//! The worker processes of a runner, as numbers.

/// The worker processes of a runner in process mode, at one moment; totals since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Worker processes: those that run a task, and idle ones.
    pub alive: usize,
    /// Of those, idle ones that have not run a task.
    pub spares: usize,
    /// Of those, idle ones that have run a task and may run more (`ProcessOptions::reuse`).
    pub reusable: usize,
    /// Processes that fork workers, one for each artifact and kind of grants in use.
    pub zygotes: usize,
    /// Worker processes that were started.
    pub started: u64,
    /// Processes that died without having been ended, and were replaced or are when the next
    /// task needs one: workers under a task or idle, and zygotes.
    pub restarted: u64,
    /// Resident memory of workers and zygotes in bytes, as the kernel counts it: pages that
    /// several of them share (compiled code, what a zygote prepared) are counted for each.
    pub memory_bytes: u64,
}
