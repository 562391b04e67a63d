//! What `wrun-compare` uses beside the public API: floors to measure against, and faults
//! that the host of a task makes on order. No public API: it changes with any version, and
//! only the feature `measure` has it.

use crate::{Artifact, Builder, Error, Runner, Task};
use std::path::PathBuf;
use std::sync::Arc;

pub use wrun_sandbox::deadline;
pub use wrun_sandbox::{
    Allocation, Bare, BareError, Checks, Code, Held, compile, read, runtime,
    single_threaded_runtime,
};
#[cfg(feature = "http")]
pub use wrun_sandbox::{WholeRequest, WholeResponse};
pub use wrun_types::injection::{Injection, InjectionResult, Whose};
pub use wrun_types::spec::Spec;

/// Processes that a comparison starts.
pub mod process {
    pub use wrun_process::AS_ROOT;
    pub use wrun_process::measure::*;
}

/// System calls that a comparison makes.
pub mod sys {
    pub use wrun_sys::{
        Alone, End, FileId, Forked, Program, ToMap, Unpoisoned, Whom, children_usage,
        end_of_reaped, exit_now, map_own_code, null, own_usage, thread_cpu, wait,
    };
}

/// A task whose host does this in the guest's place: it says by its progress that it is
/// ready, and waits until the task is cancelled.
pub fn injecting(mut task: Task, act: Injection) -> Task {
    Arc::make_mut(&mut task.spec).injection = Some(act);
    task
}

/// The settings of a task.
pub fn spec(task: Task) -> Spec {
    Arc::unwrap_or_clone(task.spec)
}

/// The compiled code of an artifact.
///
/// # Errors
///
/// As [`Runner::load`].
pub fn code(runner: &Runner, artifact: &Artifact) -> Result<Arc<Code>, Error> {
    runner.core.code(artifact)
}

/// How many tasks and hosts wait for a named lock.
pub fn locks_waited_for(runner: &Runner) -> usize {
    runner.core.starter.shared.locks.waiting()
}

/// The program that was named for workers; none where it is this one.
///
/// # Errors
///
/// It does not exist.
pub fn named_worker(builder: &Builder) -> Result<Option<PathBuf>, Error> {
    builder.named_worker()
}

/// The program that workers are.
///
/// # Errors
///
/// There is none.
pub fn worker_program(builder: &Builder) -> Result<PathBuf, Error> {
    let named = builder.named_worker()?;
    Ok(wrun_process::worker_program(named.as_deref())?)
}
