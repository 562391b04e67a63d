//! What a run is given by its runner, beside its settings.

use super::ports::Ports;
use crate::deadline::Deadline;
use crate::port::Transport;
use crate::services::{NoServices, Services};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use wrun_types::config::Mode;

/// How far a task says it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// Units done so far.
    pub done: u64,
    /// Units altogether, where the task knows.
    pub total: Option<u64>,
}

/// What `context` answers from.
pub struct TaskContext {
    pub task_id: u64,
    pub attempt: u32,
    pub mode: Mode,
    pub name: String,
    pub deadline: Option<Deadline>,
    /// Cancelled when the host asks the task to stop.
    pub cancel: CancellationToken,
    /// Takes the latest progress.
    pub progress: Arc<dyn Fn(Progress) + Send + Sync>,
    pub ports: Ports,
    /// What the task may ask its runner for.
    pub services: Arc<dyn Services>,
}

impl TaskContext {
    /// That of a guest which never runs.
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
