//! A worker behind its walls: takes orders from its socket, runs them with the
//! same function as thread mode, says what came of them.
//!
//! One thread, one task at a time. Invariant: the walls are made tight for a task
//! before anything of its guest runs.

use super::asks::Asking;
use super::channel::{ChannelError, Receiver, Sender};
use crate::jail::{Sealed, TaskWalls};
use crate::wire::{Done, Input, Order, RunOrder, Spare, WorkerSays};
use bytes::Bytes;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, mpsc};
use tokio::task::coop::unconstrained;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wrun_sandbox::Budgets;
use wrun_sandbox::InputKind;
use wrun_sandbox::deadline::Deadline;
use wrun_sandbox::port::{PARTS, Port, Transport, in_turns};
use wrun_sandbox::turn::until;
use wrun_sandbox::{
    self, Ahead, Granted, OnThread, Ports, Prepared, Progress, Run, RunError, Sink, Source,
    TaskContext,
};
use wrun_types::config::Mode;
use wrun_types::limits::Limits;
use wrun_types::report::Usage;
use wrun_types::spec::Spec;

/// Output up to this size travels with the last word.
const INLINE_OUTPUT: usize = 256 << 10;
/// Larger output travels in frames of this size, where there is no pipe.
const OUTPUT_FRAME: usize = 1 << 20;
/// Progress is passed on at most this often; the last one always is.
const PROGRESS_EVERY: Duration = Duration::from_millis(20);

/// Does what an order does, up to the guest's first instruction: a fresh process
/// spends most of a small task on touching pages for the first time.
/// Then it makes the sandbox of the first task, or of every child's.
pub(super) fn rehearse_alone(prepared: &Prepared) -> io::Result<Option<Ahead>> {
    // Without I/O: a reactor's descriptors would be shared with every child.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    Ok(runtime.block_on(async {
        rehearse(prepared).await;
        Ahead::new(prepared, no_context()).await
    }))
}

/// That of a guest which never runs.
fn no_context() -> TaskContext {
    TaskContext::of_nobody(Mode::Process, Transport::Socket)
}

async fn rehearse(prepared: &Prepared) {
    let spec = Spec::rehearsal();
    let run = Run {
        spec: &spec,
        context: no_context(),
        granted: Granted::ByPath,
        stdin: Source::new(InputKind::Bytes(Bytes::from_static(b"rehearsal")), None),
        stdout: Sink::capture(0),
        stderr: Sink::capture(0),
        kill: CancellationToken::new(),
        thread: OnThread::WarmUp,
        ahead: None,
    };
    // Nothing depends on it.
    let _ = wrun_sandbox::run(prepared, run).await;
}

/// Serves a runner at the other end of `socket`: so many tasks, or until it
/// closes its end. A `spare` has time to rehearse, as far as no order is there, and
/// to put up its walls.
/// `ahead` is the first task's sandbox.
pub(super) fn serve(
    prepared: &Prepared,
    sealed: &Sealed,
    socket: OwnedFd,
    tasks: u32,
    spare: Option<Spare>,
    ahead: Option<Ahead>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .event_interval(1)
        .build()?;
    runtime.block_on(async {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UnixStream::from_std(socket)?;
        let (reading, writing) = socket.into_split();
        let mut worker = Worker {
            prepared,
            sealed,
            orders: Receiver::new(reading),
            says: Sender::new(writing),
            tight: false,
            used: Usage::default(),
            ahead,
        };
        let waits = spare.is_some();
        if !waits {
            // As a rule its order is there.
            worker.orders.look();
        }
        if let Some(spare) = spare {
            if !worker.orders.is_readable() {
                rehearse(prepared).await;
            }
            if sealed.fits_any_task() {
                let tight = worker.tighten(spare.memory, &spare.limits, &[], &[]);
                tight.map_err(io::Error::other)?;
            }
        }
        let tasks = tasks.max(1);
        for task in 1..=tasks {
            loop {
                match worker.next().await? {
                    Some(Order::Run(order)) => {
                        break worker.run(*order, task == tasks).await?;
                    }
                    // For a task that was done before it came.
                    Some(Order::Cancel | Order::InputFailed(_) | Order::Answer { .. }) => {}
                    // The runner does not need this worker after all.
                    None => return Ok(()),
                }
            }
        }
        // What it says is on its way: who waits for it is not to wait for a processor
        // that gives back memory.
        while waits && worker.next().await?.is_some() {}
        // What is left to give back is the kernel's, which takes it faster.
        wrun_sys::exit_now(0)
    })
}

struct Worker<'a> {
    prepared: &'a Prepared,
    sealed: &'a Sealed,
    orders: Receiver,
    says: Sender,
    /// The walls are as tight as they get.
    tight: bool,
    /// What this process used for tasks before this one.
    used: Usage,
    /// The next task's sandbox, where it is made already.
    ahead: Option<Ahead>,
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

impl Worker<'_> {
    /// The next order; none when the runner closed its end. Cancel safe.
    async fn next(&mut self) -> io::Result<Option<Order>> {
        match self.orders.next_with_descriptors().await {
            Ok(order) => Ok(Some(order)),
            Err(ChannelError::Closed) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Makes the walls tight for the first task; later ones have no grants.
    fn tighten_for(&mut self, spec: &Spec, dirs: &[OwnedFd]) -> Result<(), String> {
        let dirs: Vec<_> = dirs
            .iter()
            .zip(&spec.dirs)
            .map(|(dir, grant)| (dir.as_fd(), grant.read_only))
            .collect();
        let tcp_ports: Vec<_> = spec
            .tcp
            .iter()
            .flat_map(|grant| grant.addresses.iter().map(|address| address.port()))
            .collect();
        let memory = crate::memory_of_a_process(spec);
        self.tighten(memory, &spec.limits, &dirs, &tcp_ports)
    }

    fn tighten(
        &mut self,
        memory: u64,
        limits: &Limits,
        dirs: &[(BorrowedFd<'_>, bool)],
        tcp_ports: &[u16],
    ) -> Result<(), String> {
        if self.tight {
            return Ok(());
        }
        let walls = TaskWalls {
            dirs,
            tcp_ports,
            memory,
            reserved: self.prepared.reserved(limits),
            cpu: None,
        };
        self.tight = true;
        self.sealed
            .tighten(&walls)
            .map_err(|error| format!("the jail cannot be made tight: {error}"))
    }

    async fn run(&mut self, order: RunOrder, last: bool) -> io::Result<()> {
        let count = order.descriptors();
        let mut descriptors = self.orders.take(count)?.into_iter();
        let mut pipe = |wanted: bool| match wanted {
            true => descriptors.next(),
            false => None,
        };
        let stdin = pipe(matches!(order.input, Input::Pipe));
        let stdout_pipe = pipe(order.stdout.piped);
        let stderr_pipe = pipe(order.stderr.piped);
        let dirs: Vec<OwnedFd> = descriptors.by_ref().take(order.spec.dirs.len()).collect();
        let port = match order.port {
            Some(parts) => {
                let none = || io::Error::other("no descriptors for the port");
                let fds = [(); PARTS].map(|()| descriptors.next());
                let [Some(messages), Some(credit), Some(arena)] = fds else {
                    return Err(none());
                };
                Some(Port::from_parts(parts, [messages, credit, arena])?)
            }
            None => None,
        };
        if let Err(message) = self.tighten_for(&order.spec, &dirs) {
            let grant = false;
            return self.say(&WorkerSays::Failed { message, grant }).await;
        }

        let wishes = Arc::new(Wishes::default());
        let input = match (order.input, stdin) {
            (Input::Inline(bytes), _) => InputKind::Bytes(bytes),
            (Input::Pipe, stdin) => {
                let stdin = stdin.ok_or_else(|| io::Error::other("no pipe for the input"))?;
                InputKind::Reader(Box::new(WantedInput {
                    pipe: pipe::Receiver::from_owned_fd(stdin)?,
                    wishes: Some(wishes.clone()),
                    failed: Box::pin(wishes.input_failed.clone().cancelled_owned()),
                    failure: wishes.clone(),
                }))
            }
        };
        let is_command = self.prepared.shape().is_command();
        // A command's output goes out as it is produced. What `run` returns comes
        // at once and, when small, with the last word.
        let (stdout, stdout_chunks) = if is_command {
            let (sink, chunks) = Sink::channel(order.stdout.budget);
            (sink, Some(chunks))
        } else {
            (Sink::capture(order.stdout.budget.unwrap_or(u64::MAX)), None)
        };
        let joined = order.joined;
        // A command's is one channel with its stdout.
        let beside = match joined && is_command {
            true => stdout.beside(order.stderr.budget),
            false => None,
        };
        let (stderr, stderr_chunks) = match beside {
            Some(stderr) => (stderr, None),
            None => {
                let (stderr, chunks) = Sink::channel(order.stderr.budget);
                (stderr, Some(chunks))
            }
        };
        // What a task prints that returns its output goes ahead of that in the same pipe.
        let (stdout_pipe, stderr_pipe) = match joined && !is_command {
            true => (None, stdout_pipe),
            false => (stdout_pipe, stderr_pipe),
        };
        let mut large_out = None;
        let mut framed_out = None;
        let pump_out = match (stdout_chunks, stdout_pipe) {
            (Some(chunks), Some(fd)) => {
                let pipe = pipe::Sender::from_owned_fd(fd)?;
                Some(tokio::spawn(pump(chunks, pipe)))
            }
            (Some(chunks), None) => {
                framed_out = Some(chunks);
                None
            }
            (None, Some(fd)) => {
                large_out = Some(pipe::Sender::from_owned_fd(fd)?);
                None
            }
            (None, None) => None,
        };
        let mut framed_err = None;
        let pump_err = match (stderr_chunks, stderr_pipe) {
            (Some(chunks), Some(fd)) => {
                let pipe = pipe::Sender::from_owned_fd(fd)?;
                Some(tokio::spawn(pump(chunks, pipe)))
            }
            (chunks, _) => {
                framed_err = chunks;
                None
            }
        };

        let (services, mut asking) = Asking::new();
        let cancel = CancellationToken::new();
        let noted = wishes.clone();
        let task = Run {
            spec: &order.spec,
            context: TaskContext {
                task_id: order.task_id,
                attempt: order.attempt,
                mode: Mode::Process,
                name: order.spec.name.clone(),
                deadline: order.remaining.and_then(Deadline::after),
                cancel: cancel.clone(),
                progress: Arc::new(move |progress| {
                    *noted
                        .progress
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = Some(progress);
                    noted.changed.notify_one();
                }),
                ports: Ports::new(Transport::Socket, port),
                services,
            },
            granted: Granted::Opened(&dirs),
            stdin: Source::new(input, order.spec.limits.input_budget(self.prepared.shape())),
            stdout: stdout.clone(),
            stderr: stderr.clone(),
            // A runner that wants the task dead kills the process.
            kill: CancellationToken::new(),
            // What forwards a stream waits for its last sink to be dropped.
            thread: match last && framed_err.is_some() && !is_command {
                true => OnThread::OwnAndLast,
                false => OnThread::Own,
            },
            ahead: self.ahead.take(),
        };
        let result = {
            let mut running = std::pin::pin!(in_turns(wrun_sandbox::run(self.prepared, task)));
            let mut said = None::<Instant>;
            loop {
                tokio::select! {
                    biased;
                    result = &mut running => break result,
                    // What was held back a moment ago is due.
                    () = async {
                        match said.filter(|_| wishes.has_progress()) {
                            Some(said) => {
                                until(said.checked_add(PROGRESS_EVERY)).await;
                            }
                            None => std::future::pending().await,
                        }
                    } => {
                        // Not left to who is told of changes: due, this is always first.
                        if let Some(progress) = wishes.progress() {
                            said = Some(Instant::now());
                            self.says.say(&WorkerSays::Progress(progress)).await?;
                        }
                    }
                    () = wishes.changed.notified() => {
                        if wishes.input.swap(false, Ordering::Relaxed) {
                            self.says.say(&WorkerSays::WantInput).await?;
                        }
                        if said.is_none_or(|said| said.elapsed() >= PROGRESS_EVERY)
                            && let Some(progress) = wishes.progress()
                        {
                            said = Some(Instant::now());
                            self.says.say(&WorkerSays::Progress(progress)).await?;
                        }
                    }
                    Some(wish) = asking.next() => asking.send(wish, &mut self.says).await?,
                    Some(chunk) = next_chunk(&mut framed_out) => {
                        self.says.say(&WorkerSays::Stdout(chunk)).await?;
                    }
                    Some(chunk) = next_chunk(&mut framed_err) => {
                        self.says.say(&WorkerSays::Stderr(chunk)).await?;
                    }
                    // Also when the guest has used up what one poll may do.
                    order = unconstrained(self.orders.next_with_descriptors()) => match order {
                        Ok(Order::Cancel) => cancel.cancel(),
                        Ok(Order::InputFailed(why)) => {
                            *wishes
                                .input_failure
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner) = why;
                            wishes.input_failed.cancel();
                        }
                        Ok(Order::Answer { id, answer }) => {
                            let file = self.orders.take(answer.descriptors())?;
                            if let Some(word) = asking.answered(id, answer, file)? {
                                self.says.say(&WorkerSays::Tell(word)).await?;
                            }
                        }
                        Ok(Order::Run(_)) => return Err(io::Error::other("one task at a time")),
                        // The runner is gone, or gave the task up.
                        Err(_) => wrun_sys::exit_now(0),
                    },
                }
            }
        };
        if let Some(progress) = wishes.progress() {
            self.say(&WorkerSays::Progress(progress)).await?;
        }
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                let failed = WorkerSays::Failed {
                    message: error.to_string(),
                    grant: matches!(error, RunError::Grant(_)),
                };
                return self.say(&failed).await;
            }
        };
        let mut output = stdout.take();
        let (stdout_len, stderr_len) = (stdout.accepted(), stderr.accepted());
        // What is in the channels is all there will be.
        drop((stdout, stderr));
        for chunks in [&mut framed_out, &mut framed_err].into_iter().flatten() {
            chunks.close();
        }
        while let Some(chunk) = next_chunk(&mut framed_out).await {
            self.say(&WorkerSays::Stdout(chunk)).await?;
        }
        while let Some(chunk) = next_chunk(&mut framed_err).await {
            self.say(&WorkerSays::Stderr(chunk)).await?;
        }
        let mut large = Bytes::new();
        if output.len() > INLINE_OUTPUT {
            if large_out.is_some() || joined {
                large = std::mem::take(&mut output);
            } else {
                while output.len() > INLINE_OUTPUT {
                    let frame = output.split_to(output.len().min(OUTPUT_FRAME));
                    self.say(&WorkerSays::Stdout(frame)).await?;
                }
            }
        }
        let used = wrun_sys::own_usage();
        let usage = used.since(&self.used);
        self.used = used;
        let done = Done {
            result,
            output,
            stdout_len: match (is_command, order.stdout.piped) {
                (true, true) if joined => stdout_len.saturating_add(stderr_len),
                (true, true) => stdout_len,
                (false, true) if joined => stderr_len.saturating_add(large.len() as u64),
                (false, true) => large.len() as u64,
                (_, false) => 0,
            },
            stderr_len: if order.stderr.piped { stderr_len } else { 0 },
            usage,
        };
        self.say(&WorkerSays::Done(Box::new(done))).await?;
        if let Some(mut pipe) = large_out {
            let _ = pipe.write_all(&large).await;
        }
        for pump in [pump_out, pump_err].into_iter().flatten() {
            // Pumps that gave up have no pipe left.
            if let Ok(Some(mut pipe)) = pump.await
                && joined
                && !large.is_empty()
            {
                let _ = pipe.write_all(&large).await;
            }
        }
        Ok(())
    }

    async fn say(&mut self, message: &WorkerSays) -> io::Result<()> {
        self.says.say(message).await
    }
}

async fn next_chunk(chunks: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match chunks {
        Some(chunks) => chunks.recv().await,
        None => None,
    }
}

/// Writes what comes to a pipe; gives the pipe back while somebody reads it.
async fn pump(mut chunks: mpsc::Receiver<Bytes>, mut pipe: pipe::Sender) -> Option<pipe::Sender> {
    while let Some(chunk) = chunks.recv().await {
        if pipe.write_all(&chunk).await.is_err() {
            // Nobody reads: dropping the receiver tells the guest.
            return None;
        }
    }
    Some(pipe)
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
