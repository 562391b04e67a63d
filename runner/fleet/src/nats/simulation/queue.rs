//! The five verbs on the simulated server, with the worker's own decisions about what to ask for.
//! The loop of `lease` is that of [`NatsQueue`](super::super::NatsQueue).

use super::super::lanes::Lanes;
use super::super::queue::{LOOK_BUSY, LOOK_IDLE};
use super::ROUND_TRIP;
use super::server::{Came, Server};
use crate::error::Error;
use crate::protocol::{Answer, DeadTask, TaskId};
use crate::queue::{Completion, History, LaneKey, Lease, Marks, Queue, Weights};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

pub(super) struct SimulatedQueue {
    server: Arc<Mutex<Server>>,
    ack_wait: Duration,
    marks: Marks,
    sender: UnboundedSender<(Instant, Came)>,
    puller: tokio::sync::Mutex<Puller>,
}

struct Puller {
    inbox: UnboundedReceiver<(Instant, Came)>,
    lanes: Lanes,
    made: HashSet<LaneKey>,
    arrived: VecDeque<Lease>,
    looked: Option<Instant>,
}

impl SimulatedQueue {
    pub(super) fn new(server: Arc<Mutex<Server>>, ack_wait: Duration) -> Self {
        let (sender, inbox) = unbounded_channel();
        SimulatedQueue {
            server,
            ack_wait,
            marks: Marks::default(),
            sender,
            puller: tokio::sync::Mutex::new(Puller {
                inbox,
                lanes: Lanes::new(Weights::default()),
                made: HashSet::new(),
                arrived: VecDeque::new(),
                looked: None,
            }),
        }
    }

    fn server(&self) -> std::sync::MutexGuard<'_, Server> {
        self.server.lock().expect("no test has failed")
    }
}

/// The number of a task, of its id.
fn number(id: &TaskId) -> u32 {
    let (_, number) = id.as_str().split_once('.').expect("an id of a simulation");
    number.parse().expect("a number")
}

impl Queue for SimulatedQueue {
    fn ack_wait(&self) -> Duration {
        self.ack_wait
    }

    async fn lease(&self, room: usize) -> Result<Vec<Lease>, Error> {
        let mut puller = self.puller.lock().await;
        let puller = &mut *puller;
        loop {
            if !puller.arrived.is_empty() {
                let taken = puller.arrived.len().min(room);
                return Ok(puller.arrived.drain(..taken).collect());
            }
            let pause = match puller.lanes.is_idle() {
                true => LOOK_IDLE,
                false => LOOK_BUSY,
            };
            if puller.looked.is_none_or(|looked| looked.elapsed() >= pause) {
                tokio::time::sleep(ROUND_TRIP).await;
                let found = self.server().look();
                puller.lanes.refresh(found);
                let Puller { made, lanes, .. } = puller;
                made.retain(|lane| lanes.knows(lane));
                puller.looked = Some(Instant::now());
            }
            for ask in puller.lanes.ask(room) {
                if puller.made.insert(ask.lane.clone()) {
                    tokio::time::sleep(ROUND_TRIP).await;
                    self.server().make_consumer(&ask.lane);
                }
                self.server().ask(ask, &self.sender);
            }
            let look = puller
                .looked
                .map_or_else(Instant::now, |looked| looked + pause);
            let until = puller.lanes.next().map_or(look, |next| next.min(look));
            let (sent, came) = tokio::select! {
                biased;
                came = puller.inbox.recv() => came.expect("this queue has a sender"),
                () = tokio::time::sleep_until(until) => continue,
            };
            let came = match came {
                Came::Nothing(number) => {
                    puller.lanes.ended(number, false);
                    continue;
                }
                Came::Task(lease, pending) => (lease, pending),
            };
            let (lease, pending) = came;
            let lane = (lease.class.clone(), lease.tenant.clone());
            puller.lanes.came(&lane, pending);
            puller.arrived.push_back(lease);
            // It is in `arrived` before this waits, and so is not lost if the call is dropped.
            tokio::time::sleep_until(sent + ROUND_TRIP).await;
        }
    }

    async fn extend(&self, lease: &Lease) -> Result<(), Error> {
        self.server().extend(&lease.handle);
        Ok(())
    }

    async fn complete(
        &self,
        lease: &Lease,
        answer: Option<&Answer>,
        _reply_to: Option<&str>,
    ) -> Result<Completion, Error> {
        tokio::time::sleep(ROUND_TRIP).await;
        let is_new = answer.is_some_and(|answer| self.server().result(number(&answer.id)));
        if !is_new {
            tokio::time::sleep(ROUND_TRIP).await;
        }
        self.server().acknowledge(&lease.handle, !is_new);
        Ok(match is_new {
            true => Completion::Won,
            false => Completion::Late,
        })
    }

    async fn retry(
        &self,
        _lease: &Lease,
        _id: Option<&TaskId>,
        _after: Duration,
        why: &str,
    ) -> Result<(), Error> {
        panic!("nothing is given back here: {why}")
    }

    async fn bury(&self, _lease: &Lease, dead: &DeadTask) -> Result<(), Error> {
        panic!("nothing is buried here: {}", dead.why)
    }

    async fn history(&self, id: &TaskId) -> Result<History, Error> {
        tokio::time::sleep(ROUND_TRIP).await;
        Ok(History {
            given_back: 0,
            is_answered: self.server().is_answered(number(id)),
        })
    }

    fn marks(&self) -> &Marks {
        &self.marks
    }

    async fn close(&self) {}
}
