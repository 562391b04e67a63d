//! `wrun:task/context`: what a task knows about itself.

use super::Ports;
use super::bindings::wrun::task::context::{Host as ContextHost, Mode as AbiMode, TaskInfo};
use crate::deadline::Deadline;
use crate::host::Host;
use crate::port::Transport;
use crate::services::{NoServices, Services};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
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

impl ContextHost for Host {
    fn info(&mut self) -> wasmtime::Result<TaskInfo> {
        let context = &self.context;
        let remaining = context
            .deadline
            .map(|deadline| u64::try_from(deadline.left().as_nanos()).unwrap_or(u64::MAX));
        Ok(TaskInfo {
            task_id: context.task_id,
            attempt: context.attempt,
            mode: match context.mode {
                Mode::Thread => AbiMode::Thread,
                Mode::Process => AbiMode::Process,
            },
            name: context.name.clone(),
            remaining_ns: remaining,
        })
    }

    fn cancelled(&mut self) -> wasmtime::Result<bool> {
        Ok(self.context.cancel.is_cancelled())
    }

    fn subscribe_cancelled(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        let token = self.context.cancel.clone();
        let table = wasmtime_wasi::WasiView::ctx(self).table;
        let cancelled = table.push(Cancelled(token))?;
        subscribe(table, cancelled)
    }

    fn progress(&mut self, done: u64, total: Option<u64>) -> wasmtime::Result<()> {
        (self.context.progress)(Progress { done, total });
        Ok(())
    }
}

/// Ready once the task is asked to stop.
struct Cancelled(CancellationToken);

#[async_trait::async_trait]
impl Pollable for Cancelled {
    async fn ready(&mut self) {
        self.0.cancelled().await;
    }
}
