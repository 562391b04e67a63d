//! The context that a runner gives to a run, beside its settings.

use super::ports::Ports;
use crate::deadline::Deadline;
use crate::port::Transport;
use crate::services::{NoServices, Services};
use crate::token::Token;
use std::sync::Arc;
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

/// Takes the latest progress, if anybody watches it.
pub type OnProgress = Option<Arc<dyn Fn(Progress) + Send + Sync>>;

/// The data behind `context`.
pub struct TaskContext {
    pub task_id: u64,
    pub attempt: u32,
    pub mode: Mode,
    pub name: String,
    pub deadline: Option<Deadline>,
    /// Cancelled when the host requests the task to stop.
    pub cancel: Token,
    pub progress: OnProgress,
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
            cancel: Token::new(),
            progress: None,
            ports: Ports::new(transport, None),
            services: Arc::new(NoServices),
        }
    }
}
