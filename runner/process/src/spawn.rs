//! The one thread that starts programs: zygotes, and separate workers.
//!
//! A process requests a signal from the kernel for when its parent dies, and the kernel
//! means the *thread* that started it: so all are started by a thread that lives as long as
//! the executor. Invariant: at most `most` processes exist at once; a permit is returned
//! when its process is reaped.

use super::channel::{self, Receiver, Sender, split};
use super::child::{Child, ProcessSlot, Started};
use super::early;
use super::error::ProcessError;
use super::image::Image;
use super::owners::Owners;
use super::roles::WORKER_ARG;
use super::stderr::StderrCapture;
use super::suspend;
use crate::wire::{ControlOrder, StartOrder};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, OnceLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wrun_sandbox::Code;
use wrun_sys::Unpoisoned;
use wrun_sys::{self, Program, Shown};

/// Maximum of idle workers over all artifacts.
const IDLE_ALL: usize = 256;

/// Maximum of requests that wait for the thread.
const QUEUE: usize = 64;

/// Between two looks whether all processes are reaped, those of zygotes among them, for which
/// nothing rings.
const PAUSE: Duration = Duration::from_millis(1);

type Answer = Result<Launched, ProcessError>;

struct Request {
    order: StartOrder,
    code: Arc<Code>,
    slot: ProcessSlot,
    answer: oneshot::Sender<Answer>,
}

/// A process that was started, before it is watched.
pub(super) struct Launched {
    pub(super) started: Started,
    pub(super) control: UnixStream,
    pub(super) stderr: StderrCapture,
}

/// A started process, watched, with its control socket.
pub(super) struct Launch {
    pub(super) child: Child,
    pub(super) orders: Sender,
    pub(super) says: Receiver,
    pub(super) stderr: StderrCapture,
    /// How it sees granted directories; `None` if they are as on disk.
    pub(super) owners: Option<Arc<Owners>>,
}

/// Rung when a process is reaped.
#[derive(Default)]
struct Reaping {
    lock: Mutex<()>,
    rung: Condvar,
}

/// Rings when it is dropped.
pub(super) struct Bell(Arc<Reaping>);

impl Drop for Bell {
    fn drop(&mut self) {
        // Who looks has the lock until it waits, so that it misses nothing.
        let _none_looks = self.0.lock.lock().unpoisoned();
        self.0.rung.notify_all();
    }
}

pub(super) struct Spawner {
    program: PathBuf,
    thread: Mutex<Thread>,
    /// For the processes; `None` if the system does not provide one.
    clock: Arc<OnceLock<Option<Arc<Shown>>>>,
    most: usize,
    reserve: usize,
    workers: Arc<Semaphore>,
    reaping: Arc<Reaping>,
}

/// The thread that starts programs.
enum Thread {
    /// A worker waits already, and no more may be needed.
    Absent,
    Running(mpsc::SyncSender<Request>, JoinHandle<()>),
    Closed,
}

impl Spawner {
    pub(super) fn start(program: PathBuf, running: usize) -> Result<Self, ProcessError> {
        // For the running, for as many that are being reaped, and for idle ones.
        let reserve = running.saturating_mul(2).saturating_add(64);
        let most = reserve.saturating_add(IDLE_ALL).min(Semaphore::MAX_PERMITS);
        let spawner = Spawner {
            program,
            thread: Mutex::new(Thread::Absent),
            clock: Arc::default(),
            most,
            reserve,
            workers: Arc::new(Semaphore::new(most)),
            reaping: Arc::default(),
        };
        if !early::is_waiting(&spawner.program) {
            spawner.requests()?;
        }
        Ok(spawner)
    }

    /// Where the thread gets its requests; starts it if it is absent.
    fn requests(&self) -> Result<mpsc::SyncSender<Request>, ProcessError> {
        let mut thread = self.thread.lock().unpoisoned();
        match &*thread {
            Thread::Running(requests, _) => return Ok(requests.clone()),
            Thread::Closed => return Err(ProcessError::ShutDown),
            Thread::Absent => {}
        }
        let (requests, incoming) = mpsc::sync_channel::<Request>(QUEUE);
        let exe = self.program.clone();
        let clock = self.clock.clone();
        let started = std::thread::Builder::new()
            .stack_size(wrun_sys::stack_size())
            .name("wrun-spawn".into())
            .spawn(move || {
                // Of the worker program, once a zygote is needed.
                let mut image: Option<Option<Image>> = None;
                let clock = clock.get_or_init(suspend::clock);
                // Ending this thread kills every remaining worker; their owners reap them.
                for request in incoming {
                    // If the caller is gone, dropping the process kills it.
                    let Request {
                        order,
                        code,
                        slot,
                        answer,
                    } = request;
                    let image = match order.zygote {
                        true => image.get_or_insert_with(|| Image::of(&exe).ok()).as_ref(),
                        false => None,
                    };
                    let _ = answer.send(spawn(&exe, order, image, clock.as_deref(), &code, slot));
                }
            })
            .map_err(|source| ProcessError::System {
                what: "cannot start a thread",
                source,
            })?;
        *thread = Thread::Running(requests.clone(), started);
        Ok(requests)
    }

    pub(super) fn program(&self) -> &PathBuf {
        &self.program
    }

    /// Maximum of processes at once.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Whether a worker may be started before it is needed: idle ones, of any number of
    /// artifacts, must not use up the permits for running tasks.
    pub(super) fn has_spare(&self) -> bool {
        self.workers.available_permits() > self.reserve
    }

    /// A permit for one process; waits until one is available.
    pub(super) async fn permit(&self) -> Result<OwnedSemaphorePermit, ProcessError> {
        let permit = self.workers.clone().acquire_owned().await;
        permit.map_err(|_| ProcessError::ShutDown)
    }

    /// For a process that is about to be started.
    pub(super) fn bell(&self) -> Bell {
        Bell(self.reaping.clone())
    }

    /// Starts a program that becomes what `order` says.
    pub(super) async fn spawn(
        &self,
        order: StartOrder,
        code: Arc<Code>,
        slot: ProcessSlot,
    ) -> Result<Launch, ProcessError> {
        let watched = |launched| {
            watch(launched).map_err(|source| ProcessError::System {
                what: "cannot watch a worker",
                source,
            })
        };
        if let Some(waiting) = early::take(&self.program, &order) {
            let clock = self.clock.get_or_init(suspend::clock);
            return watched(waiting.launch(order, slot, &code, clock.as_deref())?);
        }
        let requests = self.requests()?;
        let (answer, spawned) = oneshot::channel();
        let mut request = Request {
            order,
            code,
            slot,
            answer,
        };
        // The thread takes about a millisecond for each; wait if the queue is full.
        loop {
            match requests.try_send(request) {
                Ok(()) => break,
                Err(mpsc::TrySendError::Full(back)) => {
                    request = back;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(mpsc::TrySendError::Disconnected(_)) => return Err(ProcessError::ShutDown),
            }
        }
        drop(requests);
        watched(spawned.await.map_err(|_| ProcessError::ShutDown)??)
    }

    /// Starts no more workers, waits until all are reaped or a second has passed, and ends
    /// the thread, which kills what is left.
    pub(super) fn close(&self) {
        let thread = std::mem::replace(&mut *self.thread.lock().unpoisoned(), Thread::Closed);
        let thread = match thread {
            Thread::Running(requests, thread) => {
                drop(requests);
                Some(thread)
            }
            Thread::Absent | Thread::Closed => None,
        };
        let give_up = Instant::now() + Duration::from_secs(1);
        let mut looking = self.reaping.lock.lock().unpoisoned();
        while self.workers.available_permits() < self.most && Instant::now() < give_up {
            let waited = self.reaping.rung.wait_timeout(looking, PAUSE);
            looking = waited.unpoisoned().0;
        }
        drop(looking);
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.close();
    }
}

fn watch(launched: Launched) -> io::Result<Launch> {
    let child = launched.started.watch()?;
    // From here on `child` kills and reaps if anything fails.
    launched.control.set_nonblocking(true)?;
    let (says, orders) = split(launched.control);
    Ok(Launch {
        child,
        orders,
        says,
        stderr: launched.stderr,
        owners: None,
    })
}

fn spawn(
    program: &PathBuf,
    order: StartOrder,
    image: Option<&Image>,
    clock: Option<&Shown>,
    code: &Code,
    slot: ProcessSlot,
) -> Answer {
    let system = |source: io::Error| ProcessError::System {
        what: "cannot make pipes for a worker",
        source,
    };
    let (control, its_control) = UnixStream::pair().map_err(system)?;
    let (stderr, its_stderr) = StderrCapture::pipe().map_err(system)?;
    let its_stdout = wrun_sys::null().map_err(system)?;
    let pid = std::process::id().to_string();
    let started = suspend::start(&Program {
        path: program,
        args: &["wrun-worker", WORKER_ARG, &pid],
        env: &[],
        stdin: its_control.as_fd(),
        stdout: its_stdout.as_fd(),
        stderr: its_stderr.as_fd(),
    });
    let member = started.map_err(|source| ProcessError::Spawn {
        program: program.clone(),
        source,
    })?;
    // From here on only the child has its ends.
    drop((its_control, its_stdout, its_stderr));
    let started = Started::new(member, slot).map_err(system)?;
    // It does not end before it has its order: it must be watched by then, in case other
    // code reaps children.
    send_start(&control, order, image, clock, code)?;
    Ok(Launched {
        started,
        control,
        stderr,
    })
}

/// Sends a process its start order, with what comes along.
pub(super) fn send_start(
    control: &UnixStream,
    mut order: StartOrder,
    image: Option<&Image>,
    clock: Option<&Shown>,
    code: &Code,
) -> Result<(), ProcessError> {
    let mut descriptors = vec![code.file().as_fd()];
    if let Some(image) = image {
        order.image = Some(image.of);
        descriptors.push(image.file());
    }
    if let Some(clock) = clock {
        order.clock = true;
        descriptors.push(clock.file());
    }
    let order = ControlOrder::Start(Box::new(order));
    match channel::send(control, &order, &descriptors) {
        // It is gone; the caller that watches it finds out how.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        sent => sent.map_err(|source| ProcessError::System {
            what: "cannot pass descriptors to a worker",
            source,
        }),
    }
}
