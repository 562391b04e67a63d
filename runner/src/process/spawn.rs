//! The one thread that starts workers.
//!
//! A worker asks the kernel to kill it when its parent dies, and the kernel
//! means the *thread* that started it: so all are started by a thread that lives
//! as long as the executor. Invariant: at most `most` workers exist at once; a
//! worker's permit goes when it is reaped.

use super::ProcessError;
use super::descriptors;
use super::worker::{Ends, Worker};
use crate::sandbox::Code;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// The first argument that makes this program a worker.
pub(super) const WORKER_ARG: &str = "__wrun-worker";
/// The third: nobody waits for this one yet, it has time to rehearse.
pub(super) const SPARE_ARG: &str = "spare";

/// Idle workers over all artifacts.
const IDLE_ALL: usize = 256;

/// Requests that wait for the thread.
const QUEUE: usize = 64;

type Answer = Result<(Started, Ends), ProcessError>;

struct Request {
    code: Arc<Code>,
    permit: OwnedSemaphorePermit,
    spare: bool,
    answer: oneshot::Sender<Answer>,
}

/// A process that was started and that nobody watches yet. Dropping it kills and
/// reaps it: whoever asked for it may be gone by now.
pub(super) struct Started(Option<(Child, OwnedSemaphorePermit)>);

impl Started {
    pub(super) fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, |(child, _)| child.id())
    }

    /// The process, for somebody who kills and reaps it.
    pub(super) fn into_parts(mut self) -> Option<(Child, OwnedSemaphorePermit)> {
        self.0.take()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
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
            .name("wrun-spawn".into())
            .spawn(move || {
                for request in incoming {
                    // A caller that is gone drops the process, which kills it.
                    let Request {
                        code,
                        spare,
                        permit,
                        answer,
                    } = request;
                    let _ = answer.send(spawn(&exe, &code, spare, permit));
                }
                // Ending this thread kills every worker there still is; their
                // owners reap them.
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

    /// Whether a worker may be started that nobody waits for: idle ones, of
    /// whatever many artifacts, must not use up the places of the running.
    pub(super) fn has_spare(&self) -> bool {
        self.workers.available_permits() > self.reserve
    }

    /// Starts a worker for `code`; waits while there are too many. A `spare` one
    /// is for a task that is not there yet.
    pub(super) async fn spawn(&self, code: Arc<Code>, spare: bool) -> Result<Worker, ProcessError> {
        let permit = self
            .workers
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| ProcessError::ShutDown)?;
        let requests = self.sender().ok_or(ProcessError::ShutDown)?;
        let (answer, spawned) = oneshot::channel();
        let mut request = Request {
            code,
            permit,
            spare,
            answer,
        };
        // The thread takes about a millisecond for each; a queue that is full is
        // one to wait for.
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
        let (started, ends) = spawned.await.map_err(|_| ProcessError::ShutDown)??;
        Worker::new(started, ends).map_err(|source| ProcessError::System {
            what: "cannot watch a worker",
            source,
        })
    }

    fn sender(&self) -> Option<mpsc::SyncSender<Request>> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Starts no more workers, waits until all are reaped or a second passed,
    /// and ends the thread, which kills what is left.
    pub(super) fn close(&self) {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let give_up = std::time::Instant::now() + std::time::Duration::from_secs(1);
        while self.workers.available_permits() < self.most && std::time::Instant::now() < give_up {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
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

fn spawn(program: &PathBuf, code: &Code, spare: bool, permit: OwnedSemaphorePermit) -> Answer {
    let system = |source: io::Error| ProcessError::System {
        what: "cannot make pipes for a worker",
        source,
    };
    let pipe = || std::io::pipe().map_err(system);
    let (orders_out, orders_in) = pipe()?;
    let (says_out, says_in) = pipe()?;
    let (stdin_out, stdin_in) = pipe()?;
    let (stdout_out, stdout_in) = pipe()?;
    let (stderr_out, stderr_in) = pipe()?;
    let (socket, its_socket) = UnixStream::pair().map_err(system)?;
    descriptors::send(
        &socket,
        [
            stdin_out.as_fd(),
            orders_out.as_fd(),
            says_in.as_fd(),
            code.file().as_fd(),
        ],
    )
    .map_err(system)?;
    // Nothing here needs code between fork and exec.
    let mut command = Command::new(program);
    command
        .arg0("wrun-worker")
        .arg(WORKER_ARG)
        .arg(std::process::id().to_string())
        .args(spare.then_some(SPARE_ARG))
        .env_clear()
        .current_dir("/")
        // A terminal's Ctrl-C is the runner's to handle.
        .process_group(0)
        .stdin(Stdio::from(OwnedFd::from(its_socket)))
        .stdout(Stdio::from(OwnedFd::from(stdout_in)))
        .stderr(Stdio::from(OwnedFd::from(stderr_in)));
    let child = command.spawn().map_err(|source| ProcessError::Spawn {
        program: program.clone(),
        source,
    })?;
    Ok((
        Started(Some((child, permit))),
        Ends {
            orders: orders_in.into(),
            says: says_out.into(),
            stdin: stdin_in.into(),
            stdout: stdout_out.into(),
            stderr: stderr_out.into(),
        },
    ))
}
