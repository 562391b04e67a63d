//! One task in one worker, from order to outcome: the supervisor's side.
//!
//! One future watches everything about the worker at once: what it says, its
//! output, its input, the kill, the backstop of the deadline. Invariant: it ends
//! with exactly one outcome, whatever the worker does, and the worker is then
//! killed and reaped.

use super::ProcessError;
use super::pool::{LINGER, NoWorker, Pool};
use super::stream::Stream;
use super::worker::{Orders, SaysError, Streams, Worker, crash_of};
use crate::error::{Error, ErrorKind};
use crate::executor::{Executed, Job};
use crate::outcome::{Crash, Limit};
use crate::sandbox::{Code, Ending, Fate, LoadError, Source};
use crate::task::InputKind;
use crate::wire::{Done, Input, Order, RunOrder, WorkerSays};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long after the deadline a worker may take to say so itself, before it is
/// killed.
const GRACE: Duration = Duration::from_secs(1);
/// How long a task has the processors to itself before the worker that it took
/// is replaced.
const REFILL_AFTER: Duration = Duration::from_millis(2);
/// Input up to this size travels with the order.
const INLINE_INPUT: usize = 256 << 10;

/// Runs `job` in a worker of `pool`; `recompile` makes new code when the
/// worker's engine refuses what it was given.
pub(super) async fn run(
    pool: &Arc<Pool>,
    job: Job,
    recompile: impl Fn(crate::sandbox::CodeError) -> Result<Arc<Code>, LoadError>
    + Clone
    + Send
    + 'static,
) -> Result<Executed, Error> {
    let began = Instant::now();
    let stopped = |fate| Executed {
        overhead: began.elapsed(),
        ..Executed::new(fate)
    };
    let mut recompiled = false;
    let worker = loop {
        let taken = tokio::select! {
            biased;
            taken = pool.take() => taken,
            () = job.kill.cancelled() => {
                return Ok(stopped(Ok(Fate::imposed(Ending::Cancelled))));
            }
            () = until(job.deadline) => {
                let ending = Ending::LimitExceeded(Limit::Deadline);
                return Ok(stopped(Ok(Fate::imposed(ending))));
            }
        };
        match taken {
            Ok(worker) => break worker,
            Err(NoWorker::Error(error)) => return Err(error.into()),
            Err(NoWorker::Crashed(crash)) => return Ok(stopped(Err(crash))),
            Err(NoWorker::Stale(message)) if !recompiled => {
                recompiled = true;
                let recompile = recompile.clone();
                let code = tokio::task::spawn_blocking(move || {
                    recompile(crate::sandbox::CodeError::Engine(message))
                });
                let code = code
                    .await
                    .map_err(|_| Error::new(ErrorKind::System, "compiling was interrupted"))?;
                pool.replace_code(code?);
            }
            Err(NoWorker::Stale(message)) => {
                let message = format!("the worker cannot load the task: {message}");
                return Err(ProcessError::Refused { message }.into());
            }
        }
    };
    let pid = worker.process.id();
    let overhead = began.elapsed();
    // Starting the next worker takes all of a processor for milliseconds: that
    // must not be what this task waits for.
    let fate = {
        let mut supervised = std::pin::pin!(supervise(worker, job));
        tokio::select! {
            biased;
            fate = &mut supervised => fate,
            () = tokio::time::sleep(REFILL_AFTER) => {
                pool.refill();
                supervised.await
            }
        }
    };
    pool.refill();
    Ok(Executed {
        overhead,
        worker_pid: Some(pid),
        ..Executed::new(fate?)
    })
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// How watching ended.
enum Seen {
    Done(Box<Done>),
    Failed {
        message: String,
        grant: bool,
    },
    /// The worker's end is to be looked at: it closed its pipe.
    Silent,
    Broken(String),
    Killed,
    Overdue,
}

async fn supervise(worker: Worker, job: Job) -> Result<Result<Fate, Crash>, Error> {
    let Worker {
        mut process,
        mut orders,
        mut says,
        streams: Streams {
            stdin,
            stdout,
            stderr,
        },
    } = worker;

    let (input, feed) = match job.stdin {
        InputKind::Bytes(bytes) if bytes.len() <= INLINE_INPUT => (Input::Inline(bytes), None),
        // The worker enforces the limit, with the code that thread mode uses.
        other => (Input::Stream, Some(Source::new(other, None))),
    };
    let limits = &job.spec.limits;
    let order = Order::Run(Box::new(RunOrder {
        task_id: job.task_id,
        attempt: job.attempt,
        spec: (*job.spec).clone(),
        remaining: job
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now())),
        input,
        stdout_budget: limits.output_budget(job.stdout.is_capture()),
        stderr_budget: limits.output_budget(job.stderr.is_capture()),
    }));
    let run = Orders::frame(&order)
        .map_err(|error| Error::new(ErrorKind::InvalidTask, format!("the task: {error}")))?;
    let cancel = job.cancel;
    let (failed, mut failures) = mpsc::channel::<String>(1);
    let mut cancelled = false;
    let ordering = async {
        // A worker that does not read its orders is noticed by its silence.
        if orders.send(&run).await.is_ok() {
            loop {
                let order = tokio::select! {
                    () = cancel.cancelled(), if !cancelled => {
                        cancelled = true;
                        Order::Cancel
                    }
                    Some(why) = failures.recv() => Order::InputFailed(why),
                    else => break,
                };
                match Orders::frame(&order) {
                    Ok(frame) if orders.send(&frame).await.is_ok() => {}
                    _ => break,
                }
            }
        }
        std::future::pending::<()>().await
    };

    let mut out = Stream::new(stdout, &job.stdout);
    let mut err = Stream::new(stderr, &job.stderr);
    let mut feeding: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
    let mut waiting_input = feed.map(|source| (source, stdin));

    let ordered = Instant::now();
    // None only where no clock reaches: then it is never.
    let overdue_at = job
        .deadline
        .and_then(|deadline| deadline.checked_add(GRACE));
    let seen = {
        let mut ordering = std::pin::pin!(ordering);
        let mut killed = std::pin::pin!(job.kill.cancelled());
        let mut overdue = std::pin::pin!(until(overdue_at));
        loop {
            tokio::select! {
                biased;
                message = says.next::<WorkerSays>() => match message {
                    Ok(WorkerSays::Done(done)) => break Seen::Done(done),
                    Ok(WorkerSays::Progress(progress)) => (job.progress)(progress),
                    Ok(WorkerSays::WantInput) => match waiting_input.take() {
                        Some((source, stdin)) => {
                            feeding = Some(Box::pin(feed_input(source, stdin, failed.clone())));
                        }
                        None => break Seen::Broken("it asked for input again".into()),
                    },
                    Ok(WorkerSays::Failed { message, grant }) => {
                        break Seen::Failed { message, grant };
                    }
                    Ok(WorkerSays::Loaded | WorkerSays::Stale(_) | WorkerSays::Refused(_)) => {
                        break Seen::Broken("it loaded its task again".into());
                    }
                    Err(SaysError::Closed | SaysError::Io(_)) => break Seen::Silent,
                    Err(SaysError::Frame(error)) => break Seen::Broken(error.to_string()),
                },
                () = &mut killed => break Seen::Killed,
                () = &mut overdue => break Seen::Overdue,
                () = &mut ordering => {}
                () = out.run(), if !out.is_over() => {}
                () = err.run(), if !err.is_over() => {}
                () = async {
                    match &mut feeding {
                        Some(feeding) => feeding.await,
                        None => std::future::pending().await,
                    }
                } => feeding = None,
            }
        }
    };
    drop(feeding);

    let done = match seen {
        Seen::Done(done) => *done,
        Seen::Failed { message, grant } => {
            process.kill();
            process.wait().await;
            let kind = if grant {
                ErrorKind::InvalidTask
            } else {
                ErrorKind::System
            };
            return Err(Error::new(kind, message));
        }
        other => {
            let fate = match other {
                Seen::Killed => Ok(Fate::imposed(Ending::Cancelled)),
                Seen::Overdue => Ok(Fate::imposed(Ending::LimitExceeded(Limit::Deadline))),
                Seen::Broken(what) => Err(Crash::Protocol(what)),
                _ => match tokio::time::timeout(LINGER, process.wait()).await {
                    Ok(status) => Err(crash_of(status)),
                    Err(_) => Err(Crash::Protocol("it closed its pipe and lived on".into())),
                },
            };
            process.kill();
            process.wait().await;
            // What it wrote before it died is in the pipes, whole. Whoever reads
            // it sets the pace, and may be given up.
            let rest = async { tokio::join!(out.deliver(u64::MAX), err.deliver(u64::MAX)) };
            let _ = or_stopped(rest, &job.kill, job.deadline).await;
            return Ok(fate);
        }
    };

    // A task keeps its place until its output has left its worker, as in thread
    // mode, where it waits itself. The worker's count of its output is a promise:
    // what it does not keep in time was a lie.
    let delivery = async {
        let inline = async {
            if !done.output.is_empty() {
                job.stdout.put(done.output).await;
            }
            out.deliver(done.stdout_len).await
        };
        tokio::join!(inline, err.deliver(done.stderr_len))
    };
    let delivered = or_stopped(delivery, &job.kill, job.deadline).await;
    process.kill();
    tokio::spawn(async move { process.wait().await });
    let fate = done.fate.distrusted(ordered.elapsed());
    Ok(match delivered {
        _ if job.stdout.exceeded() || job.stderr.exceeded() => Ok(Fate {
            ending: Ending::LimitExceeded(Limit::Output),
            ..fate
        }),
        Ok((true, true)) => Ok(fate),
        Ok(_) => Err(Crash::Protocol(
            "it promised more output than it wrote".into(),
        )),
        Err(ending) => Ok(Fate { ending, ..fate }),
    })
}

/// Waits for `work`, unless the task is killed or its deadline passes.
async fn or_stopped<T>(
    work: impl Future<Output = T>,
    kill: &CancellationToken,
    deadline: Option<Instant>,
) -> Result<T, Ending> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = kill.cancelled() => Err(Ending::Cancelled),
        () = until(deadline) => Err(Ending::LimitExceeded(Limit::Deadline)),
    }
}

/// Moves input to a worker until it ends, or the worker takes no more.
async fn feed_input(source: Source, mut stdin: pipe::Sender, failed: mpsc::Sender<String>) {
    while let Some(chunk) = source.next_chunk().await {
        if stdin.write_all(&chunk).await.is_err() {
            return;
        }
    }
    if let Some(error) = source.failure().await {
        // The pipe stays open: its end would look like the input's.
        let _ = failed.send(error.to_string()).await;
        std::future::pending::<()>().await;
    }
}
