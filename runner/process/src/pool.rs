//! The workers of one artifact, for tasks with one kind of grants: a zygote that forks
//! them, idle spares, workers that may be used again.
//!
//! Invariant: an unused idle worker has not run any guest code: a warm-up ends before a
//! guest's first instruction. Starts that keep failing are slowed down and then refused
//! ([`Breaker`]).

mod launch;

use super::breaker::{Breaker, Failure, Restraint};
use super::census::{Census, Kind};
use super::error::ProcessError;
use super::group::Group;
use super::plain::Plain;
use super::spawn::Spawner;
use super::trace;
use super::users::Users;
use super::worker::Worker;
use super::zygote::{NotForked, Zygote};
use crate::jail::{Grants, Plan};
use crate::wire::Spare;
pub(super) use launch::bounded;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use wrun_sandbox::Code;
use wrun_sys::Unpoisoned;
use wrun_types::config::Start;
use wrun_types::outcome;
use wrun_types::spec::Spec;

/// How long no worker must have been taken before spares are made.
const QUIET: Duration = Duration::from_millis(2);

/// What all pools of a runner share.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) start: Start,
    pub(super) spares: usize,
    /// Tasks that a worker runs before it ends.
    pub(super) reuse: u32,
    pub(super) idle_timeout: Duration,
    /// The jail, except for the grants of tasks.
    pub(super) plan: Plan,
    /// The users of started programs; `None` if they keep the runner's user, or have the
    /// configured one.
    pub(super) users: Option<Arc<Users>>,
    /// For all workers; `None` without a jail.
    pub(super) group: Option<Arc<Group>>,
    /// What was reported about their jails.
    pub(super) reported: Arc<trace::Reported>,
    pub(super) census: Arc<Census>,
}

pub(super) struct Pool {
    code: Arc<Mutex<Arc<Code>>>,
    spawner: Arc<Spawner>,
    settings: Settings,
    grants: Grants,
    state: Mutex<Workers>,
    /// Held while a zygote is started: others wait for it.
    starting: tokio::sync::Mutex<()>,
    closing: CancellationToken,
}

#[derive(Default)]
struct Workers {
    zygote: Option<Arc<Zygote>>,
    /// Unused workers.
    spares: VecDeque<Worker>,
    /// Workers that have run a task and may run more.
    used: Vec<Worker>,
    /// Spares that have completed their task, and wait to be ended.
    spent: VecDeque<Worker>,
    /// A task is making spares, or waiting for the time to.
    tended: bool,
    breaker: Breaker,
    /// No more are kept.
    closed: bool,
    last_use: Option<Instant>,
    /// For a task like the last one.
    usual: Option<Spare>,
}

/// A worker for a task, and a note about how it was started.
pub(super) struct Taken {
    pub(super) worker: Worker,
    pub(super) note: Option<String>,
}

/// Why a worker is not available.
pub(super) enum NoWorker {
    Error(ProcessError),
    /// The engine in the worker does not accept the code.
    Stale(String),
}

impl From<ProcessError> for NoWorker {
    fn from(error: ProcessError) -> Self {
        NoWorker::Error(error)
    }
}

/// Why a started program is not ready.
enum NotReady {
    No(NoWorker),
    /// It died; the next one may not.
    Died(Failure, String),
    /// Another caller's start failed meanwhile.
    Failed,
}

impl Pool {
    pub(super) fn new(
        code: Arc<Mutex<Arc<Code>>>,
        spawner: Arc<Spawner>,
        settings: Settings,
        grants: Grants,
    ) -> Self {
        Pool {
            code,
            spawner,
            settings,
            grants,
            state: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            closing: CancellationToken::new(),
        }
    }

    /// Ends the idle workers, and keeps no more. Those that run a task continue.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.closing.cancel();
        self.rest();
    }

    /// A worker that waits for an order, for such a task; or one that has it, if the task
    /// is `plain`.
    pub(super) async fn take(
        self: &Arc<Self>,
        task: &Spec,
        plain: Option<&Plain>,
    ) -> Result<Taken, NoWorker> {
        let memory = crate::memory_of_a_process(task);
        self.state().usual = Some(Spare {
            limits: task.limits.clone(),
            memory,
        });
        let mut note = None;
        loop {
            while let Some(mut worker) = self.waiting(memory) {
                // A worker that was killed while it waited does not decide an outcome, nor does
                // one that sent a message without an order.
                let is_dead = worker.life.is_dead();
                if !is_dead && worker.says.is_quiet() {
                    return Ok(Taken { worker, note });
                }
                if is_dead {
                    self.settings.census.died();
                }
            }
            let (restraint, round) = {
                let breaker = &self.state().breaker;
                (breaker.restraint(Instant::now()), breaker.round())
            };
            match restraint {
                Restraint::None => {}
                Restraint::Wait(time) => {
                    tokio::time::sleep(time).await;
                    continue;
                }
                Restraint::Open {
                    failures,
                    last,
                    again,
                } => {
                    return Err(NoWorker::Error(ProcessError::CrashLoop {
                        failures,
                        last,
                        again,
                    }));
                }
            }
            let made = match self.settings.start {
                // A zygote is one more process to keep: if there are too many already, a task
                // does without.
                Start::Fork if self.has_zygote() || self.spawner.has_spare() => {
                    match self.fork(round, None, plain).await {
                        Ok(worker) => Ok(worker),
                        Err(NotMade::Refused(why)) => {
                            trace::not_forked(&why);
                            note = Some(format!("started by exec: forking failed: {why}"));
                            self.exec(None).await
                        }
                        Err(NotMade::Not(not)) => Err(not),
                    }
                }
                Start::Fork => {
                    note = Some("started by exec: too many zygotes".to_owned());
                    self.exec(None).await
                }
                Start::Exec => self.exec(None).await,
            };
            match made {
                Ok(worker) => return Ok(Taken { worker, note }),
                Err(NotReady::No(no)) => return Err(no),
                Err(NotReady::Died(how, why)) => self.failed(round, how, why),
                Err(NotReady::Failed) => {}
            }
        }
    }

    /// Idle workers: those that have not run a task, and those that may run another.
    pub(super) fn idle(&self) -> (usize, usize) {
        let state = self.state();
        (state.spares.len(), state.used.len())
    }

    /// A worker completed its task. It may get another one, if it is unchanged.
    pub(super) fn give_back(&self, worker: Option<Worker>) {
        let mut state = self.state();
        state.breaker.succeeded();
        let Some(worker) = worker.filter(|_| !state.closed) else {
            return;
        };
        if worker.tasks < self.settings.reuse {
            state.used.push(worker);
            return;
        }
        // Freeing the memory of a process takes the kernel as long as the task ran. If there
        // are few enough tasks for spares, that can wait.
        if worker.spare {
            state.spent.push_back(worker);
        }
        let over = state.spent.len().saturating_sub(self.settings.spares);
        let ended: Vec<_> = state.spent.drain(..over).collect();
        drop(state);
        drop(ended);
    }

    /// Makes spares when there is time for it: after tasks have stopped arriving for a
    /// moment. Forking and warming up takes a processor for a fraction of a millisecond,
    /// which running tasks can use better.
    pub(super) fn tend(self: &Arc<Self>) {
        {
            let mut state = self.state();
            let done = state.spares.len() >= self.settings.spares && state.spent.is_empty();
            if state.tended || state.closed || done {
                return;
            }
            state.tended = true;
        }
        let pool = self.clone();
        tokio::spawn(async move {
            loop {
                pool.await_quiet().await;
                let spent = std::mem::take(&mut pool.state().spent);
                drop(spent);
                while let Some((round, spare)) = pool.wants_spare() {
                    // If its walls do not depend on the grants of a task.
                    let tight = (!pool.grants.any()).then_some(spare.memory);
                    let made = match pool.settings.start {
                        Start::Fork => {
                            let made = pool.fork(round, Some(spare), None).await;
                            made.map_err(|_| ())
                        }
                        Start::Exec => pool.exec(Some(spare)).await.map_err(|_| ()),
                    };
                    // A failure is left for the next task to meet, and to report.
                    let Ok(mut worker) = made else {
                        break;
                    };
                    worker.memory = tight;
                    worker.spare = true;
                    let mut state = pool.state();
                    if !state.closed {
                        state.spares.push_back(worker);
                    }
                }
                let mut state = pool.state();
                if state.spent.is_empty() {
                    state.tended = false;
                    return;
                }
            }
        });
    }

    /// Waits until no worker has been taken for a moment.
    async fn await_quiet(&self) {
        loop {
            let last = self.state().last_use;
            let quiet = last.map_or(QUIET, |last| last.elapsed());
            if quiet >= QUIET {
                return;
            }
            tokio::time::sleep(QUIET - quiet).await;
        }
    }

    /// The spare to make, if any, and the round of starts to which it belongs.
    fn wants_spare(&self) -> Option<(u64, Spare)> {
        let state = self.state();
        let wanted = state.spares.len() < self.settings.spares
            && state.breaker.restraint(Instant::now()) == Restraint::None
            && !state.closed
            && self.spawner.has_spare();
        let usual = state.usual.clone().filter(|_| wanted)?;
        Some((state.breaker.round(), usual))
    }

    fn state(&self) -> MutexGuard<'_, Workers> {
        self.state.lock().unpoisoned()
    }

    /// An idle worker whose walls leave a task this much memory: those of a used one are as
    /// wide as its first task needed, those of a spare as the task before it was made.
    fn waiting(&self, memory: u64) -> Option<Worker> {
        let mut state = self.state();
        state.last_use = Some(Instant::now());
        let fits = |worker: &Worker| worker.memory.is_none_or(|has| has >= memory);
        if let Some(at) = state.used.iter().rposition(fits) {
            return Some(state.used.swap_remove(at));
        }
        // One that fits replaces it, so that their number does not grow.
        let narrow = state.used.pop();
        let mut others = Vec::new();
        let spare = loop {
            match state.spares.pop_front() {
                Some(spare) if spare.memory.is_none_or(|has| has == memory) => break Some(spare),
                Some(spare) => others.push(spare),
                None => break None,
            }
        };
        drop(state);
        drop((narrow, others));
        spare
    }

    fn failed(&self, round: u64, how: Failure, why: String) {
        let jitter = rand::random::<f64>();
        let now = Instant::now();
        let restraint = {
            let breaker = &mut self.state().breaker;
            if breaker.round() != round {
                return;
            }
            breaker.failed(round, now, how, why.clone(), jitter);
            breaker.restraint(now)
        };
        trace::start_failed(how, &why, &restraint);
    }

    fn alive_zygote(&self) -> Option<Arc<Zygote>> {
        let zygote = self.state().zygote.clone();
        zygote.filter(|zygote| zygote.is_alive())
    }

    fn has_zygote(&self) -> bool {
        self.state().zygote.is_some()
    }

    /// Drops all idle workers.
    fn rest(&self) {
        let let_go = {
            let mut state = self.state();
            (
                state.zygote.take(),
                std::mem::take(&mut state.spares),
                std::mem::take(&mut state.used),
                std::mem::take(&mut state.spent),
            )
        };
        drop(let_go);
    }

    /// A worker from the zygote; starts a zygote if there is none.
    async fn fork(
        self: &Arc<Self>,
        round: u64,
        spare: Option<Spare>,
        order: Option<&Plain>,
    ) -> Result<Worker, NotMade> {
        let zygote = self.zygote(round).await?;
        let permit = self.spawner.permit().await.map_err(NoWorker::from)?;
        let born = zygote.fork(permit, spare, order).await;
        match born {
            Ok(born) => Ok(Worker::forked(born)),
            Err(NotForked::Refused(error)) => Err(NotMade::Refused(error.to_string())),
            Err(NotForked::Gone(how)) => {
                let mut why = match how {
                    Failure::Killed => "the zygote that forks workers died",
                    Failure::Own => "the zygote that forks workers had to be ended",
                }
                .to_owned();
                if let Some(stderr) = zygote.stderr() {
                    why = format!("{why}; it said: {}", outcome::on_one_line(&stderr));
                }
                Err(NotReady::Died(how, why).into())
            }
        }
    }

    async fn zygote(self: &Arc<Self>, round: u64) -> Result<Arc<Zygote>, NotReady> {
        if let Some(zygote) = self.alive_zygote() {
            return Ok(zygote);
        }
        // Continues if the caller is gone: with short deadlines and a slow start there would
        // never be a zygote.
        let pool = self.clone();
        let starting = tokio::spawn(async move {
            let started = tokio::select! {
                started = pool.start_zygote(round) => started,
                () = pool.closing.cancelled() => Err(NotReady::No(ProcessError::ShutDown.into())),
            };
            if let Err(NotReady::Died(how, why)) = &started {
                pool.failed(round, *how, why.clone());
            }
            started
        });
        match starting.await {
            Ok(started) => started,
            Err(_) => Err(NotReady::No(ProcessError::ShutDown.into())),
        }
    }

    async fn start_zygote(self: &Arc<Self>, round: u64) -> Result<Arc<Zygote>, NotReady> {
        let _one_at_a_time = self.starting.lock().await;
        if let Some(zygote) = self.alive_zygote() {
            return Ok(zygote);
        }
        if self.state().breaker.round() != round {
            return Err(NotReady::Failed);
        }
        if self.has_zygote() {
            self.settings.census.died();
        }
        let (launch, jail) = self.launch(true, None).await?;
        let zygote = Zygote::new(launch, jail, self.settings.census.clone());
        {
            let mut state = self.state();
            if state.closed {
                return Err(NotReady::No(ProcessError::ShutDown.into()));
            }
            state.zygote = Some(zygote.clone());
            state.last_use = Some(Instant::now());
        }
        tokio::spawn(idle(Arc::downgrade(self), self.settings.idle_timeout));
        Ok(zygote)
    }

    /// A worker that is a separate program.
    async fn exec(&self, spare: Option<Spare>) -> Result<Worker, NotReady> {
        let (launch, jail) = self.launch(false, spare).await?;
        let pid = Some(launch.child.id());
        let counted = self.settings.census.enter(Kind::Worker, pid);
        Ok(Worker::started(launch, jail, counted))
    }
}

/// Why nothing was forked.
enum NotMade {
    /// The system refused; exec may work.
    Refused(String),
    Not(NotReady),
}

impl From<NotReady> for NotMade {
    fn from(not: NotReady) -> Self {
        NotMade::Not(not)
    }
}

impl From<NoWorker> for NotReady {
    fn from(no: NoWorker) -> Self {
        NotReady::No(no)
    }
}

impl From<NoWorker> for NotMade {
    fn from(no: NoWorker) -> Self {
        NotMade::Not(NotReady::No(no))
    }
}

/// Drops a pool's zygote and spares after it was not used for this long.
async fn idle(pool: Weak<Pool>, timeout: Duration) {
    loop {
        let last = {
            let Some(pool) = pool.upgrade() else {
                return;
            };
            let state = pool.state();
            if state.zygote.is_none() {
                return;
            }
            state.last_use
        };
        let idle = last.map_or(timeout, |last| last.elapsed());
        if idle >= timeout {
            if let Some(pool) = pool.upgrade() {
                pool.rest();
            }
            return;
        }
        tokio::time::sleep(timeout - idle).await;
    }
}
