//! A worker: takes as many tasks from the queue as it has room for, runs each, and answers.
//!
//! Invariants: never more tasks are in hand than can start; a lease is extended every third of
//! its time for as long as the task is in hand; a task leaves the queue only with a result, or
//! to the dead; what fails here is given back, what fails in a guest is an answer.

mod grants;
mod guests;
mod handle;
mod metrics;
mod modules;
mod observer;
#[cfg(test)]
mod tests;

pub use grants::{MaxLimits, WorkerConfig};
pub use guests::{Guests, ObjectStore, StoreLimits};
pub use metrics::Metrics;
pub use modules::ModuleSource;
pub use observer::{Event, Observer};

use crate::error::Error;
use crate::protocol::{Answer, TaskMessage, Token, VERSION};
use crate::queue::{Queue, Weights};
use handle::Slot;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// Answers on their way to the queue, beyond the tasks that run.
const ANSWERING: usize = 64;
/// The pause after the queue could not be reached; doubles up to [`PAUSE_MOST`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_secs(5);

/// How often the end of tasks is looked for while the worker drains.
const POLL: Duration = Duration::from_millis(50);

/// Runs what a message says, on this machine.
pub trait Execute: Send + Sync + 'static {
    /// Runs the task of a tenant to its end. Dropping the future ends the task.
    fn execute(
        &self,
        message: TaskMessage,
        tenant: &Token,
    ) -> impl Future<Output = Executed> + Send;
}

/// What came of running a task.
#[derive(Debug)]
pub enum Executed {
    /// It ended, and this is its answer, whatever the guest did.
    Answer(Box<Answer>),
    /// This worker could not run it; another may. For this reason.
    GiveBack(String),
}

/// What a worker is doing. Times and counts are since its start.
#[derive(Debug, Default)]
pub struct Counters {
    running: AtomicUsize,
    in_hand: AtomicUsize,
    answered: AtomicU64,
    late: AtomicU64,
    given_back: AtomicU64,
    buried: AtomicU64,
    draining: AtomicBool,
}

impl Counters {
    /// Tasks that run now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Tasks that it has leased, with those whose answers are on their way.
    pub fn in_hand(&self) -> usize {
        self.in_hand.load(Ordering::Relaxed)
    }

    /// Tasks that it answered, and whose answer is the result.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Tasks that ran here although another answer was first.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    /// Tasks given back to the queue.
    pub fn given_back(&self) -> u64 {
        self.given_back.load(Ordering::Relaxed)
    }

    /// Tasks moved to the dead.
    pub fn buried(&self) -> u64 {
        self.buried.load(Ordering::Relaxed)
    }

    /// Whether it takes no more tasks.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// How far the end of a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It takes tasks.
    Running,
    /// It takes no more, and finishes those in hand.
    Draining,
    /// It gives back what has not ended.
    Ending,
}

/// A worker of a queue: [`Worker::run`].
pub struct Worker<Q, E> {
    queue: Arc<Q>,
    execute: Arc<E>,
    jobs: usize,
    name: String,
    phase: watch::Sender<Phase>,
    counters: Arc<Counters>,
    freed: Arc<Notify>,
    observer: Observer,
    /// The latest version of messages that it runs.
    knows: u32,
}

impl<Q, E> std::fmt::Debug for Worker<Q, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<Q: Queue, E: Execute> Worker<Q, E> {
    /// A worker of this name, which runs up to `jobs` tasks at the same time.
    pub fn new(queue: Arc<Q>, execute: Arc<E>, name: impl Into<String>, jobs: usize) -> Arc<Self> {
        let observer = Observer::new(Arc::new(Metrics::new(&Weights::default())));
        Worker::observed(queue, execute, name, jobs, observer)
    }

    /// The same, which says there what it does.
    pub fn observed(
        queue: Arc<Q>,
        execute: Arc<E>,
        name: impl Into<String>,
        jobs: usize,
        observer: Observer,
    ) -> Arc<Self> {
        Arc::new(Worker {
            queue,
            execute,
            jobs: jobs.max(1),
            name: name.into(),
            phase: watch::Sender::new(Phase::Running),
            counters: Arc::default(),
            freed: Arc::default(),
            observer,
            knows: VERSION,
        })
    }

    /// What it is doing.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Appends all that it counts to a text in the form of OpenMetrics, without its last line.
    ///
    /// # Errors
    ///
    /// `to` takes no more.
    pub fn write_metrics(&self, to: &mut impl std::fmt::Write) -> std::fmt::Result {
        let room = match self.counters.is_draining() {
            true => 0,
            false => self.room(),
        };
        self.observer.metrics.write(to, &self.counters, room)
    }

    /// Takes tasks and runs them, until [`Worker::drain`]. It goes on when the queue cannot be
    /// reached.
    ///
    /// # Errors
    ///
    /// The queue refuses the worker, in a way that trying again does not change.
    pub async fn run(self: &Arc<Self>) -> Result<(), Error> {
        let mut phase = self.phase.subscribe();
        let mut tasks = JoinSet::new();
        let (mut pause, mut is_unreachable) = (PAUSE, false);
        let ended = loop {
            let room = self.room();
            tokio::select! {
                biased;
                () = left(&mut phase) => break Ok(()),
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                // A task that ends its run makes room before it is joined.
                () = self.freed.notified() => {}
                leases = self.queue.lease(room), if room > 0 => match leases {
                    Ok(leases) => {
                        if std::mem::take(&mut is_unreachable) {
                            (self.observer.events)(Event::Reachable);
                        }
                        pause = PAUSE;
                        for lease in leases {
                            let slot = Slot::new(self.counters.clone(), self.freed.clone());
                            tasks.spawn(self.clone().handle(lease, slot));
                        }
                    }
                    Err(error) if error.is_retryable() => {
                        self.observer.metrics.failed("lease");
                        if !std::mem::replace(&mut is_unreachable, true) {
                            (self.observer.events)(Event::Unreachable(error.to_string()));
                        }
                        tokio::select! {
                            () = tokio::time::sleep(pause) => {}
                            () = left(&mut phase) => break Ok(()),
                        }
                        pause = (pause * 2).min(PAUSE_MOST);
                    }
                    Err(error) => break Err(error),
                },
            }
        };
        if ended.is_err() {
            self.phase.send_replace(Phase::Ending);
        }
        self.counters.draining.store(true, Ordering::Relaxed);
        self.queue.close().await;
        while tasks.join_next().await.is_some() {}
        ended
    }

    /// Takes no more tasks, lets those in hand finish for this long, and gives back the rest.
    /// [`Worker::run`] returns when that is done. Returns how many were not finished in time.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.counters.draining.store(true, Ordering::Relaxed);
        self.phase.send_if_modified(|phase| {
            let is_running = *phase == Phase::Running;
            if is_running {
                *phase = Phase::Draining;
            }
            is_running
        });
        let all_ended = async {
            while self.counters.in_hand.load(Ordering::Relaxed) > 0 {
                // The run itself waits for slots, too, and either is woken.
                let _ = tokio::time::timeout(POLL, self.freed.notified()).await;
            }
        };
        match tokio::time::timeout(grace, all_ended).await {
            Ok(()) => 0,
            Err(_) => {
                // Before they hear of it, and are none.
                let left = self.counters.in_hand.load(Ordering::Relaxed);
                self.phase.send_replace(Phase::Ending);
                left
            }
        }
    }

    /// How many tasks can start now.
    fn room(&self) -> usize {
        let idle = self.jobs.saturating_sub(self.counters.running());
        let in_hand = self.counters.in_hand.load(Ordering::Relaxed);
        idle.min((self.jobs + ANSWERING).saturating_sub(in_hand))
    }
}

/// Waits until the worker takes no more tasks.
async fn left(phases: &mut watch::Receiver<Phase>) {
    // The sender is in the worker.
    let _ = phases.wait_for(|phase| *phase != Phase::Running).await;
}
