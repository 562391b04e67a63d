//! A queue in memory, with the clock of the runtime: for tests of the worker, which can pause
//! that clock, and for simulations.

use super::{Completion, History, LaneKey, Lease, Marks, Queue, Turns, Weights};
use crate::error::{Error, ErrorKind};
use crate::protocol::{Answer, AnswerKind, DeadTask, TaskId, TaskMessage, Token};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A queue in this process. Clones are the same queue, as several workers see it.
#[derive(Clone, Debug)]
pub struct MemoryQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ack_wait: Duration,
    state: Mutex<State>,
    changed: Notify,
    marks: Marks,
}

#[derive(Debug)]
struct State {
    turns: Turns,
    lanes: BTreeMap<LaneKey, VecDeque<Waiting>>,
    leased: BTreeMap<String, Leased>,
    results: HashMap<TaskId, Answer>,
    given_back: HashMap<TaskId, u64>,
    dead: Vec<DeadTask>,
    numbers: u64,
    calls: u64,
    is_reachable: bool,
}

#[derive(Debug)]
struct Waiting {
    body: Bytes,
    submitted: Instant,
    deliveries: u64,
    from: Instant,
}

#[derive(Debug)]
struct Leased {
    lane: LaneKey,
    body: Bytes,
    submitted: Instant,
    deliveries: u64,
    until: Instant,
}

impl MemoryQueue {
    /// An empty queue whose leases last this long.
    pub fn new(ack_wait: Duration) -> Self {
        let state = State {
            turns: Turns::new(Weights::default()),
            lanes: BTreeMap::new(),
            leased: BTreeMap::new(),
            results: HashMap::new(),
            given_back: HashMap::new(),
            dead: Vec::new(),
            numbers: 0,
            calls: 0,
            is_reachable: true,
        };
        MemoryQueue {
            shared: Arc::new(Shared {
                ack_wait,
                state: Mutex::new(state),
                changed: Notify::new(),
                marks: Marks::default(),
            }),
        }
    }

    /// Queues a message, valid or not.
    pub fn publish(&self, class: &Token, tenant: &Token, body: impl Into<Bytes>) {
        let lane = (class.clone(), tenant.clone());
        self.state()
            .lanes
            .entry(lane)
            .or_default()
            .push_back(Waiting {
                body: body.into(),
                submitted: Instant::now(),
                deliveries: 0,
                from: Instant::now(),
            });
        self.shared.changed.notify_waiters();
    }

    /// Whether calls reach the queue, or fail.
    pub fn reachable(&self, reachable: bool) {
        self.state().is_reachable = reachable;
        self.shared.changed.notify_waiters();
    }

    /// The result of a task.
    pub fn result(&self, id: &TaskId) -> Option<Answer> {
        self.state().results.get(id).cloned()
    }

    /// How many tasks have a result.
    pub fn results(&self) -> usize {
        self.state().results.len()
    }

    /// What was buried.
    pub fn dead(&self) -> Vec<DeadTask> {
        self.state().dead.clone()
    }

    /// How many tasks are queued or leased.
    pub fn len(&self) -> usize {
        let state = self.state();
        state.leased.len() + state.lanes.values().map(VecDeque::len).sum::<usize>()
    }

    /// Whether no task is queued or leased.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many calls of the verbs there were.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.shared.state.lock();
        state.unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn call(&self) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.state();
        state.calls += 1;
        match state.is_reachable {
            true => Ok(state),
            false => Err(Error::new(
                ErrorKind::Unavailable,
                "the queue cannot be reached",
            )),
        }
    }
}

impl State {
    /// What was not extended in time is queued again. Returns when that is next.
    fn expire(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let over = self.leased.iter().filter(|(_, leased)| leased.until <= now);
        let over: Vec<_> = over.map(|(handle, _)| handle.clone()).collect();
        for handle in over {
            if let Some(Leased {
                lane,
                body,
                submitted,
                deliveries,
                ..
            }) = self.leased.remove(&handle)
            {
                let from = now;
                let waiting = Waiting {
                    body,
                    submitted,
                    deliveries,
                    from,
                };
                self.lanes.entry(lane).or_default().push_front(waiting);
            }
        }
        let leased = self.leased.values().map(|leased| leased.until);
        let waiting = self.lanes.values().flatten().map(|waiting| waiting.from);
        leased.chain(waiting.filter(|from| *from > now)).min()
    }

    fn take(&mut self, ack_wait: Duration) -> Option<Lease> {
        let now = Instant::now();
        let ready = |waiting: &VecDeque<Waiting>| waiting.iter().any(|it| it.from <= now);
        let lanes = self
            .lanes
            .iter()
            .filter(|(_, waiting)| ready(waiting))
            .map(|(lane, _)| lane);
        let lane = self.turns.next(lanes)?;
        let queue = self.lanes.get_mut(&lane)?;
        let at = queue.iter().position(|it| it.from <= now)?;
        let Waiting {
            body,
            submitted,
            deliveries,
            ..
        } = queue.remove(at)?;
        if queue.is_empty() {
            self.lanes.remove(&lane);
        }
        self.numbers += 1;
        let lease = Lease {
            body,
            class: lane.0.clone(),
            tenant: lane.1.clone(),
            deliveries: deliveries + 1,
            waited: submitted.elapsed(),
            handle: self.numbers.to_string(),
        };
        self.leased.insert(
            lease.handle.clone(),
            Leased {
                lane,
                body: lease.body.clone(),
                submitted,
                deliveries: lease.deliveries,
                until: now + ack_wait,
            },
        );
        Some(lease)
    }
}

impl Queue for MemoryQueue {
    fn ack_wait(&self) -> Duration {
        self.shared.ack_wait
    }

    async fn lease(&self, room: usize) -> Result<Vec<Lease>, Error> {
        loop {
            let changed = self.shared.changed.notified();
            let (leases, next) = {
                let mut state = self.call()?;
                let next = state.expire();
                let take = || state.take(self.shared.ack_wait);
                (
                    std::iter::from_fn(take).take(room).collect::<Vec<_>>(),
                    next,
                )
            };
            if !leases.is_empty() {
                return Ok(leases);
            }
            let next = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    async fn extend(&self, lease: &Lease) -> Result<(), Error> {
        let mut state = self.call()?;
        state.expire();
        if let Some(leased) = state.leased.get_mut(&lease.handle) {
            leased.until = Instant::now() + self.shared.ack_wait;
        }
        Ok(())
    }

    async fn complete(
        &self,
        lease: &Lease,
        answer: Option<&Answer>,
        _reply_to: Option<&str>,
    ) -> Result<Completion, Error> {
        let mut state = self.call()?;
        let completion = match answer {
            Some(answer) if !state.results.contains_key(&answer.id) => {
                state.results.insert(answer.id.clone(), answer.clone());
                Completion::Won
            }
            _ => Completion::Late,
        };
        state.leased.remove(&lease.handle);
        Ok(completion)
    }

    async fn retry(
        &self,
        lease: &Lease,
        id: Option<&TaskId>,
        after: Duration,
        _why: &str,
    ) -> Result<(), Error> {
        let mut state = self.call()?;
        if let Some(id) = id {
            *state.given_back.entry(id.clone()).or_default() += 1;
        }
        if let Some(Leased {
            lane,
            body,
            submitted,
            deliveries,
            ..
        }) = state.leased.remove(&lease.handle)
        {
            let from = Instant::now() + after;
            let waiting = Waiting {
                body,
                submitted,
                deliveries,
                from,
            };
            state.lanes.entry(lane).or_default().push_back(waiting);
        }
        drop(state);
        self.shared.changed.notify_waiters();
        Ok(())
    }

    async fn bury(&self, lease: &Lease, dead: &DeadTask) -> Result<(), Error> {
        let mut state = self.call()?;
        state.dead.push(dead.clone());
        if let Some(id) = &dead.id {
            let answer = Answer::without_report(id.clone(), AnswerKind::Buried, &dead.why);
            state.results.entry(id.clone()).or_insert(answer);
        }
        state.leased.remove(&lease.handle);
        Ok(())
    }

    async fn history(&self, id: &TaskId) -> Result<History, Error> {
        let state = self.call()?;
        Ok(History {
            given_back: state.given_back.get(id).copied().unwrap_or(0),
            is_answered: state.results.contains_key(id),
        })
    }

    fn marks(&self) -> &Marks {
        &self.shared.marks
    }

    async fn close(&self) {}
}

impl MemoryQueue {
    /// Queues a task.
    ///
    /// # Errors
    ///
    /// What a worker would refuse, in words.
    pub fn submit(
        &self,
        class: &Token,
        tenant: &Token,
        message: &TaskMessage,
    ) -> Result<(), String> {
        self.publish(class, tenant, message.encode()?);
        Ok(())
    }
}
