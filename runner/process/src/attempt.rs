//! One task in one worker, from order to outcome: the supervisor's side.
//!
//! A task goes through these phases, each in a file of its own:
//!
//! ```text
//! take      a worker of the pool
//! order     the frame, its descriptors, and what the runner keeps of them
//! outbox    to the worker: order, cancellation, responses      ┐ at the same
//! watch     from the worker: what it says, its output, its end ┘ time
//! settle    how it ended, and whether the worker is used again
//! ```
//!
//! One future watches everything about the worker at once: its messages, its output, its
//! input, the kill, the backstop of the deadline. Invariant: it ends with exactly one
//! outcome, whatever the worker does, and the worker is then killed and reaped.

mod order;
mod outbox;
mod settle;
mod watch;

use super::error::ProcessError;
use super::http::{Fetches, Responding};
use super::plain::Plain;
use super::pool::{NoWorker, Pool, Taken};
use super::requests::Responder;
use super::trace;
use super::worker::Worker;
use order::{Ready, Streams};
use outbox::Outbox;
use settle::Supervised;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;
use watch::{Feeding, Seen, Watch};
use wrun_sandbox::deadline::{Deadline, until};
use wrun_sandbox::executor::{Executed, Job};
use wrun_sandbox::services::TaskServices;
use wrun_sandbox::token::Token;
use wrun_sandbox::{CodeError, LoadError, OnProgress, RunResult, Sink};
use wrun_types::error::{Error, ErrorKind};
use wrun_types::limits::Limit;
use wrun_types::outcome::Outcome;
use wrun_types::spec::Spec;

/// Runs `job` in a worker of `pool`. With `may_request` it may send requests to its runner.
/// `renew` compiles the code again if the worker's engine does not accept it.
pub(super) async fn run(
    pool: &Arc<Pool>,
    job: Box<Job>,
    may_request: bool,
    renew: impl FnOnce(CodeError) -> Result<(), LoadError> + Send + 'static,
) -> Result<Executed, Error> {
    let began = Instant::now();
    let stopped = |result| Executed {
        overhead: began.elapsed(),
        ..Executed::new(result)
    };
    let Taken { worker, note } = match take(pool, Terms::of(&job), Plain::of(&job), renew).await? {
        Ok(taken) => taken,
        Err(outcome) => return Ok(stopped(RunResult::imposed(outcome))),
    };
    let start = worker.life.start();
    let jail = worker.life.jail();
    let overhead = began.elapsed();
    let (task, attempt) = (job.task_id, job.attempt);
    trace::started(attempt, worker.life.id(), start, overhead);
    pool.tend();
    let supervised = supervise(worker, job, may_request).await;
    let ended = began.elapsed();
    let supervised = supervised.inspect_err(|_| pool.tend())?;
    let Supervised {
        result,
        usage,
        pid,
        reusable,
    } = supervised;
    if let Outcome::Crashed(crash) = &result.outcome {
        trace::crashed(task, attempt, pid, crash);
    }
    // The time before the worker was first watched belongs to its task.
    let of_task = result.start.saturating_add(result.run);
    let overhead = overhead.min(ended.saturating_sub(of_task));
    if !matches!(result.outcome, Outcome::Crashed(_)) {
        pool.give_back(reusable);
    }
    pool.tend();
    Ok(Executed {
        overhead,
        worker_pid: pid,
        usage,
        jail: Some(jail),
        start: Some(start),
        notes: note.into_iter().collect(),
        ..Executed::new(result)
    })
}

/// The parts of a job that its supervision needs: all but its input and its port, which are
/// not `Sync`.
#[derive(Clone, Copy)]
struct Terms<'a> {
    task_id: u64,
    attempt: u32,
    spec: &'a Arc<Spec>,
    deadline: Option<Deadline>,
    stdout: &'a Sink,
    stderr: &'a Sink,
    kill: &'a Token,
    progress: &'a OnProgress,
    services: &'a Arc<dyn TaskServices>,
}

impl<'a> Terms<'a> {
    fn of(job: &'a Job) -> Self {
        Terms {
            task_id: job.task_id,
            attempt: job.attempt,
            spec: &job.spec,
            deadline: job.deadline,
            stdout: &job.stdout,
            stderr: &job.stderr,
            kill: &job.kill,
            progress: &job.progress,
            services: &job.services,
        }
    }
}

/// Takes a worker for `job`; or returns how the job ended while it waited for one.
async fn take(
    pool: &Arc<Pool>,
    job: Terms<'_>,
    plain: Option<Plain>,
    renew: impl FnOnce(CodeError) -> Result<(), LoadError> + Send + 'static,
) -> Result<Result<Taken, Outcome>, Error> {
    let mut renew = Some(renew);
    loop {
        let taken = tokio::select! {
            biased;
            taken = pool.take(job.spec, plain.as_ref()) => taken,
            () = job.kill.cancelled() => return Ok(Err(Outcome::Cancelled)),
            () = until(job.deadline) => {
                return Ok(Err(Outcome::LimitExceeded(Limit::Deadline)));
            }
        };
        match taken {
            Ok(taken) => return Ok(Ok(taken)),
            Err(NoWorker::Error(error)) => return Err(error.into()),
            Err(NoWorker::Stale(message)) => {
                let Some(renew) = renew.take() else {
                    let message = format!("the worker cannot load the task: {message}");
                    return Err(ProcessError::Refused { message }.into());
                };
                trace::refused(job.task_id, &message);
                let renewed =
                    tokio::task::spawn_blocking(move || renew(CodeError::Engine(message)));
                renewed
                    .await
                    .map_err(|_| Error::new(ErrorKind::System, "compiling was interrupted"))??;
            }
        }
    }
}

/// A task and the worker that has its order.
struct Attempt<'a> {
    job: Terms<'a>,
    worker: Worker,
    /// The worker's process number, if it was known before the order was sent.
    pid: Option<u32>,
    /// When the order was sent.
    ordered: Instant,
    streams: Streams,
    /// `None` if the task imports no interface with requests.
    requests: Option<Responder>,
    /// Only bytes were passed to the worker, no descriptors.
    self_contained: bool,
    /// What the task answers to its request, if it has one.
    response: Option<Responding>,
    /// The HTTP requests that the task sends, if it may.
    fetches: Option<Fetches>,
}

async fn supervise(
    mut worker: Worker,
    mut job: Box<Job>,
    may_request: bool,
) -> Result<Supervised, Error> {
    let pid = worker.life.id();
    worker
        .memory
        .get_or_insert_with(|| crate::memory_of_a_process(&job.spec));
    let ready = Ready::new(
        &mut job,
        worker.life.owners().as_deref(),
        worker.sent_order.take(),
    )?;
    let Ready {
        order,
        descriptors,
        feed,
        streams,
        self_contained,
        exchange,
    } = ready;
    let (request, response) = exchange.unzip();
    let (requests, responses) = may_request
        .then(|| Responder::new(job.services.clone(), job.spec.limits.max_tasks))
        .unzip();
    let (fetches, fetched) = (!job.spec.http.is_empty())
        .then(|| Fetches::new(job.task_id, job.services.clone()))
        .unzip();
    let terms = Terms::of(&job);
    let mut attempt = Attempt {
        job: terms,
        worker,
        pid,
        ordered: order.at,
        streams,
        requests,
        self_contained,
        response,
        fetches,
    };
    let seen = {
        let (failed, failures) = mpsc::channel(1);
        let worker = &mut attempt.worker;
        let outbox = Outbox::new(
            &mut worker.orders,
            &job.cancel,
            failures,
            responses,
            request,
            fetched,
        );
        let watch = Watch {
            job: terms,
            life: &mut worker.life,
            says: &mut worker.says,
            streams: &mut attempt.streams,
            requests: &mut attempt.requests,
            response: &mut attempt.response,
            fetches: &mut attempt.fetches,
            input: Feeding::new(feed, failed),
            putting: None,
        };
        watch.run(outbox.run(order, descriptors)).await
    };
    attempt.settle(seen).await
}
