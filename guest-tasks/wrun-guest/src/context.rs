//! What a task knows about itself, and how its host reaches it.

use crate::bindings::wasi::io::poll::Pollable;
use crate::bindings::wrun::task::context as abi;
use std::time::Duration;

pub use abi::Mode;

/// What a task knows about itself.
#[derive(Clone, Debug)]
pub struct Info {
    /// Unique within one runner, from 1.
    pub task_id: u64,
    /// 1 for the first attempt, 2 for the first retry.
    pub attempt: u32,
    /// Where it runs: for information, no task should behave otherwise for it.
    pub mode: Mode,
    /// What it was submitted as.
    pub name: String,
    /// Until its deadline; none without one.
    pub remaining: Option<Duration>,
}

/// As of now.
#[must_use]
pub fn info() -> Info {
    let info = abi::info();
    Info {
        task_id: info.task_id,
        attempt: info.attempt,
        mode: info.mode,
        name: info.name,
        remaining: info.remaining_ns.map(Duration::from_nanos),
    }
}

/// True once the host asked the task to stop. Whoever sees it should return soon.
#[must_use]
pub fn cancelled() -> bool {
    abi::cancelled()
}

/// Ready once [`cancelled`] is true; for [`poll`](crate::poll).
#[must_use]
pub fn subscribe_cancelled() -> Pollable {
    abi::subscribe_cancelled()
}

/// Tells the host how far the task is; it sees the latest value, not every one.
pub fn progress(done: u64, total: Option<u64>) {
    abi::progress(done, total);
}
