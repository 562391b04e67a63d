//! The worker program: what the hidden entry of a binary does after it was
//! started by a runner.
//!
//! One thread, one engine without compiler, one task, then the end. Reads
//! orders, runs them with the same function as thread mode, says what came of
//! it. Invariant: it outlives neither its parent nor its task.

use super::compile::COMPILE_ARG;
use super::spawn::{SPARE_ARG, WORKER_ARG};
use super::{compile_main, descriptors};
use crate::config::Mode;
use crate::sandbox::{
    self, Allocation, Code, PrepareError, Prepared, Progress, Run, RunError, Sink, Source,
    TaskContext,
};
use crate::task::{InputKind, Spec};
use crate::wire::{self, Decoder, Done, Hello, Input, Order, RunOrder, WorkerSays};
use bytes::Bytes;
use rustix::process::Signal;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Output up to this size travels with the last word.
const INLINE_OUTPUT: usize = 256 << 10;
/// Progress is passed on at most this often; the last one always is.
const PROGRESS_EVERY: Duration = Duration::from_millis(20);

static HOOKED: AtomicBool = AtomicBool::new(false);

/// Lets this program be its own worker in process mode: call it first thing in
/// `main`.
///
/// In a process that a runner started as a worker, this runs the worker and
/// ends the process. Anywhere else it returns at once. A program that cannot
/// call it names a worker program instead, with
/// [`Builder::worker`](crate::Builder::worker); `wrun` itself is one.
///
/// ```
/// wrun::worker_hook();
/// // the program
/// ```
#[expect(clippy::exit, reason = "a worker has no main to return to")]
pub fn worker_hook() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|arg| arg != WORKER_ARG) {
        HOOKED.store(true, Ordering::Relaxed);
        return;
    }
    let parent = args
        .next()
        .and_then(|arg| arg.to_str().and_then(|arg| arg.parse::<i32>().ok()));
    let role = args.next();
    let is = |name| role.as_ref().is_some_and(|role| role == name);
    let work = |parent| match is(COMPILE_ARG) {
        true => compile_main::work(parent),
        false => work(parent, is(SPARE_ARG)),
    };
    let code = match parent.map(work) {
        Some(Ok(())) => 0,
        Some(Err(error)) => {
            let _ = writeln!(io::stderr(), "wrun worker: {error}");
            125
        }
        None => {
            let _ = writeln!(io::stderr(), "{WORKER_ARG} is for wrun itself");
            2
        }
    };
    std::process::exit(code)
}

/// Whether this program can be its own worker.
pub(super) fn is_hooked() -> bool {
    HOOKED.load(Ordering::Relaxed)
}

fn work(parent: i32, spare: bool) -> io::Result<()> {
    crate::sys::close_inherited();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before that took effect.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Err(io::Error::other("the runner is gone"));
    }
    let [stdin, orders, says, code] = descriptors::receive(rustix::stdio::stdin())?;
    rustix::stdio::dup2_stdin(&stdin)?;
    drop(stdin);
    let (mut says, code) = (File::from(says), File::from(code));
    says.write_all(&Hello::encode())?;
    let prepared = match load(code) {
        Ok(prepared) => prepared,
        Err(refusal) => {
            let frame = wire::encode(&refusal).map_err(io::Error::other)?;
            return says.write_all(&frame);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(1)
        .build()?;
    if spare {
        // Nothing depends on it; the real order meets whatever is wrong.
        let _ = runtime.block_on(rehearse(&prepared));
    }
    let frame = wire::encode(&WorkerSays::Loaded).map_err(io::Error::other)?;
    says.write_all(&frame)?;
    runtime.block_on(serve(&prepared, orders, says.into(), false))
}

/// Does what an order does, up to the guest's first instruction: a fresh process
/// spends most of a small task on touching pages for the first time.
async fn rehearse(prepared: &Prepared) -> io::Result<()> {
    let (orders, mut to_orders) = io::pipe()?;
    let (_from_says, says) = io::pipe()?;
    let order = Order::Run(Box::new(RunOrder {
        task_id: 0,
        attempt: 1,
        spec: Spec::rehearsal(),
        remaining: None,
        input: Input::Inline(Bytes::from_static(b"rehearsal")),
        stdout_budget: Some(0),
        stderr_budget: Some(0),
    }));
    to_orders.write_all(&wire::encode(&order).map_err(io::Error::other)?)?;
    drop(to_orders);
    serve(prepared, orders.into(), says.into(), true).await
}

fn load(code: File) -> Result<Prepared, WorkerSays> {
    let refused = |error: &dyn std::fmt::Display| {
        WorkerSays::Refused(format!("the worker cannot load the task: {error}"))
    };
    let code = Code::from_sealed(code).map_err(|error| refused(&error))?;
    let engine = sandbox::runtime(code.meta.metered, Allocation::OnDemand)
        .map_err(|error| refused(&error))?;
    Prepared::new(&engine, &code).map_err(|error| match error {
        PrepareError::Code(error) => WorkerSays::Stale(error.to_string()),
        // The words of thread mode.
        error @ PrepareError::Link(_) => WorkerSays::Refused(error.to_string()),
    })
}

/// Waits for the order, runs it, and says what came of it.
async fn serve(
    prepared: &Prepared,
    orders: OwnedFd,
    says: OwnedFd,
    rehearsal: bool,
) -> io::Result<()> {
    let mut orders = Incoming {
        pipe: pipe::Receiver::from_owned_fd(orders)?,
        decoder: Decoder::default(),
    };
    let mut says = pipe::Sender::from_owned_fd(says)?;
    match orders.next().await? {
        Some(Order::Run(order)) => run(prepared, *order, &mut orders, &mut says, rehearsal).await,
        Some(_) => Err(io::Error::other("an order before the one to run")),
        // The runner does not need this worker after all.
        None => Ok(()),
    }
}

struct Incoming {
    pipe: pipe::Receiver,
    decoder: Decoder,
}

impl Incoming {
    /// The next order; none when the runner closed its end. Cancel safe.
    async fn next(&mut self) -> io::Result<Option<Order>> {
        loop {
            if let Some(order) = self.decoder.next().map_err(io::Error::other)? {
                return Ok(Some(order));
            }
            let mut bytes = [0; 8192];
            match self.pipe.read(&mut bytes).await? {
                0 => return Ok(None),
                len => self.decoder.push(&bytes[..len]),
            }
        }
    }
}

/// What the running guest wants to have said, between two words of its worker.
#[derive(Default)]
struct Wishes {
    input: AtomicBool,
    input_failed: CancellationToken,
    input_failure: Mutex<String>,
    progress: Mutex<Option<Progress>>,
    changed: Notify,
}

impl Wishes {
    fn has_progress(&self) -> bool {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    fn progress(&self) -> Option<Progress> {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

async fn run(
    prepared: &Prepared,
    order: RunOrder,
    orders: &mut Incoming,
    says: &mut pipe::Sender,
    rehearsal: bool,
) -> io::Result<()> {
    let wishes = Arc::new(Wishes::default());
    let input = match order.input {
        Input::Inline(bytes) => InputKind::Bytes(bytes),
        Input::Stream => {
            let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 10)?;
            InputKind::Reader(Box::new(WantedInput {
                pipe: pipe::Receiver::from_owned_fd(stdin)?,
                wishes: Some(wishes.clone()),
                failed: Box::pin(wishes.input_failed.clone().cancelled_owned()),
                failure: wishes.clone(),
            }))
        }
    };
    let is_command = prepared.shape().is_command();
    let stdout_fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 10)?;
    let stderr_fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 10)?;
    // A command's output goes out as it is produced. What `run` returns comes
    // at once and, when small, with the last word.
    let (stdout, stdout_chunks) = if is_command {
        let (sink, chunks) = Sink::channel(order.stdout_budget);
        (sink, Some(chunks))
    } else {
        (Sink::capture(order.stdout_budget.unwrap_or(u64::MAX)), None)
    };
    let (stderr, stderr_chunks) = Sink::channel(order.stderr_budget);
    let pump_err = tokio::spawn(pump(stderr_chunks, pipe::Sender::from_owned_fd(stderr_fd)?));
    let mut stdout_pipe = pipe::Sender::from_owned_fd(stdout_fd)?;
    let (pump_out, large_out) = match stdout_chunks {
        Some(chunks) => (Some(tokio::spawn(pump(chunks, stdout_pipe))), None),
        None => (None, Some(&mut stdout_pipe)),
    };

    let cancel = CancellationToken::new();
    let noted = wishes.clone();
    let task = Run {
        spec: &order.spec,
        context: TaskContext {
            task_id: order.task_id,
            attempt: order.attempt,
            mode: Mode::Process,
            name: order.spec.name.clone(),
            deadline: order
                .remaining
                .and_then(|left| Instant::now().checked_add(left)),
            cancel: cancel.clone(),
            progress: Arc::new(move |progress| {
                *noted
                    .progress
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(progress);
                noted.changed.notify_one();
            }),
        },
        stdin: Source::new(input, order.spec.limits.input_budget(prepared.shape())),
        stdout: stdout.clone(),
        stderr: stderr.clone(),
        // A runner that wants the task dead kills the process.
        kill: CancellationToken::new(),
        blocking: true,
        rehearsal,
    };
    let fate = {
        let mut running = std::pin::pin!(sandbox::run(prepared, task));
        let mut said = None::<Instant>;
        loop {
            tokio::select! {
                biased;
                fate = &mut running => break fate,
                // What was held back a moment ago is due.
                () = async {
                    match said.filter(|_| wishes.has_progress()) {
                        Some(said) => tokio::time::sleep_until((said + PROGRESS_EVERY).into()).await,
                        None => std::future::pending().await,
                    }
                } => wishes.changed.notify_one(),
                () = wishes.changed.notified() => {
                    if wishes.input.swap(false, Ordering::Relaxed) {
                        say(says, &WorkerSays::WantInput).await?;
                    }
                    if said.is_none_or(|said| said.elapsed() >= PROGRESS_EVERY)
                        && let Some(progress) = wishes.progress()
                    {
                        said = Some(Instant::now());
                        say(says, &WorkerSays::Progress(progress)).await?;
                    }
                }
                order = orders.next() => match order? {
                    Some(Order::Cancel) => cancel.cancel(),
                    Some(Order::InputFailed(why)) => {
                        *wishes.input_failure.lock().unwrap_or_else(PoisonError::into_inner) = why;
                        wishes.input_failed.cancel();
                    }
                    Some(Order::Run(_)) => return Err(io::Error::other("one task at a time")),
                    // The runner is gone, or gave the task up.
                    None => return Ok(()),
                },
            }
        }
    };
    if let Some(progress) = wishes.progress() {
        say(says, &WorkerSays::Progress(progress)).await?;
    }
    let fate = match fate {
        Ok(fate) => fate,
        Err(error) => {
            let failed = WorkerSays::Failed {
                message: error.to_string(),
                grant: matches!(error, RunError::Grant(_)),
            };
            return say(says, &failed).await;
        }
    };
    let mut output = stdout.take();
    let mut large = Bytes::new();
    if output.len() > INLINE_OUTPUT {
        large = std::mem::take(&mut output);
    }
    let done = Done {
        fate,
        output,
        stdout_len: if is_command {
            stdout.accepted()
        } else {
            large.len() as u64
        },
        stderr_len: stderr.accepted(),
    };
    say(says, &WorkerSays::Done(Box::new(done))).await?;
    // The pumps end when the last sink is gone.
    drop((stdout, stderr));
    if let Some(pipe) = large_out {
        let _ = pipe.write_all(&large).await;
    }
    if let Some(pump_out) = pump_out {
        let _ = pump_out.await;
    }
    let _ = pump_err.await;
    // Leaving ends this process; the runner has all it needs by then, or closes
    // its end to say that it wants no more.
    let _ = orders.next().await;
    Ok(())
}

async fn say(says: &mut pipe::Sender, message: &WorkerSays) -> io::Result<()> {
    let frame = wire::encode(message).map_err(io::Error::other)?;
    says.write_all(&frame).await
}

async fn pump(mut chunks: mpsc::Receiver<Bytes>, mut pipe: pipe::Sender) {
    while let Some(chunk) = chunks.recv().await {
        if pipe.write_all(&chunk).await.is_err() {
            // Nobody reads: dropping the receiver tells the guest.
            break;
        }
    }
}

/// The guest's stdin, which asks for itself when it is first read.
struct WantedInput {
    pipe: pipe::Receiver,
    wishes: Option<Arc<Wishes>>,
    failed: Pin<Box<WaitForCancellationFutureOwned>>,
    failure: Arc<Wishes>,
}

impl AsyncRead for WantedInput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(wishes) = self.wishes.take() {
            wishes.input.store(true, Ordering::Relaxed);
            wishes.changed.notify_one();
        }
        if let Poll::Ready(read) = Pin::new(&mut self.pipe).poll_read(cx, buf) {
            return Poll::Ready(read);
        }
        ready!(self.failed.as_mut().poll(cx));
        let why = self
            .failure
            .input_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Poll::Ready(Err(io::Error::other(why.clone())))
    }
}
