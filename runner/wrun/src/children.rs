//! Child tasks: the tasks that a task starts from those it was granted, in its own mode.
//!
//! A submitted task and all below it are a *tree*, whose bounds are the submitted task's.
//! Invariants: a child ends before its parent's report is given out; beyond a bound a
//! request is refused at once and never waits; children take no permits of submitted tasks,
//! which may be waiting for them.

use crate::launch::{Launch, Request, RunPermit, Starter};
use crate::task_grant::TaskGrant;
use crate::trace;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use wrun_sandbox::Budgets;
use wrun_sandbox::InputKind;
use wrun_sandbox::Sink;
use wrun_sandbox::deadline::{Deadline, until};
use wrun_sandbox::executor::Executed;
use wrun_sandbox::port::Port;
use wrun_sandbox::region::Maker;
use wrun_sandbox::services::{SpawnError, TaskServices as _};
use wrun_sandbox::stop::Stop;
use wrun_sandbox::token::Token;
use wrun_sandbox::turn::Turn;
use wrun_sys::Unpoisoned;
use wrun_types::limits::Limits;
use wrun_types::outcome::{Crash, Outcome, Output};
use wrun_types::spec::Spec;

/// State that a submitted task and all below it share.
pub(crate) struct Tree {
    grants: HashMap<String, TaskGrant>,
    max_depth: u32,
    max_tasks: u32,
    max_memory: u64,
    /// See [`Spec::child_data`].
    child_data: u64,
    held: Mutex<Held>,
}

/// The totals of the tasks of a tree.
struct Held {
    tasks: u32,
    /// The memory limits of those that run, and the output of those that ended.
    memory: u64,
    /// Regions made for tasks that ended, which others still have.
    left: Vec<Arc<Maker>>,
}

impl Held {
    /// Bytes of regions whose makers have ended.
    fn in_regions(&mut self) -> u64 {
        // One of them checks for all that are gone.
        if let Some(any) = self.left.first() {
            any.bytes();
        }
        self.left.retain(|maker| maker.known_bytes() > 0);
        let bytes = self.left.iter().map(|maker| maker.known_bytes());
        bytes.fold(0, u64::saturating_add)
    }
}

/// A child's share of its tree's bounds; returned when it is dropped.
struct Slot {
    tree: Arc<Tree>,
    memory: AtomicU64,
}

/// The children of one task.
pub(crate) struct Children {
    starter: Arc<Starter>,
    tree: Arc<Tree>,
    /// Depth of the task above the children, 0 for a submitted one.
    depth: u32,
    limits: Limits,
    deadline: Option<Deadline>,
    cancel: Token,
    /// Kills all of them.
    kill: Token,
    /// Grace period of the task above the children, and of those whose grant does not set
    /// one.
    grace: Duration,
    handles: Mutex<Handles>,
    running: TaskTracker,
}

struct Handles {
    started: u64,
    /// For the stderr of children; `None` once no more are started.
    stderr: Option<Sink>,
    held: HashMap<u64, Child>,
}

/// A child whose handle its parent holds.
struct Child {
    stop: Stop,
    end: watch::Receiver<Option<Outcome>>,
    _slot: Arc<Slot>,
}

impl Tree {
    /// For a submitted task with these grants and limits.
    pub(crate) fn new(grants: Vec<TaskGrant>, limits: &Limits) -> Arc<Self> {
        Arc::new(Tree {
            child_data: child_data(&grants, limits),
            grants: grants
                .into_iter()
                .map(|grant| (grant.name.clone(), grant))
                .collect(),
            max_depth: limits.max_depth,
            max_tasks: limits.max_tasks,
            max_memory: limits.max_total_memory,
            held: Mutex::new(Held {
                tasks: 0,
                memory: limits.max_memory,
                left: Vec::new(),
            }),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unpoisoned()
    }

    fn slot(self: &Arc<Self>, memory: u64) -> Option<Slot> {
        let mut held = self.held();
        let total = held.memory.checked_add(memory)?;
        let with_regions = total.checked_add(held.in_regions())?;
        if held.tasks >= self.max_tasks || with_regions > self.max_memory {
            return None;
        }
        held.tasks += 1;
        held.memory = total;
        Some(Slot {
            tree: self.clone(),
            memory: AtomicU64::new(memory),
        })
    }
}

impl Slot {
    /// Reduces it to what an ended child leaves: this many bytes, and the regions that were
    /// made for it.
    fn shrink(&self, memory: u64, regions: Option<&Arc<Maker>>) {
        let mut held = self.tree.held();
        let before = self.memory.load(Ordering::Relaxed);
        let after = memory.min(before);
        self.memory.store(after, Ordering::Relaxed);
        held.memory = held.memory.saturating_sub(before - after);
        if let Some(regions) = regions.filter(|made| made.known_bytes() > 0) {
            held.left.push(regions.clone());
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.tree.held();
        held.tasks = held.tasks.saturating_sub(1);
        held.memory = held
            .memory
            .saturating_sub(self.memory.load(Ordering::Relaxed));
    }
}

impl Children {
    /// The children of a task at this depth of a tree; they end with the task.
    pub(crate) fn new(
        starter: Arc<Starter>,
        tree: Arc<Tree>,
        depth: u32,
        limits: Limits,
        deadline: Option<Deadline>,
        stop: &Stop,
        stderr: &Sink,
    ) -> Self {
        Children {
            starter,
            tree,
            depth,
            limits,
            deadline,
            cancel: stop.cancel.clone(),
            kill: stop.kill.child(),
            grace: stop.grace,
            handles: Mutex::new(Handles {
                started: 0,
                stderr: Some(stderr.clone()),
                held: HashMap::new(),
            }),
            running: TaskTracker::new(),
        }
    }

    fn handles(&self) -> MutexGuard<'_, Handles> {
        self.handles.lock().unpoisoned()
    }

    /// Children started so far.
    pub(crate) fn started(&self) -> u64 {
        self.handles().started
    }

    /// Starts the child granted as `name`. Needs the context of the runner's tokio
    /// runtime.
    pub(crate) fn spawn(
        &self,
        name: &str,
        input: InputKind,
        len: u64,
        port: Option<Box<Port>>,
    ) -> Result<u64, (SpawnError, Option<Box<Port>>)> {
        let Some(grant) = self.tree.grants.get(name) else {
            return Err((SpawnError::NotGranted, port));
        };
        let limits = grant.limits.clone().unwrap_or_else(|| {
            let mut limits = self.limits.clone();
            limits.timeout = None;
            limits
        });
        let budget = limits.input_budget(grant.artifact.shape());
        if budget.is_some_and(|budget| len > budget) {
            return Err((SpawnError::TooLarge, port));
        }
        let mut state = self.handles();
        let Some(to) = state.stderr.clone() else {
            return Err((SpawnError::Limit, port));
        };
        if self.depth >= self.tree.max_depth {
            return Err((SpawnError::Limit, port));
        }
        let Some(slot) = self.tree.slot(limits.max_memory) else {
            return Err((SpawnError::Limit, port));
        };
        let Ok(permit) = self.starter.child_permits.clone().try_acquire_owned() else {
            return Err((SpawnError::Limit, port));
        };
        to.share();
        let slot = Arc::new(slot);
        let own = limits.timeout.and_then(Deadline::after);
        let deadline = match (own, self.deadline) {
            (Some(own), Some(theirs)) => Some(own.min(theirs)),
            (own, theirs) => own.or(theirs),
        };
        let stdout = Sink::capture(limits.output_budget(true).unwrap_or(u64::MAX));
        let (stderr, said) = Sink::channel(limits.output_budget(false));
        let launch = self.starter.launch(Request {
            artifact: grant.artifact.clone(),
            spec: Arc::new(Spec {
                args: grant.args.clone(),
                limits,
                child_data: self.tree.child_data,
                ..Spec::new(grant.name.clone())
            }),
            input,
            stdout: stdout.clone(),
            stderr,
            exchange: None,
            port: port.map(|port| *port),
            progress: None,
            deadline,
            cancel: self.cancel.child(),
            kill: self.kill.child(),
            grace: grant.grace.unwrap_or(self.grace),
            retries: 0,
            tree: Some((self.tree.clone(), self.depth + 1)),
            permit: RunPermit::Acquired(permit),
        });
        let id = launch.job.task_id;
        let (stop, span) = (launch.stop.clone(), launch.span.clone());
        let (told, end) = watch::channel(None);
        let running = Running {
            starter: self.starter.clone(),
            launch,
            stdout,
            said,
            to,
            slot: slot.clone(),
        };
        let running = async move {
            let end = running.run().await;
            told.send_replace(Some(end));
        };
        self.running.spawn(running.instrument(span));
        state.started += 1;
        let child = Child {
            stop,
            end,
            _slot: slot,
        };
        state.held.insert(id, child);
        Ok(id)
    }

    /// Waits for a child's end; `None` if there is no such child.
    pub(crate) async fn ended(&self, id: u64) -> Option<Outcome> {
        let mut end = self.handles().held.get(&id)?.end.clone();
        let ended = end.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|end| end.clone());
        // A parent whose time is up learns nothing more: it ends by its own deadline, whichever
        // of the two is noticed first.
        if self.deadline.is_some_and(Deadline::has_passed) {
            std::future::pending::<()>().await;
        }
        // Its task panicked, which is a bug.
        let lost = || {
            Outcome::Crashed(Crash::Runner(
                "the runner failed while it ran the task".into(),
            ))
        };
        Some(ended.unwrap_or_else(lost))
    }

    /// Requests a child to stop, and ends it after its grace period; `false` if there is no
    /// such child.
    pub(crate) fn kill(&self, id: u64) -> bool {
        let state = self.handles();
        let child = state.held.get(&id);
        child.map(|child| child.stop.requested.cancel()).is_some()
    }

    /// Ends a child at once and forgets it; `false` if there is no such child.
    pub(crate) fn release(&self, id: u64) -> bool {
        let child = self.handles().held.remove(&id);
        child.map(|child| child.stop.kill.cancel()).is_some()
    }

    /// Starts no more, ends the existing ones, and waits until they are gone.
    pub(crate) async fn end(&self) {
        self.handles().stderr = None;
        self.kill.cancel();
        self.running.close();
        self.running.wait().await;
        let held = std::mem::take(&mut self.handles().held);
        drop(held);
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

/// Maximum of bytes that the host of a task with these limits and grants holds of one of
/// its children, as input or output.
pub(crate) fn child_data(grants: &[TaskGrant], inherited: &Limits) -> u64 {
    let of = |grant: &TaskGrant| {
        let limits = grant.limits.as_ref().unwrap_or(inherited);
        let input = limits.max_input.unwrap_or(Limits::INPUT_DEFAULT);
        let output = limits.output_budget(true).unwrap_or(0);
        input.max(output)
    };
    grants.iter().map(of).max().unwrap_or(0)
}

/// One child on its way to its end.
struct Running {
    starter: Arc<Starter>,
    launch: Launch,
    stdout: Sink,
    /// Its stderr, and the sink for it.
    said: mpsc::Receiver<Bytes>,
    to: Sink,
    slot: Arc<Slot>,
}

impl Running {
    async fn run(self) -> Outcome {
        let Running {
            starter,
            launch,
            stdout,
            said,
            to,
            slot,
        } = self;
        let deadline = launch.job.deadline;
        let services = launch.provider.clone();
        let stop = launch.stop.clone();
        let began = launch.submitted;
        let running = async {
            let ran = launch.run(&starter.executor).await;
            if let Some(end) = services.end() {
                end.await;
            }
            ran
        };
        let mut pumping = std::pin::pin!(pump(said, to));
        let mut running = std::pin::pin!(running);
        let mut pumped = false;
        let ran = loop {
            tokio::select! {
                biased;
                ran = &mut running => break ran,
                () = &mut pumping, if !pumped => pumped = true,
            }
        };
        // The reader of its parent's stderr sets the pace, but the wait for it is bounded.
        if !pumped {
            tokio::select! {
                biased;
                () = pumping => {}
                () = stop.kill.cancelled() => {}
                () = stop.over() => {}
                () = until(deadline) => {}
            }
        }
        trace::child_ended(&ran, began);
        let end = match ran {
            Ok(ran) => {
                drop(ran.permit);
                outcome_of(ran.executed, &stdout).await
            }
            Err(error) => Outcome::Crashed(Crash::Runner(format!("it could not be run: {error}"))),
        };
        let kept = match &end {
            Outcome::Completed(output) => output.len() as u64,
            _ => 0,
        };
        slot.shrink(kept, services.regions());
        end
    }
}

/// Forwards the stderr of a child, until it ends or its reader is gone.
async fn pump(mut said: mpsc::Receiver<Bytes>, to: Sink) {
    let mut turn = Turn::new();
    while let Some(chunk) = said.recv().await {
        turn.spend(chunk.len());
        if !to.put(chunk).await {
            break;
        }
        turn.give_way().await;
    }
}

/// The outcome of a child, as its parent may see it.
async fn outcome_of(executed: Executed, stdout: &Sink) -> Outcome {
    match executed.result.outcome {
        Outcome::Completed(_) => Outcome::Completed(Output(stdout.take_in_turns().await)),
        // The stderr of the host's code is not for the parent.
        Outcome::Crashed(crash) => Outcome::Crashed(crash.how().clone()),
        other => other,
    }
}
