//! One task in the hands of a worker, from its lease to its answer.

use super::metrics::Returned;
use super::{Counters, Event, Execute, Executed, Phase, Worker};
use crate::error::Error;
use crate::protocol::{Answer, AnswerKind, DeadTask, Malformed, TaskId, TaskMessage, now_ms};
use crate::queue::{Completion, History, Lease, Mark, Queue};
use crate::trace;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::Instrument as _;

/// How often a task may be given back, by all workers together, before it is buried.
const MOST_GIVEN_BACK: u64 = 20;
/// The pause before a task that was given back is delivered again; doubles up to
/// [`LATER_MOST`].
const LATER: Duration = Duration::from_secs(1);
const LATER_MOST: Duration = Duration::from_secs(60);
/// How long an answer is kept for a queue that cannot be reached. After that the task runs
/// again.
const KEPT: Duration = Duration::from_secs(600);
/// How long the last words to the queue may take when the worker ends.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// The pause before an answer is sent again; doubles up to [`AGAIN_MOST`].
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MOST: Duration = Duration::from_secs(5);

/// A place among the tasks that run, until they ran; and among those in hand, until dropped.
pub(super) struct Slot {
    counters: Arc<Counters>,
    freed: Arc<Notify>,
    is_running: bool,
}

impl Slot {
    pub(super) fn new(counters: Arc<Counters>, freed: Arc<Notify>) -> Self {
        counters.running.fetch_add(1, Ordering::Relaxed);
        counters.in_hand.fetch_add(1, Ordering::Relaxed);
        Slot {
            counters,
            freed,
            is_running: true,
        }
    }

    fn ran(&mut self) {
        if std::mem::take(&mut self.is_running) {
            self.counters.running.fetch_sub(1, Ordering::Relaxed);
            self.freed.notify_one();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.ran();
        self.counters.in_hand.fetch_sub(1, Ordering::Relaxed);
        self.freed.notify_one();
    }
}

/// What is to be done with a task.
enum Fate {
    Answer(Box<Answer>, Option<String>),
    /// It has a result, and leaves the queue.
    Settled,
    GiveBack {
        id: Option<TaskId>,
        before: u64,
        why: String,
        /// In a word; [`Returned::Draining`] does not put it at the back of the line.
        returned: Returned,
    },
    Bury {
        id: Option<TaskId>,
        why: String,
    },
}

impl<Q: Queue, E: Execute> Worker<Q, E> {
    /// Does all that a lease asks for. The lease is extended meanwhile.
    pub(super) async fn handle(self: Arc<Self>, lease: Lease, mut slot: Slot) {
        let began = Instant::now();
        self.observer.metrics.leased(&lease);
        let mut extending = tokio::time::interval_at(
            Instant::now() + self.queue.ack_wait() / 3,
            self.queue.ack_wait() / 3,
        );
        extending.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let message = TaskMessage::decode_up_to(&lease.body, self.knows);
        let parent = message.as_ref().ok();
        let parent = parent.map(|message| (&message.id, message.traceparent.as_deref()));
        let span = trace::processing(&lease, parent, self.observer.context.as_ref());
        let work = async {
            let fate = self.fate(&lease, message).await;
            slot.ran();
            self.carry_out(&lease, fate, began).await;
        };
        let work = work.instrument(span);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                () = &mut work => return,
                // If the queue cannot be reached, the next may.
                _ = extending.tick() => {
                    match self.queue.extend(&lease).await {
                        Ok(()) => self.observer.metrics.extended(),
                        Err(_) => self.observer.metrics.failed("extend"),
                    }
                }
            }
        }
    }

    async fn fate(&self, lease: &Lease, message: Result<TaskMessage, Malformed>) -> Fate {
        let message = match message {
            Ok(message) => message,
            Err(malformed) if malformed.is_newer => {
                let id = malformed.id;
                // Without an id nobody could count.
                let given_back = match &id {
                    Some(id) => self.history(id).await.map_or(0, |known| known.given_back),
                    None => lease.deliveries - 1,
                };
                let why = malformed.why;
                return match given_back < MOST_GIVEN_BACK {
                    true => Fate::GiveBack {
                        id,
                        before: given_back,
                        why,
                        returned: Returned::Newer,
                    },
                    false => Fate::Bury { id, why },
                };
            }
            Err(malformed) => {
                return Fate::Bury {
                    id: malformed.id,
                    why: malformed.why,
                };
            }
        };
        let id = message.id.clone();
        let mut known = History::default();
        if lease.deliveries > 1 || message.resubmitted {
            match self.history(&id).await {
                Ok(found) => known = found,
                Err(error) => {
                    return Fate::GiveBack {
                        id: Some(id),
                        before: 0,
                        why: error.to_string(),
                        returned: Returned::Unreachable,
                    };
                }
            }
        }
        if known.is_answered {
            return Fate::Settled;
        }
        let lost = (lease.deliveries - 1).saturating_sub(known.given_back);
        if lost >= message.most_lost() {
            let why = format!(
                "{lost} workers were lost, or lost their connection for longer than {:?}, while \
                 they ran it",
                self.queue.ack_wait()
            );
            return Fate::Bury { id: Some(id), why };
        }
        if let Some(mark) = self.queue.marks().get(&id) {
            return marked(id, mark);
        }
        if message
            .deadline_ms
            .is_some_and(|deadline| deadline <= now_ms())
        {
            let why = "its deadline passed while it was queued";
            let answer = Answer::without_report(id, AnswerKind::Expired, why);
            return Fate::Answer(Box::new(answer), message.reply_to);
        }
        let reply_to = message.reply_to.clone();
        let mut phase = self.phase.subscribe();
        tokio::select! {
            biased;
            mark = self.queue.marks().wait(&id) => marked(id, mark),
            () = at(&mut phase, Phase::Ending) => Fate::GiveBack {
                id: Some(id),
                before: 0,
                why: "the worker ends".into(),
                returned: Returned::Draining,
            },
            executed = self.execute.execute(message, &lease.tenant) => match executed {
                Executed::Answer(answer) => Fate::Answer(answer, reply_to),
                Executed::GiveBack(why) => self.failed_here(id, why).await,
            },
        }
    }

    /// A task that this worker could not run.
    async fn failed_here(&self, id: TaskId, why: String) -> Fate {
        let known = self.history(&id).await.unwrap_or_default();
        match known.given_back < MOST_GIVEN_BACK {
            true => Fate::GiveBack {
                id: Some(id),
                before: known.given_back,
                why,
                returned: Returned::Failed,
            },
            false => Fate::Bury {
                id: Some(id),
                why: format!("workers gave it back {MOST_GIVEN_BACK} times; the last said: {why}"),
            },
        }
    }

    async fn history(&self, id: &TaskId) -> Result<History, Error> {
        self.queue.history(id).await
    }

    async fn carry_out(&self, lease: &Lease, fate: Fate, began: Instant) {
        let named = |id: &Option<TaskId>| id.as_ref().map_or("-".to_owned(), TaskId::to_string);
        match fate {
            Fate::Answer(mut answer, reply_to) => {
                answer.worker = Some(self.name.clone());
                answer.deliveries = lease.deliveries;
                trace::ended(answer.outcome());
                let call = Call::Complete(Some(&answer), reply_to.as_deref());
                match self.until_reached(lease, call).await {
                    Some(Completion::Won) => {
                        self.counters.answered.fetch_add(1, Ordering::Relaxed);
                        let (class, in_hand) = (&lease.class, began.elapsed());
                        self.observer.metrics.answered(class, &answer, in_hand);
                    }
                    // Who cancelled it has answered it.
                    Some(Completion::Late) if answer.kind == AnswerKind::Cancelled => {
                        self.observer
                            .metrics
                            .ended(&lease.class, answer.kind.name());
                    }
                    Some(Completion::Late) => {
                        self.counters.late.fetch_add(1, Ordering::Relaxed);
                        (self.observer.events)(Event::Late(answer.id.to_string()));
                    }
                    None => self.observer.metrics.unanswered(),
                }
            }
            Fate::Settled => {
                trace::ended("settled");
                self.until_reached(lease, Call::Complete(None, None)).await;
                self.observer.metrics.ended(&lease.class, "settled");
            }
            Fate::GiveBack {
                id,
                before,
                why,
                returned,
            } => {
                trace::ended("given-back");
                let doubled = LATER * 2_u32.pow(before.min(6) as u32);
                let after = match returned {
                    Returned::Draining => Duration::ZERO,
                    _ => doubled.min(LATER_MOST),
                };
                let call = Call::Retry(id.as_ref(), after, &why);
                self.until_reached(lease, call).await;
                self.counters.given_back.fetch_add(1, Ordering::Relaxed);
                self.observer.metrics.given_back(returned);
                (self.observer.events)(Event::GivenBack(named(&id), why));
            }
            Fate::Bury { id, why } => {
                trace::ended(AnswerKind::Buried.name());
                let lane = (lease.class.clone(), lease.tenant.clone());
                let deliveries = lease.deliveries;
                let dead =
                    DeadTask::new(id.clone(), lane, &why, deliveries, &self.name, &lease.body);
                self.until_reached(lease, Call::Bury(&dead)).await;
                self.counters.buried.fetch_add(1, Ordering::Relaxed);
                self.observer
                    .metrics
                    .ended(&lease.class, AnswerKind::Buried.name());
                (self.observer.events)(Event::Buried(named(&id), why));
            }
        }
    }

    /// Calls until the queue was reached, for [`KEPT`], or for [`LAST_WORDS`] once the worker
    /// ends.
    async fn until_reached(&self, lease: &Lease, call: Call<'_>) -> Option<Completion> {
        let mut phase = self.phase.subscribe();
        tokio::select! {
            biased;
            done = self.calls(lease, call) => done,
            () = tokio::time::sleep(KEPT) => None,
            () = async {
                at(&mut phase, Phase::Ending).await;
                tokio::time::sleep(LAST_WORDS).await;
            } => None,
        }
    }

    async fn calls(&self, lease: &Lease, call: Call<'_>) -> Option<Completion> {
        let mut pause = AGAIN;
        loop {
            let called = match call {
                Call::Complete(answer, reply_to) => {
                    self.queue.complete(lease, answer, reply_to).await
                }
                Call::Retry(id, after, why) => {
                    let retried = self.queue.retry(lease, id, after, why).await;
                    retried.map(|()| Completion::Late)
                }
                Call::Bury(dead) => {
                    let buried = self.queue.bury(lease, dead).await;
                    buried.map(|()| Completion::Late)
                }
            };
            if called.is_err() {
                self.observer.metrics.failed(call.verb());
            }
            match called {
                Ok(done) => return Some(done),
                Err(error) if error.is_retryable() => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN_MOST);
                }
                Err(error) => {
                    (self.observer.events)(Event::Unreachable(error.to_string()));
                    return None;
                }
            }
        }
    }
}

/// A verb that ends a lease.
#[derive(Clone, Copy)]
enum Call<'a> {
    Complete(Option<&'a Answer>, Option<&'a str>),
    Retry(Option<&'a TaskId>, Duration, &'a str),
    Bury(&'a DeadTask),
}

impl Call<'_> {
    fn verb(self) -> &'static str {
        match self {
            Call::Complete(..) => "complete",
            Call::Retry(..) => "retry",
            Call::Bury(_) => "bury",
        }
    }
}

/// Waits until the worker is in this phase.
async fn at(phases: &mut watch::Receiver<Phase>, phase: Phase) {
    // The sender is in the worker.
    let _ = phases.wait_for(|now| *now == phase).await;
}

fn marked(id: TaskId, mark: Mark) -> Fate {
    match mark {
        Mark::Cancel => {
            let answer = Answer::without_report(id, AnswerKind::Cancelled, "it was cancelled");
            Fate::Answer(Box::new(answer), None)
        }
        Mark::Bury { why } => Fate::Bury { id: Some(id), why },
    }
}
