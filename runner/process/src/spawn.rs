//! The one thread that starts programs: zygotes, and separate workers.
//!
//! A process requests a signal from the kernel for when its parent dies, and the kernel
//! means the *thread* that started it: so all are started by a thread that lives as long as
//! the executor. Invariant: at most `most` processes exist at once; a permit is returned
//! when its process is reaped.

use super::channel::{self, Receiver, Sender};
use super::child::{Child, ProcessSlot, Started};
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
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wrun_sandbox::Code;
use wrun_sys::Unpoisoned;
use wrun_sys::{self, Program, Shown};

/// Maximum of idle workers over all artifacts.
const IDLE_ALL: usize = 256;

/// Maximum of requests that wait for the thread.
const QUEUE: usize = 64;

type Answer = Result<Launched, ProcessError>;

struct Request {
    order: StartOrder,
    code: Arc<Code>,
    slot: ProcessSlot,
    answer: oneshot::Sender<Answer>,
}

/// A process that was started, before it is watched.
struct Launched {
    started: Started,
    control: UnixStream,
    stderr: StderrCapture,
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

pub(super) struct Spawner {
    program: PathBuf,
    requests: Mutex<Option<mpsc::SyncSender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    most: usize,
    reserve: usize,
    workers: Arc<Semaphore>,
}

impl Spawner {
    pub(super) fn start(program: PathBuf, running: usize) -> Result<Self, ProcessError> {
        let (requests, incoming) = mpsc::sync_channel::<Request>(QUEUE);
        // For the running, for as many that are being reaped, and for idle ones.
        let reserve = running.saturating_mul(2).saturating_add(64);
        let most = reserve.saturating_add(IDLE_ALL).min(Semaphore::MAX_PERMITS);
        let workers = Arc::new(Semaphore::new(most));
        let last = workers.clone();
        let exe = program.clone();
        let thread = std::thread::Builder::new()
            .stack_size(wrun_sys::stack_size())
            .name("wrun-spawn".into())
            .spawn(move || {
                // Of the worker program, once a zygote is needed.
                let mut image: Option<Option<Image>> = None;
                let clock = suspend::clock();
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
                // Ending this thread kills every remaining worker; their owners reap them.
                drop(last);
            })
            .map_err(|source| ProcessError::System {
                what: "cannot start a thread",
                source,
            })?;
        Ok(Spawner {
            program,
            requests: Mutex::new(Some(requests)),
            thread: Mutex::new(Some(thread)),
            most,
            reserve,
            workers,
        })
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

    /// Starts a program that becomes what `order` says.
    pub(super) async fn spawn(
        &self,
        order: StartOrder,
        code: Arc<Code>,
        slot: ProcessSlot,
    ) -> Result<Launch, ProcessError> {
        let requests = self.sender().ok_or(ProcessError::ShutDown)?;
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
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                Err(mpsc::TrySendError::Disconnected(_)) => return Err(ProcessError::ShutDown),
            }
        }
        drop(requests);
        let launched = spawned.await.map_err(|_| ProcessError::ShutDown)??;
        watch(launched).map_err(|source| ProcessError::System {
            what: "cannot watch a worker",
            source,
        })
    }

    fn sender(&self) -> Option<mpsc::SyncSender<Request>> {
        self.requests.lock().unpoisoned().clone()
    }

    /// Starts no more workers, waits until all are reaped or a second has passed, and ends
    /// the thread, which kills what is left.
    pub(super) fn close(&self) {
        self.requests.lock().unpoisoned().take();
        let give_up = std::time::Instant::now() + std::time::Duration::from_secs(1);
        while self.workers.available_permits() < self.most && std::time::Instant::now() < give_up {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        let thread = self.thread.lock().unpoisoned().take();
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
    let control = tokio::net::UnixStream::from_std(launched.control)?;
    let (reading, writing) = control.into_split();
    Ok(Launch {
        child,
        orders: Sender::new(writing),
        says: Receiver::new(reading),
        stderr: launched.stderr,
        owners: None,
    })
}

fn spawn(
    program: &PathBuf,
    mut order: StartOrder,
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
    match channel::send(&control, &order, &descriptors) {
        // It is gone; the caller that watches it finds out how.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        sent => sent.map_err(|source| ProcessError::System {
            what: "cannot pass descriptors to a worker",
            source,
        })?,
    }
    Ok(Launched {
        started,
        control,
        stderr,
    })
}
