//! The server: lanes of tasks, requests that wait, leases with an end, results; and what all of
//! that would be in messages.

use super::super::lanes::{Ask, WAITING};
use super::super::queue::consumer_name;
use super::super::task_subject;
use super::traffic::{Kind, Traffic};
use crate::protocol::{ModuleRef, TaskId, TaskMessage, Token};
use crate::queue::{LaneKey, Lease};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

/// What the protocol of NATS has around a message: the verb, lengths, ends of lines.
const LINE: usize = 16;
/// An inbox, and the subject of a task's acknowledgement.
const INBOX: usize = 32;
const REPLY: usize = 82;
/// A result with its report in thread mode, as it was measured, and its subject.
const RESULT: usize = 1024 + 40;
/// An acknowledgement of something stored.
const STORED: usize = 60;
/// The settings of a consumer, and the answer.
const CONSUMER: usize = 1300;
/// A record of a worker, with its acknowledgement.
const PRESENT: usize = 420 + STORED + 2 * LINE;
/// The rest of an answer that lists subjects, as a server of 2.9 has it.
const INFO: usize = 900;

/// What comes to the inbox of a worker.
pub(super) enum Came {
    Task(Lease, u64),
    /// The request of this number ended without (more) tasks.
    Nothing(u64),
}

/// A task that is queued.
#[derive(Clone, Copy)]
struct Queued {
    number: u32,
    deliveries: u16,
}

struct Waiting {
    inbox: UnboundedSender<(Instant, Came)>,
    number: u64,
    left: usize,
    until: Instant,
}

#[derive(Default)]
struct Lane {
    queued: VecDeque<Queued>,
    waiting: VecDeque<Waiting>,
    has_consumer: bool,
    in_flight: u64,
}

struct Leased {
    lane: LaneKey,
    task: Queued,
    until: Instant,
}

pub(super) struct Server {
    lanes: BTreeMap<LaneKey, Lane>,
    leased: HashMap<u64, Leased>,
    handles: u64,
    ack_wait: Duration,
    module: ModuleRef,
    results: Vec<bool>,
    pub(super) traffic: Traffic,
    pub(super) results_made: u64,
    pub(super) late: u64,
    pub(super) redelivered: u64,
    /// Bytes of an answer about who has tasks, the last one.
    pub(super) seen: usize,
}

impl Server {
    /// A server with these tasks, one tenant after another.
    pub(super) fn new(tasks: u32, tenants: u32, ack_wait: Duration) -> Self {
        let digest = crate::Digest::of(b"module");
        let mut server = Server {
            lanes: BTreeMap::new(),
            leased: HashMap::new(),
            handles: 0,
            ack_wait,
            module: ModuleRef {
                blake3: Some(digest),
                name: None,
            },
            results: vec![false; tasks as usize],
            traffic: Traffic::new(),
            results_made: 0,
            late: 0,
            redelivered: 0,
            seen: 0,
        };
        let token = |text: String| text.parse::<Token>().expect("a token");
        let lanes: Vec<LaneKey> = (0..tenants)
            .map(|tenant| {
                let class = ["high", "normal", "low"][tenant as usize % 3];
                (token(class.into()), token(format!("tenant-{tenant}")))
            })
            .collect();
        let bytes = server.body(0).len();
        for number in 0..tasks {
            let lane = &lanes[(number % tenants) as usize];
            let subject = task_subject(&lane.0, &lane.1).len();
            // The header has the id once more.
            let sent = bytes + subject + INBOX + LINE + 44;
            server.traffic.sent(Kind::Publish, 1, sent);
            server.traffic.sent(Kind::Published, 1, STORED + LINE);
            let queued = Queued {
                number,
                deliveries: 0,
            };
            let lane = server.lanes.entry(lane.clone()).or_default();
            lane.queued.push_back(queued);
        }
        server
    }

    pub(super) fn id(number: u32) -> TaskId {
        format!("simulated.{number}").parse().expect("an id")
    }

    fn body(&self, number: u32) -> Bytes {
        let mut message = TaskMessage::new(Self::id(number), self.module.clone());
        message.input = crate::Content::bytes(number.to_string().as_bytes());
        message.encode().expect("a message")
    }

    /// Who has tasks, those in flight included.
    pub(super) fn look(&mut self) -> Vec<(LaneKey, u64)> {
        let found = self.lanes.iter().filter_map(|(key, lane)| {
            let tasks = lane.queued.len() as u64 + lane.in_flight;
            (tasks > 0).then(|| (key.clone(), tasks))
        });
        let found: Vec<_> = found.collect();
        let listed = found.iter().map(|(lane, count)| {
            task_subject(&lane.0, &lane.1).len() + 4 + count.to_string().len()
        });
        self.seen = INFO + listed.sum::<usize>();
        self.traffic.sent(Kind::Look, 1, 120 + LINE);
        self.traffic.sent(Kind::Seen, 1, self.seen + LINE);
        found
    }

    pub(super) fn make_consumer(&mut self, lane: &LaneKey) {
        self.traffic.sent(Kind::Consumer, 2, CONSUMER);
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.has_consumer = true;
        }
    }

    pub(super) fn ask(&mut self, ask: Ask, inbox: &UnboundedSender<(Instant, Came)>) {
        let consumer = consumer_name(&ask.lane.0, &ask.lane.1).len();
        let bytes = 42 + consumer + INBOX + LINE + 36;
        self.traffic.sent(Kind::Ask, 1, bytes);
        let Some(lane) = self.lanes.get_mut(&ask.lane) else {
            return self.nothing(ask.number, inbox);
        };
        assert!(lane.has_consumer, "nobody made the consumer");
        lane.waiting.push_back(Waiting {
            inbox: inbox.clone(),
            number: ask.number,
            left: ask.batch,
            until: match ask.waits {
                true => Instant::now() + WAITING,
                false => Instant::now(),
            },
        });
        self.deliver(&ask.lane);
    }

    fn nothing(&mut self, number: u64, inbox: &UnboundedSender<(Instant, Came)>) {
        self.traffic.sent(Kind::Nothing, 1, INBOX + LINE + 40);
        let _ = inbox.send((Instant::now(), Came::Nothing(number)));
    }

    /// Gives tasks of a lane to those that wait for them.
    fn deliver(&mut self, key: &LaneKey) {
        let now = Instant::now();
        loop {
            let Some(lane) = self.lanes.get_mut(key) else {
                return;
            };
            let Some(mut waiting) = lane.waiting.pop_front() else {
                return;
            };
            if waiting.inbox.is_closed() {
                continue;
            }
            let Some(mut task) = lane.queued.pop_front() else {
                if waiting.until > now {
                    lane.waiting.push_front(waiting);
                    return;
                }
                self.nothing(waiting.number, &waiting.inbox);
                continue;
            };
            task.deliveries += 1;
            self.redelivered += u64::from(task.deliveries > 1);
            lane.in_flight += 1;
            let pending = lane.queued.len() as u64;
            self.handles += 1;
            let body = self.body(task.number);
            let bytes = body.len() + task_subject(&key.0, &key.1).len() + REPLY + LINE + 44;
            self.traffic.sent(Kind::Task, 1, bytes);
            self.leased.insert(
                self.handles,
                Leased {
                    lane: key.clone(),
                    task,
                    until: now + self.ack_wait,
                },
            );
            let lease = Lease {
                body,
                class: key.0.clone(),
                tenant: key.1.clone(),
                deliveries: task.deliveries.into(),
                waited: Duration::ZERO,
                handle: self.handles.to_string(),
            };
            let _ = waiting.inbox.send((now, Came::Task(lease, pending)));
            waiting.left -= 1;
            if waiting.left > 0
                && let Some(lane) = self.lanes.get_mut(key)
            {
                lane.waiting.push_front(waiting);
            }
        }
    }

    /// Time has passed: requests that waited end, and leases that were not extended.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        let over = self.leased.iter().filter(|(_, leased)| leased.until <= now);
        let over: Vec<_> = over.map(|(handle, _)| *handle).collect();
        for handle in over {
            if let Some(leased) = self.leased.remove(&handle)
                && let Some(lane) = self.lanes.get_mut(&leased.lane)
            {
                lane.in_flight -= 1;
                lane.queued.push_front(leased.task);
            }
        }
        let keys: Vec<_> = self.lanes.keys().cloned().collect();
        for key in keys {
            if let Some(lane) = self.lanes.get_mut(&key) {
                let waiting = std::mem::take(&mut lane.waiting);
                let (over, waiting): (VecDeque<_>, _) =
                    waiting.into_iter().partition(|it| it.until <= now);
                lane.waiting = waiting;
                for over in over {
                    self.nothing(over.number, &over.inbox);
                }
            }
            self.deliver(&key);
        }
    }

    pub(super) fn extend(&mut self, handle: &str) {
        self.traffic.sent(Kind::Extend, 1, REPLY + LINE + 4);
        let until = Instant::now() + self.ack_wait;
        if let Ok(handle) = handle.parse()
            && let Some(leased) = self.leased.get_mut(&handle)
        {
            leased.until = until;
        }
    }

    /// Creates a result. False if there is one.
    pub(super) fn result(&mut self, number: u32) -> bool {
        self.traffic.sent(Kind::Result, 1, RESULT + INBOX + LINE);
        let is_new = !std::mem::replace(&mut self.results[number as usize], true);
        match is_new {
            // Two messages: the acknowledgement, and the result for the submitter's watch.
            true => {
                self.results_made += 1;
                let bytes = STORED + RESULT + REPLY + 2 * LINE;
                self.traffic.sent(Kind::Stored, 2, bytes);
            }
            false => {
                self.late += 1;
                self.traffic.sent(Kind::Stored, 1, STORED + LINE);
            }
        }
        is_new
    }

    /// Takes a task out of the queue, and says so if that is asked for.
    pub(super) fn acknowledge(&mut self, handle: &str, is_confirmed: bool) {
        let bytes = REPLY + INBOX + LINE + 4;
        self.traffic.sent(Kind::Acknowledge, 1, bytes);
        if is_confirmed {
            self.traffic.sent(Kind::Acknowledged, 1, INBOX + LINE);
        }
        if let Ok(handle) = handle.parse()
            && let Some(leased) = self.leased.remove(&handle)
            && let Some(lane) = self.lanes.get_mut(&leased.lane)
        {
            lane.in_flight -= 1;
        }
    }

    /// Two questions: how often it was given back, and whether it has a result.
    pub(super) fn is_answered(&mut self, number: u32) -> bool {
        self.traffic.sent(Kind::History, 2, 2 * (80 + INBOX + LINE));
        self.traffic.sent(Kind::Known, 2, 2 * (100 + LINE));
        self.results[number as usize]
    }

    pub(super) fn present(&mut self) {
        self.traffic.sent(Kind::Present, 2, PRESENT);
    }
}
