//! The one interface between the runner and where tasks run. Two
//! implementations: [`thread`](crate::thread) and [`process`](crate::process).

use crate::config::Start;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::jail_report::JailReport;
use crate::outcome::Crash;
use crate::port::{Port, Transport};
use crate::region::Ledger;
use crate::report::Usage;
use crate::sandbox::{Artifact, Fate, Progress, Sink};
use crate::services::TaskServices;
use crate::spec::{InputKind, Spec};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Runs admitted tasks, any number at the same time.
#[async_trait::async_trait]
pub(crate) trait Executor: Send + Sync {
    /// Runs one attempt to its end. Dropping the future ends the attempt and
    /// leaves nothing of it behind.
    async fn execute(&self, job: Job) -> Result<Executed, Error>;

    /// Compiles and links ahead of the first run. Blocks for as long as
    /// compiling takes.
    fn prepare(&self, artifact: &Artifact, metered: bool) -> Result<(), Error>;

    /// Whether what was prepared can learn that it is asked to stop.
    fn listens(&self, artifact: &Artifact, metered: bool) -> bool;

    /// How tasks talk here.
    fn transport(&self) -> &Transport;

    /// The regions of its tasks and of their host.
    fn ledger(&self) -> &Arc<Ledger>;

    /// Ends everything that is not a running attempt: idle workers, threads.
    fn close(&self);
}

/// One attempt at one task.
pub(crate) struct Job {
    pub(crate) task_id: u64,
    pub(crate) attempt: u32,
    pub(crate) artifact: Artifact,
    pub(crate) spec: Arc<Spec>,
    pub(crate) deadline: Option<Deadline>,
    pub(crate) stdin: InputKind,
    pub(crate) stdout: Sink,
    pub(crate) stderr: Sink,
    /// The host asks the task to stop.
    pub(crate) cancel: CancellationToken,
    /// The host ends the task.
    pub(crate) kill: CancellationToken,
    pub(crate) progress: Arc<dyn Fn(Progress) + Send + Sync>,
    /// What the task gets from `ports.parent`.
    pub(crate) port: Option<Port>,
    /// Answers what the task asks.
    pub(crate) services: Arc<dyn TaskServices>,
}

impl Job {
    pub(crate) fn metered(&self) -> bool {
        self.spec.limits.fuel.is_some()
    }
}

/// What came of an attempt.
pub(crate) struct Executed {
    pub(crate) fate: Result<Fate, Crash>,
    /// From the attempt's start until a sandbox was under way: starting a worker
    /// and speaking to it. Zero in thread mode.
    pub(crate) overhead: Duration,
    pub(crate) worker_pid: Option<u32>,
    /// The kernel's count for the worker.
    pub(crate) usage: Option<Usage>,
    /// The worker's walls, as far as it told.
    pub(crate) jail: Option<Arc<JailReport>>,
    /// How the worker came to be.
    pub(crate) start: Option<Start>,
    /// What people should know, and is no failure.
    pub(crate) notes: Vec<String>,
}

impl Executed {
    /// An end without a worker, and without more to tell.
    pub(crate) fn new(fate: Result<Fate, Crash>) -> Self {
        Executed {
            fate,
            overhead: Duration::ZERO,
            worker_pid: None,
            usage: None,
            jail: None,
            start: None,
            notes: Vec::new(),
        }
    }
}
