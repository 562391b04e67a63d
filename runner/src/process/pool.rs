//! The workers of one artifact: started, loaded, waiting for a task.
//!
//! Invariant: a worker gets one task and is gone; what waits here has run
//! nothing of any guest: its rehearsal ends before a guest's first instruction.

use super::ProcessError;
use super::spawn::Spawner;
use super::worker::{SaysError, Worker, crash_of};
use crate::outcome::Crash;
use crate::sandbox::Code;
use crate::wire::WorkerSays;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A worker that has not loaded its artifact by then is none.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long a worker that went silent may take to die.
pub(super) const LINGER: Duration = Duration::from_secs(2);

pub(super) struct Pool {
    code: Mutex<Arc<Code>>,
    spawner: Arc<Spawner>,
    idle: Mutex<Idle>,
    keep: usize,
}

#[derive(Default)]
struct Idle {
    waiting: VecDeque<Worker>,
    /// Workers on their way to `waiting`.
    starting: usize,
    /// No more are kept.
    closed: bool,
}

/// Why there is no worker.
pub(super) enum NoWorker {
    Error(ProcessError),
    /// The engine in the worker does not take the code.
    Stale(String),
    /// It died on the way; the task did not run.
    Crashed(Crash),
}

impl From<ProcessError> for NoWorker {
    fn from(error: ProcessError) -> Self {
        NoWorker::Error(error)
    }
}

impl Pool {
    pub(super) fn new(code: Arc<Code>, spawner: Arc<Spawner>, keep: usize) -> Self {
        Pool {
            code: Mutex::new(code),
            spawner,
            idle: Mutex::default(),
            keep,
        }
    }

    /// Ends the workers that wait, and keeps no more.
    pub(super) fn close(&self) {
        let waiting = {
            let mut idle = self.idle();
            idle.closed = true;
            std::mem::take(&mut idle.waiting)
        };
        drop(waiting);
    }

    pub(super) fn replace_code(&self, code: Arc<Code>) {
        *self.code.lock().unwrap_or_else(PoisonError::into_inner) = code;
    }

    /// A worker that waits for its order: one of the idle, or a new one.
    pub(super) async fn take(self: &Arc<Self>) -> Result<Worker, NoWorker> {
        loop {
            let idle = self.idle().waiting.pop_front();
            let Some(mut worker) = idle else {
                return self.start(false).await;
            };
            // One that somebody killed while it waited is nobody's outcome.
            if !worker.process.is_dead() {
                return Ok(worker);
            }
        }
    }

    /// Starts workers until the wanted number waits, in the background.
    pub(super) fn refill(self: &Arc<Self>) {
        loop {
            {
                let mut idle = self.idle();
                let enough = idle.waiting.len() + idle.starting >= self.keep;
                if enough || idle.closed || !self.spawner.has_spare() {
                    return;
                }
                idle.starting += 1;
            }
            let pool = self.clone();
            tokio::spawn(async move {
                let started = pool.start(true).await;
                let mut idle = pool.idle();
                idle.starting -= 1;
                // A failure is the next task's to meet, and to report.
                if let Ok(worker) = started
                    && !idle.closed
                {
                    idle.waiting.push_back(worker);
                }
            });
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn start(&self, spare: bool) -> Result<Worker, NoWorker> {
        let code = self
            .code
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut worker = self.spawner.spawn(code, spare).await?;
        let bad = |what: String| {
            NoWorker::Error(ProcessError::Handshake {
                program: self.spawner.program().clone(),
                what,
            })
        };
        let shaken = tokio::time::timeout(HANDSHAKE, async {
            worker.says.hello().await.map_err(|error| (false, error))?;
            let first = worker.says.next::<WorkerSays>().await;
            first.map_err(|error| (true, error))
        })
        .await;
        match shaken {
            Ok(Ok(WorkerSays::Loaded)) => Ok(worker),
            Ok(Ok(WorkerSays::Stale(message))) => Err(NoWorker::Stale(message)),
            Ok(Ok(WorkerSays::Refused(message))) => Err(ProcessError::Refused { message }.into()),
            Ok(Ok(_)) => Err(bad("it spoke before it was asked".into())),
            Ok(Err((greeted, SaysError::Closed))) => {
                let status = tokio::time::timeout(LINGER, worker.process.wait()).await;
                let crash = crash_of(status.ok().flatten());
                // Whoever kills a worker that starts kills its task; a program
                // that is no worker goes of itself.
                if greeted || matches!(crash, Crash::Signal(_)) {
                    Err(NoWorker::Crashed(crash))
                } else {
                    let mut what = crash.to_string();
                    if let Some(said) = last_words(&mut worker).await {
                        what = format!("{what}; it said: {said}");
                    }
                    Err(bad(what))
                }
            }
            Ok(Err((_, error))) => Err(bad(error.to_string())),
            Err(_elapsed) => Err(bad(format!("no answer in {} s", HANDSHAKE.as_secs()))),
        }
    }
}

/// The first line of what a program that is no worker wrote to stderr.
async fn last_words(worker: &mut Worker) -> Option<String> {
    use tokio::io::AsyncReadExt;
    let mut bytes = [0; 512];
    let read = worker.streams.stderr.read(&mut bytes);
    let len = tokio::time::timeout(LINGER, read).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(bytes.get(..len)?).into_owned();
    let line = text.lines().find(|line| !line.trim().is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).collect())
}
