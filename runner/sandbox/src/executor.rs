//! The one interface between the runner and the modes. Two implementations: `thread` and
//! `process`.

use crate::InputKind;
use crate::deadline::Deadline;
use crate::http::Exchange;
use crate::port::{Port, Transport};
use crate::region::Ledger;
use crate::services::TaskServices;
use crate::token::Token;
use crate::{Artifact, OnProgress, RunResult, Sink};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use wrun_types::config::Start;
use wrun_types::error::Error;
use wrun_types::jail_report::JailReport;
use wrun_types::report::Usage;
use wrun_types::spec::Spec;
use wrun_types::worker_stats::WorkerStats;

/// A mode: prepares artifacts, and ends what it keeps for them.
pub trait Executor: Send + Sync {
    /// Compiles and links an artifact of this runner, unless that was done before. Blocks
    /// while it compiles.
    fn prepare(&self, artifact: &Artifact, metered: bool) -> Result<Arc<dyn Runnable>, Error>;

    /// How tasks communicate in this mode.
    fn transport(&self) -> &Transport;

    /// The regions of its tasks and of their host.
    fn ledger(&self) -> &Arc<Ledger>;

    /// Its worker processes; `None` where it has none.
    fn workers(&self) -> Option<WorkerStats> {
        None
    }

    /// Ends everything that is not a running attempt: idle workers, threads.
    fn close(&self);
}

/// An artifact that is ready to run in a mode, any number of times at once.
#[async_trait::async_trait]
pub trait Runnable: Any + Send + Sync {
    /// Runs one attempt to its end. Dropping the future ends the attempt and leaves nothing
    /// of it behind.
    async fn execute(&self, job: Box<Job>) -> Result<Executed, Error>;

    /// Whether it can observe cancellation.
    fn observes_cancellation(&self) -> bool;
}

/// One attempt at one task.
pub struct Job {
    pub task_id: u64,
    pub attempt: u32,
    pub artifact: Artifact,
    pub spec: Arc<Spec>,
    pub deadline: Option<Deadline>,
    pub stdin: InputKind,
    pub stdout: Sink,
    pub stderr: Sink,
    /// The HTTP request that the task answers.
    pub exchange: Option<Box<Exchange>>,
    /// Requests the task to stop.
    pub cancel: Token,
    /// Ends the task.
    pub kill: Token,
    pub progress: OnProgress,
    /// What the task gets from `ports.parent`.
    pub port: Option<Port>,
    /// Serves the requests of the task.
    pub services: Arc<dyn TaskServices>,
    /// Nothing has to be polled beside it on its thread, such as a request that it stops.
    pub alone: bool,
}

impl Job {
    pub fn metered(&self) -> bool {
        self.spec.limits.fuel.is_some()
    }
}

/// The result of an attempt.
pub struct Executed {
    pub result: RunResult,
    /// From the attempt's start until a sandbox was being made: starting a worker and
    /// exchanging messages with it. Zero in thread mode.
    pub overhead: Duration,
    pub worker_pid: Option<u32>,
    /// The kernel's accounting for the worker.
    pub usage: Option<Usage>,
    /// The worker's walls, if it reported them.
    pub jail: Option<Arc<JailReport>>,
    /// How the worker was started.
    pub start: Option<Start>,
    /// Facts for people that are not failures.
    pub notes: Vec<String>,
}

impl Executed {
    /// An end without a worker, and without further information.
    pub fn new(result: RunResult) -> Self {
        Executed {
            result,
            overhead: Duration::ZERO,
            worker_pid: None,
            usage: None,
            jail: None,
            start: None,
            notes: Vec::new(),
        }
    }
}
