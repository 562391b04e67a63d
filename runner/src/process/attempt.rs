//! One task in one worker, from order to outcome: the supervisor's side.
//!
//! One future watches everything about the worker at once: what it says, its
//! output, its input, the kill, the backstop of the deadline. Invariant: it ends
//! with exactly one outcome, whatever the worker does, and the worker is then
//! killed and reaped.

use super::ProcessError;
use super::pool::{LINGER, NoWorker, Pool};
use super::worker::{Orders, SaysError, Streams, Worker, crash_of};
use crate::error::{Error, ErrorKind};
use crate::executor::{Executed, Job};
use crate::outcome::{Crash, Limit};
use crate::sandbox::{CHUNK, Code, Ending, Fate, LoadError, Sink, Source};
use crate::task::InputKind;
use crate::wire::{Done, Input, Order, RunOrder, WorkerSays};
use bytes::BytesMut;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc};

/// How long after the deadline a worker may take to say so itself, before it is
/// killed.
const GRACE: Duration = Duration::from_secs(1);
/// How long a task has the processors to itself before the worker that it took
/// is replaced.
const REFILL_AFTER: Duration = Duration::from_millis(2);
/// How long the output that a worker counted may take to arrive.
const DRAIN: Duration = Duration::from_secs(5);
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
        fate,
        overhead: began.elapsed(),
        worker_pid: None,
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
        fate: fate?,
        overhead,
        worker_pid: Some(pid),
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
    let afterwards = job.afterwards;
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

    let seen = {
        let mut ordering = std::pin::pin!(ordering);
        let mut killed = std::pin::pin!(job.kill.cancelled());
        let mut overdue = std::pin::pin!(until(job.deadline.map(|deadline| deadline + GRACE)));
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
                () = out.ended(), if !out.over => {}
                () = err.ended(), if !err.over => {}
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
            // What it wrote before it died is in the pipes, whole.
            let everything = u64::MAX;
            out.settle(&job.stdout, everything).await;
            err.settle(&job.stderr, everything).await;
            afterwards.spawn(async move {
                out.rest().await;
                err.rest().await;
            });
            return Ok(fate);
        }
    };

    if job.stdout.is_channel() {
        // Whoever reads sets the pace; the outcome does not wait.
        let sink = job.stdout.clone();
        afterwards.spawn(async move {
            sink.put(done.output).await;
        });
    } else {
        job.stdout.put(done.output).await;
    }
    // The worker's count of its output is a promise: what it does not keep in
    // time was a lie.
    let kept = out.settle(&job.stdout, done.stdout_len).await
        & err.settle(&job.stderr, done.stderr_len).await;
    let pending = [out, err];
    afterwards.spawn(async move {
        for stream in pending {
            stream.rest().await;
        }
        process.kill();
        process.wait().await;
    });
    if !kept {
        let what = "it promised more output than it wrote";
        return Ok(Err(Crash::Protocol(what.into())));
    }
    Ok(Ok(done.fate))
}

/// One output stream of a worker on its way to its sink.
struct Stream {
    pump: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The pipe ended, or the sink takes no more.
    over: bool,
    moved: Arc<Moved>,
    /// Bytes to move; known once the worker is done.
    promised: u64,
}

#[derive(Default)]
struct Moved {
    bytes: AtomicU64,
    changed: Notify,
}

impl Stream {
    fn new(pipe: pipe::Receiver, sink: &Sink) -> Self {
        let moved = Arc::new(Moved::default());
        Stream {
            pump: Box::pin(pump(pipe, sink.clone(), moved.clone())),
            over: false,
            moved,
            promised: 0,
        }
    }

    /// Moves bytes until there are no more.
    async fn ended(&mut self) {
        if !self.over {
            self.pump.as_mut().await;
            self.over = true;
        }
    }

    fn is_kept(&self) -> bool {
        self.moved.bytes.load(Ordering::Acquire) >= self.promised
    }

    /// Moves bytes until the promised number arrived.
    async fn until_kept(&mut self) {
        let moved = self.moved.clone();
        while !self.over && !self.is_kept() {
            tokio::select! {
                biased;
                () = self.ended() => {}
                () = moved.changed.notified() => {}
            }
        }
    }

    /// Sees to it that what was promised arrives: here and now, in bounded time,
    /// where it is captured; by [`Stream::rest`] where somebody else reads.
    /// Returns whether the promise is kept so far.
    async fn settle(&mut self, sink: &Sink, promised: u64) -> bool {
        self.promised = promised;
        if sink.is_channel() || self.is_kept() {
            return true;
        }
        let _ = tokio::time::timeout(DRAIN, self.until_kept()).await;
        self.is_kept()
    }

    /// Moves what is left for as long as somebody reads.
    async fn rest(mut self) {
        self.until_kept().await;
    }
}

/// Moves a worker's output to its sink until it ends, or the sink takes no more.
async fn pump(mut pipe: pipe::Receiver, sink: Sink, moved: Arc<Moved>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        match pipe.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(len) => {
                let taken = sink.put(buffer.split().freeze()).await;
                moved.bytes.fetch_add(len as u64, Ordering::AcqRel);
                moved.changed.notify_one();
                if !taken {
                    break;
                }
            }
        }
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
