//! `wrun:task/context`: what a task knows about itself.

use super::bindings::wrun::task::context::{Host as ContextHost, Mode as AbiMode, TaskInfo};
use crate::host::{Host, Progress};
use crate::token::Token;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wrun_types::config::Mode;

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
        let table = self.wasi.table();
        let cancelled = table.push(Cancelled(token))?;
        subscribe(table, cancelled)
    }

    fn progress(&mut self, done: u64, total: Option<u64>) -> wasmtime::Result<()> {
        if let Some(tell) = &self.context.progress {
            tell(Progress { done, total });
        }
        Ok(())
    }
}

/// Ready once the task is cancelled.
struct Cancelled(Token);

#[async_trait::async_trait]
impl Pollable for Cancelled {
    async fn ready(&mut self) {
        self.0.cancelled().await;
    }
}
