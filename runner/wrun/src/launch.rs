//! A task's way from the queue to its end. The same for a task that an embedder submitted
//! and for one that another task started.
//!
//! Invariant: a task that has passed its deadline, or is to stop, before it runs, never
//! runs.

use crate::children::{Children, Tree};
use crate::provider::{Provider, SharedState};
use crate::retry::Retry;
use crate::thread::Linked;
use crate::trace;
use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use wrun_sandbox::deadline::{Deadline, until};
use wrun_sandbox::executor::{Executed, Executor, Job, Runnable};
use wrun_sandbox::http::Exchange;
use wrun_sandbox::port::Port;
use wrun_sandbox::stop::Stop;
use wrun_sandbox::token::Token;
use wrun_sandbox::{Artifact, InputKind, OnProgress, RunResult, Sink};
use wrun_types::config::Mode;
use wrun_types::error::Error;
use wrun_types::limits::Limit;
use wrun_types::outcome::Outcome;
use wrun_types::spec::Spec;

/// The parts of a runner that starting a task needs.
pub(crate) struct Starter {
    pub(crate) executor: Arc<dyn Executor>,
    /// The next id of a submitted task or a child.
    pub(crate) next_id: AtomicU64,
    /// Permits for submitted tasks that run.
    pub(crate) permits: Arc<Semaphore>,
    /// Permits for children that run, over all trees.
    pub(crate) child_permits: Arc<Semaphore>,
    pub(crate) shared: Arc<SharedState>,
    pub(crate) mode: Mode,
}

/// The arguments of starting a task.
pub(crate) struct Request {
    pub(crate) artifact: Artifact,
    pub(crate) spec: Arc<Spec>,
    pub(crate) input: InputKind,
    pub(crate) stdout: Sink,
    pub(crate) stderr: Sink,
    pub(crate) exchange: Option<Box<Exchange>>,
    pub(crate) port: Option<Port>,
    pub(crate) progress: OnProgress,
    pub(crate) deadline: Option<Deadline>,
    /// Requests the task to stop.
    pub(crate) cancel: Token,
    /// Ends the task.
    pub(crate) kill: Token,
    pub(crate) grace: Duration,
    /// Maximum of new attempts after a crash.
    pub(crate) retries: u32,
    /// The tree of the task and its depth in it, if it may start children.
    pub(crate) tree: Option<(Arc<Tree>, u32)>,
    pub(crate) permit: RunPermit,
}

/// A task that was started.
pub(crate) struct Launch {
    pub(crate) job: Box<Job>,
    pub(crate) stop: Stop,
    /// The services of the job.
    pub(crate) provider: Arc<Provider>,
    pub(crate) submitted: Instant,
    /// The span of everything that is done for the task.
    pub(crate) span: tracing::Span,
    retries: u32,
    permit: RunPermit,
}

/// The result of a task.
pub(crate) struct Ran {
    /// Time until it acquired its permit and its code was available.
    pub(crate) queue: Duration,
    /// The last attempt, from 1.
    pub(crate) attempt: u32,
    pub(crate) executed: Executed,
    /// Its permit; `None` if it never acquired one.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    pub(crate) artifact: Artifact,
}

/// A permit to run, in the order of submission.
pub(crate) enum RunPermit {
    Acquired(OwnedSemaphorePermit),
    Queued(Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>),
}

impl RunPermit {
    /// Queues for a permit now: tasks run in the order of these calls, whichever of them
    /// waits first.
    pub(crate) fn queue(permits: &Arc<Semaphore>) -> Self {
        // While others wait no permit is available.
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return RunPermit::Acquired(permit);
        }
        let mut permit = Box::pin(permits.clone().acquire_owned());
        // The semaphore keeps the order of the first polls.
        let mut cx = Context::from_waker(Waker::noop());
        match permit.as_mut().poll(&mut cx) {
            Poll::Ready(acquired) => RunPermit::Queued(Box::pin(std::future::ready(acquired))),
            Poll::Pending => RunPermit::Queued(permit),
        }
    }

    async fn acquired(self) -> Result<OwnedSemaphorePermit, AcquireError> {
        match self {
            RunPermit::Acquired(permit) => Ok(permit),
            RunPermit::Queued(queued) => queued.await,
        }
    }
}

impl Starter {
    /// Gives a task its id, its services and its controls.
    pub(crate) fn launch(self: &Arc<Self>, request: Request) -> Launch {
        let Request {
            artifact,
            spec,
            input,
            stdout,
            stderr,
            exchange,
            port,
            progress,
            deadline,
            cancel,
            kill,
            grace,
            retries,
            tree,
            permit,
        } = request;
        let stop = Stop {
            requested: Token::new(),
            cancel: cancel.clone(),
            kill: kill.clone(),
            grace,
        };
        let children = tree.map(|(tree, depth)| {
            let limits = spec.limits.clone();
            Children::new(self.clone(), tree, depth, limits, deadline, &stop, &stderr)
        });
        let provider = Arc::new(Provider::new(children, self.shared.clone(), &spec));
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        Launch {
            span: trace::task(id, &spec.name, &artifact, self.mode),
            job: Box::new(Job {
                task_id: id,
                attempt: 1,
                artifact,
                spec,
                deadline,
                stdin: input,
                stdout,
                stderr,
                exchange,
                cancel,
                kill,
                progress,
                port,
                services: provider.clone(),
                alone: false,
            }),
            stop,
            provider,
            submitted: Instant::now(),
            retries,
            permit,
        }
    }
}

impl Launch {
    /// Waits for its permit, prepares its artifact, and runs it, again if it crashes and
    /// may be retried.
    ///
    /// # Errors
    ///
    /// It could not be run.
    pub(crate) async fn run(self, executor: &Arc<dyn Executor>) -> Result<Ran, Error> {
        let Launch {
            job,
            stop,
            submitted,
            retries,
            permit,
            ..
        } = self;
        let kill = job.kill.clone();
        let deadline = job.deadline;
        let artifact = job.artifact.clone();
        let mut ended = std::pin::pin!(async {
            tokio::select! {
                biased;
                () = kill.cancelled() => Outcome::Cancelled,
                () = stop.requested.cancelled() => Outcome::Cancelled,
                () = until(deadline) => Outcome::LimitExceeded(Limit::Deadline),
            }
        });
        let imposed = |ending, permit, artifact| Ran {
            queue: submitted.elapsed(),
            attempt: 1,
            executed: Executed::new(RunResult::imposed(ending)),
            permit,
            artifact,
        };
        let mut waited = matches!(permit, RunPermit::Queued(_));
        if waited {
            trace::queued();
        }
        let permit = tokio::select! {
            biased;
            permit = permit.acquired() => Some(permit.map_err(|_| Error::shut_down())?),
            ending = &mut ended => return Ok(imposed(ending, None, artifact)),
        };
        let metered = job.metered();
        let prepared;
        let runnable = match artifact.prepared(metered) {
            Some(runnable) => runnable,
            None => {
                waited = true;
                let (executor, of) = (executor.clone(), artifact.clone());
                let preparing = tokio::task::spawn_blocking(move || executor.prepare(&of, metered));
                prepared = tokio::select! {
                    biased;
                    prepared = preparing => prepared.map_err(|_| Error::shut_down())??,
                    ending = &mut ended => return Ok(imposed(ending, permit, artifact)),
                };
                trace::prepared(&artifact, metered);
                &prepared
            }
        };
        let queue = match waited {
            true => submitted.elapsed(),
            false => Duration::ZERO,
        };
        let observes = runnable.observes_cancellation();
        let (attempt, executed) = if retries == 0 {
            let executing = std::pin::pin!(execute(&**runnable, job));
            (1, stop.watch(observes, executing).await?)
        } else {
            let mut attempts = Box::pin(attempts(&**runnable, Retry::new(job, retries), ended));
            stop.watch(observes, attempts.as_mut()).await?
        };
        Ok(Ran {
            queue,
            attempt,
            executed,
            permit,
            artifact,
        })
    }
}

/// Runs one attempt. In thread mode without a box for its future, which takes a twentieth of the
/// time of a small task.
async fn execute(runnable: &dyn Runnable, job: Box<Job>) -> Result<Executed, Error> {
    let any: &dyn Any = runnable;
    match any.downcast_ref::<Linked>() {
        Some(linked) => linked.execute_here(job).await,
        None => runnable.execute(job).await,
    }
}

/// Runs one attempt after another until one does not crash, or no more are allowed; returns
/// the number of the last one.
async fn attempts(
    runnable: &dyn Runnable,
    mut retry: Retry,
    mut ended: Pin<&mut impl Future<Output = Outcome>>,
) -> Result<(u32, Executed), Error> {
    let mut attempt = retry.attempt();
    let mut executed = runnable.execute(retry.job()).await?;
    let mut notes = Vec::new();
    while let Outcome::Crashed(crash) = &executed.result.outcome {
        retry.let_go();
        if retry.is_spent() {
            break;
        }
        if let Some(obstacle) = retry.obstacle() {
            trace::not_retried(obstacle);
            notes.push(format!("no new attempt: {obstacle}"));
            break;
        }
        let crashed = format!("attempt {attempt} crashed: {crash}");
        let pause = retry.pause();
        trace::retrying(attempt.saturating_add(1), pause);
        tokio::select! {
            biased;
            ending = &mut ended => {
                notes.push(crashed);
                executed.result = RunResult::imposed(ending);
                break;
            }
            () = retry.asked_to_stop() => continue,
            () = tokio::time::sleep(pause) => {}
        }
        retry.begin_next();
        match runnable.execute(retry.job()).await {
            Ok(next) => {
                notes.push(crashed);
                attempt = retry.attempt();
                executed = next;
            }
            // The crash is all that is known about the task.
            Err(error) => {
                trace::not_retried(&error.to_string());
                notes.push(format!("no new attempt: {error}"));
                break;
            }
        }
    }
    notes.append(&mut executed.notes);
    executed.notes = notes;
    Ok((attempt, executed))
}
