//! The context that a runner gives to a run, beside its settings.

use super::ports::Ports;
use crate::deadline::Deadline;
use crate::port::Transport;
use crate::services::{NoServices, Services};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use wrun_types::config::Mode;

/// The progress that a task reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// Units done so far.
    pub done: u64,
    /// Total of units, if the task knows it.
    pub total: Option<u64>,
}

/// The data behind `context`.
pub struct TaskContext {
    pub task_id: u64,
    pub attempt: u32,
    pub mode: Mode,
    pub name: String,
    pub deadline: Option<Deadline>,
    /// Cancelled when the host requests the task to stop.
    pub cancel: CancellationToken,
    /// Takes the latest progress.
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
    pub ports: Ports,
    /// Serves the requests of the task to its runner.
    pub services: Arc<dyn Services>,
}

impl TaskContext {
    /// For a guest that never runs.
    pub fn of_nobody(mode: Mode, transport: Transport) -> Self {
        TaskContext {
            task_id: 0,
            attempt: 1,
            mode,
            name: String::new(),
            deadline: None,
            cancel: CancellationToken::new(),
            progress: Arc::new(|_| {}),
            ports: Ports::new(transport, None),
            services: Arc::new(NoServices),
        }
    }
}
