//! Options for limits that several subcommands have.

use super::values::{duration, size, some_size, whole};
use super::{Failure, exit, text};
use clap::Args;
use std::time::Duration;
use wrun::{Builder, Limits};

/// The limits of compiling a task.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct CompilingArgs {
    /// Limit the time to compile the task [default: 6s for each MiB of its file, at least
    /// 60s, at most 30min]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) compile_timeout: Option<Duration>,

    /// Limit the memory to compile the task [default: 64 times the size of its file, at
    /// least 2GiB, at most 16GiB; in thread mode unlimited unless this or --compile-timeout
    /// is given]
    #[arg(long, value_name = "SIZE", value_parser = some_size)]
    pub(crate) compile_memory: Option<u64>,
}

impl CompilingArgs {
    pub(super) fn apply(self, mut builder: Builder) -> Builder {
        if let Some(time) = self.compile_timeout {
            builder = builder.compile_timeout(time);
        }
        if let Some(bytes) = self.compile_memory {
            builder = builder.compile_memory(bytes);
        }
        builder
    }
}

/// The limits of child tasks.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ChildArgs {
    /// Limit the child tasks that run at the same time, on all levels together: 0 to 4096
    /// [default: 64]
    #[arg(
        long,
        value_name = "N",
        value_parser = whole::<u32>(0..=Limits::MAX_TASKS.into())
    )]
    pub(crate) max_tasks: Option<u32>,

    /// Limit the levels of child tasks below the task: 0 to 64 [default: 8]
    #[arg(
        long,
        value_name = "N",
        value_parser = whole::<u32>(0..=Limits::MAX_DEPTH.into())
    )]
    pub(crate) max_depth: Option<u32>,

    /// Limit the linear memory of the task and all its child tasks together, each counted
    /// with its whole --max-memory [default: 8GiB, or --max-memory if that is more]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_total_memory: Option<u64>,
}

impl ChildArgs {
    /// Sets them; `max_memory` of the task must be set before.
    pub(super) fn apply(self, limits: &mut Limits) {
        limits.max_tasks = self.max_tasks.unwrap_or(limits.max_tasks);
        limits.max_depth = self.max_depth.unwrap_or(limits.max_depth);
        let total = limits.max_total_memory.max(limits.max_memory);
        limits.max_total_memory = self.max_total_memory.unwrap_or(total);
    }

    /// Before anything is loaded: a task counts with all its memory.
    pub(super) fn check(self, max_memory: Option<u64>) -> Result<(), Failure> {
        let memory = max_memory.unwrap_or(Limits::default().max_memory);
        match self.max_total_memory {
            Some(total) if total < memory => {
                let [total, memory] = [total, memory].map(text::memory);
                let message = format!(
                    "--max-total-memory ({total}) must not be less than --max-memory ({memory}): \
                     --max-memory limits the task alone, --max-total-memory the task and all its \
                     child tasks together"
                );
                Err(Failure::new(exit::USAGE, message))
            }
            _ => Ok(()),
        }
    }
}
