//! The queue on JetStream: the five verbs as messages to the server.
//!
//! A task is a message in a work-queue stream, and leaves it when it is acknowledged. Its result
//! is a key that is created, which only one can do; the acknowledgement comes after that.

use super::lanes::{Ask, Lanes, WAITING};
use super::objects::words;
use super::{Layout, NatsObjects, REQUEST, dead_subject, task_subject};
use crate::error::{Error, ErrorKind};
use crate::protocol::{Answer, AnswerKind, DeadTask, TaskId, Token, cut, now_ms};
use crate::queue::{Completion, History, LaneKey, Lease, Mark, Marks, Queue, Weights};
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::kv::{self, CreateErrorKind, Operation};
use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use wrun_map::next;

/// How often a worker without tasks looks for new lanes, and one with tasks.
pub(super) const LOOK_IDLE: Duration = Duration::from_secs(1);
pub(super) const LOOK_BUSY: Duration = Duration::from_secs(2);
/// The server forgets a lane's consumer after nobody asked it for so long.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// Workers that may wait at one lane.
const MOST_WAITING: i64 = 4096;
/// Takes a task out of the queue.
const ACK: &str = "+ACK";
/// The pause before marks are watched again.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// Settings of a worker's queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueSettings {
    /// How long a lease lasts without being extended. The last worker that starts decides for
    /// all. Default: 30 s.
    pub ack_wait: Duration,
    /// Maximum of tasks in flight of each class and tenant, on all workers together. The last
    /// worker that starts decides for all. Default: 10,000.
    pub max_in_flight: u32,
    /// How many turns each class gets.
    pub weights: Weights,
}

impl Default for QueueSettings {
    fn default() -> Self {
        QueueSettings {
            ack_wait: Duration::from_secs(30),
            max_in_flight: 10_000,
            weights: Weights::default(),
        }
    }
}

/// The queue of a fleet, for one worker.
pub struct NatsQueue {
    layout: Layout,
    settings: QueueSettings,
    marks: Arc<Marks>,
    puller: Mutex<Puller>,
    watching: tokio::task::JoinHandle<()>,
}

struct Puller {
    inbox: Option<Subscriber>,
    prefix: String,
    lanes: Lanes,
    /// Lanes whose consumers this worker has made, or found.
    made: HashSet<LaneKey>,
    arrived: VecDeque<(Instant, Lease)>,
    looked: Option<Instant>,
}

impl std::fmt::Debug for NatsQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NatsQueue")
    }
}

impl Drop for NatsQueue {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl NatsQueue {
    pub(crate) async fn open(layout: Layout, settings: QueueSettings) -> Result<Self, Error> {
        let prefix = layout.client.new_inbox();
        let inbox = layout.client.subscribe(format!("{prefix}.*")).await;
        let inbox = inbox.map_err(|error| Error::server("subscribe", words(&error)))?;
        let marks = Arc::<Marks>::default();
        let watching = tokio::spawn(watch_marks(layout.marks.clone(), marks.clone()));
        Ok(NatsQueue {
            puller: Mutex::new(Puller {
                inbox: Some(inbox),
                prefix,
                lanes: Lanes::new(settings.weights.clone()),
                made: HashSet::new(),
                arrived: VecDeque::new(),
                looked: None,
            }),
            layout,
            settings,
            marks,
            watching,
        })
    }

    /// The object stores of the same fleet.
    pub fn objects(&self) -> NatsObjects {
        NatsObjects::new(self.layout.clone())
    }

    /// Looks for lanes. Their consumers are made when they are asked for tasks: a worker that starts
    /// where there are many does not make them all first.
    async fn look(&self, puller: &mut Puller) -> Result<(), Error> {
        let mut found: Vec<_> = self.layout.queued().await?;
        // A worker sees others than the first of very many after a while.
        if found.len() > super::lanes::MOST {
            let turn = rand::random_range(0..found.len());
            found.rotate_left(turn);
        }
        puller.lanes.refresh(found);
        // What was not there for a while, the server may have forgotten when it is there again.
        let Puller { made, lanes, .. } = puller;
        made.retain(|lane| lanes.knows(lane));
        puller.looked = Some(Instant::now());
        Ok(())
    }

    async fn consumer(&self, (class, tenant): &LaneKey) -> Result<(), Error> {
        let config = pull::Config {
            durable_name: Some(consumer_name(class, tenant)),
            filter_subject: task_subject(class, tenant),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.settings.ack_wait,
            max_deliver: -1,
            max_ack_pending: self.settings.max_in_flight.into(),
            max_waiting: MOST_WAITING,
            inactive_threshold: FORGOTTEN,
            ..pull::Config::default()
        };
        let made = self.layout.tasks.create_consumer(config).await;
        let doing = || format!("make the consumer of {class}.{tenant}");
        made.map(drop)
            .map_err(|error| Error::server(&doing(), words(&error)))
    }

    async fn send(&self, puller: &mut Puller, ask: Ask) -> Result<(), Error> {
        if !puller.made.contains(&ask.lane) {
            self.consumer(&ask.lane).await?;
            puller.made.insert(ask.lane.clone());
        }
        let (class, tenant) = &ask.lane;
        let consumer = consumer_name(class, tenant);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.WRUN_TASKS.{consumer}");
        let subject = self.layout.api(&subject);
        let body = match ask.waits {
            true => format!(
                "{{\"batch\":{},\"expires\":{}}}",
                ask.batch,
                WAITING.as_nanos()
            ),
            false => format!("{{\"batch\":{},\"no_wait\":true}}", ask.batch),
        };
        let inbox = format!("{}.{}", puller.prefix, ask.number);
        let sent = self
            .layout
            .client
            .publish_with_reply(subject, inbox, body.into());
        within("ask for tasks", sent).await
    }

    /// What came to the inbox.
    fn came(&self, puller: &mut Puller, message: Message) -> Option<LaneKey> {
        if let Some(status) = message.status {
            // This one has the subject of the inbox, with the number of the request.
            let number = message.subject.rsplit('.').next();
            let number = number.and_then(|it| it.parse().ok()).unwrap_or(0);
            let status = status.as_u16();
            let lane = puller.lanes.ended(number, status == 409);
            // Nobody serves the consumer: it is gone, or JetStream is.
            let is_gone = status == u16::from(StatusCode::NO_RESPONDERS)
                || message
                    .description
                    .as_deref()
                    .is_some_and(|it| it.contains("Deleted"));
            return lane.filter(|_| is_gone);
        }
        let (class, tenant) = lane_of(&message.subject)?;
        let known = async_nats::jetstream::Message {
            message,
            context: self.layout.jetstream.clone(),
        };
        let info = known.info().ok()?;
        let (deliveries, pending) = (info.delivered, info.pending);
        // Two clocks: what was submitted later than now was submitted now.
        let submitted = info.published.unix_timestamp_nanos() / 1_000_000;
        let waited = i128::from(now_ms()).saturating_sub(submitted).max(0);
        let lease = Lease {
            class,
            tenant,
            deliveries: u64::try_from(deliveries).unwrap_or(1).max(1),
            waited: Duration::from_millis(u64::try_from(waited).unwrap_or(u64::MAX)),
            handle: known.message.reply.as_ref()?.to_string(),
            body: known.message.payload.clone(),
        };
        puller
            .lanes
            .came(&(lease.class.clone(), lease.tenant.clone()), pending);
        puller.arrived.push_back((Instant::now(), lease));
        None
    }

    /// Acknowledges, and waits until the server has it.
    async fn acknowledge(&self, lease: &Lease, with: &'static str) -> Result<(), Error> {
        let asked = self
            .layout
            .client
            .request(lease.handle.clone(), with.into());
        within("acknowledge a task", asked).await
    }
}

pub(super) fn lane_of(subject: &str) -> Option<LaneKey> {
    let (class, tenant) = subject.strip_prefix("wrun.task.")?.split_once('.')?;
    Some((class.parse().ok()?, tenant.parse().ok()?))
}

/// Tokens have no dots, and a `.` is not allowed in the name; `-` is, so that two parts of other
/// lengths would be the same name without the length.
pub(super) fn consumer_name(class: &Token, tenant: &Token) -> String {
    format!("t{}-{class}-{tenant}", class.as_str().len())
}

async fn within<T, E: std::error::Error>(
    doing: &str,
    call: impl Future<Output = Result<T, E>>,
) -> Result<(), Error> {
    match tokio::time::timeout(REQUEST, call).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Error::server(doing, words(&error))),
        Err(_) => Err(Error::server(doing, "timed out")),
    }
}

/// Keeps the marks up to date.
async fn watch_marks(bucket: kv::Store, marks: Arc<Marks>) {
    loop {
        if let Ok(mut watch) = bucket.watch_with_history(">").await {
            while let Some(Ok(entry)) = next(&mut watch).await {
                let Ok(id) = entry.key.parse::<TaskId>() else {
                    continue;
                };
                let mark = match entry.operation {
                    Operation::Put => serde_json::from_slice::<Mark>(&entry.value).ok(),
                    _ => None,
                };
                marks.set(id, mark);
            }
        }
        tokio::time::sleep(WATCH_AGAIN).await;
    }
}

impl Queue for NatsQueue {
    fn ack_wait(&self) -> Duration {
        self.settings.ack_wait
    }

    async fn lease(&self, room: usize) -> Result<Vec<Lease>, Error> {
        let mut puller = self.puller.lock().await;
        let puller = &mut *puller;
        loop {
            // A lease that was kept here too long may be another worker's by now.
            let kept = self.settings.ack_wait / 2;
            puller.arrived.retain(|(came, _)| came.elapsed() < kept);
            if !puller.arrived.is_empty() {
                let taken = puller.arrived.len().min(room);
                return Ok(puller
                    .arrived
                    .drain(..taken)
                    .map(|(_, lease)| lease)
                    .collect());
            }
            let pause = match puller.lanes.is_idle() {
                true => LOOK_IDLE,
                false => LOOK_BUSY,
            };
            if puller.looked.is_none_or(|looked| looked.elapsed() >= pause) {
                self.look(puller).await?;
            }
            for ask in puller.lanes.ask(room) {
                let number = ask.number;
                if let Err(error) = self.send(puller, ask).await {
                    puller.lanes.unsent(number);
                    return Err(error);
                }
            }
            let look = puller
                .looked
                .map_or_else(Instant::now, |looked| looked + pause);
            let until = puller.lanes.next().map_or(look, |next| next.min(look));
            let Some(inbox) = &mut puller.inbox else {
                return std::future::pending().await;
            };
            let message = tokio::select! {
                biased;
                message = next(inbox) => message,
                () = tokio::time::sleep_until(until) => continue,
            };
            let Some(message) = message else {
                let message = "the connection to NATS is closed";
                return Err(Error::new(ErrorKind::Denied, message));
            };
            if let Some(lane) = self.came(puller, message) {
                puller.lanes.forget(&lane);
                puller.made.remove(&lane);
                self.look(puller).await?;
            }
        }
    }

    async fn extend(&self, lease: &Lease) -> Result<(), Error> {
        let sent = self
            .layout
            .client
            .publish(lease.handle.clone(), "+WPI".into());
        within("extend a lease", sent).await
    }

    async fn complete(
        &self,
        lease: &Lease,
        answer: Option<&Answer>,
        reply_to: Option<&str>,
    ) -> Result<Completion, Error> {
        let mut completion = Completion::Late;
        if let Some(answer) = answer {
            let bytes = answer.encode().map_err(Error::invalid)?;
            if self.layout.create_result(answer, bytes.clone()).await? {
                completion = Completion::Won;
                if let Some(subject) = reply_to {
                    let sent = self.layout.client.publish(subject.to_owned(), bytes);
                    // The result is in the bucket.
                    let _ = within("reply", sent).await;
                }
            }
        }
        match completion {
            // The result is there: if this is lost and the task delivered again, the next worker
            // finds it. So nobody waits for a confirmation, which would be a ninth message.
            Completion::Won => {
                let sent = self.layout.client.publish(lease.handle.clone(), ACK.into());
                let _ = within("acknowledge a task", sent).await;
            }
            Completion::Late => self.acknowledge(lease, ACK).await?,
        }
        Ok(completion)
    }

    async fn retry(
        &self,
        lease: &Lease,
        id: Option<&TaskId>,
        after: Duration,
        why: &str,
    ) -> Result<(), Error> {
        if let Some(id) = id {
            self.layout.count_return(id, why).await?;
        }
        let nak = format!("-NAK {{\"delay\":{}}}", after.as_nanos().max(1));
        let sent = self.layout.client.publish(lease.handle.clone(), nak.into());
        within("give a task back", sent).await
    }

    async fn bury(&self, lease: &Lease, dead: &DeadTask) -> Result<(), Error> {
        let body = serde_json::to_vec(dead).map_err(|error| Error::invalid(error.to_string()))?;
        let subject = dead_subject(&dead.class, &dead.tenant);
        let mut headers = HeaderMap::new();
        // If this is called again, it is the same burial.
        headers.insert("Nats-Msg-Id", lease.handle.as_str());
        let published = self
            .layout
            .jetstream
            .publish_with_headers(subject, headers, body.into());
        let published = published
            .await
            .map_err(|error| Error::server("bury a task", words(&error)))?;
        published
            .await
            .map_err(|error| Error::server("bury a task", words(&error)))?;
        if let Some(id) = &dead.id {
            let mut answer = Answer::without_report(id.clone(), AnswerKind::Buried, &dead.why);
            (answer.worker, answer.deliveries) = (Some(dead.worker.clone()), dead.deliveries);
            let bytes = answer.encode().map_err(Error::invalid)?;
            self.layout.create_result(&answer, bytes).await?;
        }
        self.acknowledge(lease, "+TERM").await
    }

    async fn history(&self, id: &TaskId) -> Result<History, Error> {
        let given_back = self.layout.returns(id).await?.map_or(0, |(_, count)| count);
        let result = self.layout.results.get(id.as_str()).await;
        let result = result.map_err(|error| Error::server("look for a result", words(&error)))?;
        Ok(History {
            given_back,
            is_answered: result.is_some(),
        })
    }

    fn marks(&self) -> &Marks {
        &self.marks
    }

    async fn close(&self) {
        let mut puller = self.puller.lock().await;
        puller.lanes.lost();
        let Some(mut inbox) = puller.inbox.take() else {
            return;
        };
        // The server sends nothing to an inbox that nobody reads; what it has sent comes first.
        let _ = within("unsubscribe", inbox.unsubscribe()).await;
        let _ = within("unsubscribe", self.layout.client.flush()).await;
        while let Ok(Some(message)) =
            tokio::time::timeout(Duration::from_millis(200), next(&mut inbox)).await
        {
            self.came(&mut puller, message);
        }
        for (_, lease) in puller.arrived.drain(..) {
            let id = crate::TaskMessage::decode(&lease.body)
                .ok()
                .map(|message| message.id);
            let _ = self
                .retry(&lease, id.as_ref(), Duration::ZERO, "the worker ends")
                .await;
        }
    }
}

impl Layout {
    /// Tasks of each class and tenant in the stream, those in flight included.
    pub(crate) async fn queued(&self) -> Result<Vec<(LaneKey, u64)>, Error> {
        let failed =
            |error: &dyn std::error::Error| Error::server("look at the queue", words(error));
        let listed = self.tasks.info_with_subjects("wrun.task.>").await;
        let mut listed = listed.map_err(|error| failed(&error))?;
        let mut found = Vec::new();
        while let Some(subject) = next(&mut listed).await {
            let (subject, count) = subject.map_err(|error| failed(&error))?;
            if let Some(lane) = lane_of(&subject) {
                found.push((lane, count as u64));
            }
        }
        Ok(found)
    }

    /// Creates a result. False if there is one, which is not this answer.
    pub(crate) async fn create_result(&self, answer: &Answer, bytes: Bytes) -> Result<bool, Error> {
        let key = answer.id.as_str();
        match self.results.create(key, bytes.clone()).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {
                // It may be this one, whose acknowledgement was lost.
                let found = self.results.get(key).await;
                Ok(found.is_ok_and(|found| found == Some(bytes)))
            }
            Err(error) => Err(Error::server("store a result", words(&error))),
        }
    }

    /// How often a task was given back, and the revision of that.
    async fn returns(&self, id: &TaskId) -> Result<Option<(u64, u64)>, Error> {
        let entry = self.returns.entry(id.as_str()).await;
        let entry = entry.map_err(|error| Error::server("count returns", words(&error)))?;
        Ok(entry.map(|entry| {
            let count = match entry.operation {
                Operation::Put => std::str::from_utf8(&entry.value).ok(),
                _ => None,
            };
            let count = count.and_then(|text| text.split(' ').next()?.parse().ok());
            (entry.revision, count.unwrap_or(0))
        }))
    }

    async fn count_return(&self, id: &TaskId, why: &str) -> Result<(), Error> {
        let (revision, count) = self.returns(id).await?.unwrap_or((0, 0));
        let value = format!("{} {}", count + 1, cut(why, 256));
        let counted = self
            .returns
            .update(id.as_str(), value.into(), revision)
            .await;
        counted
            .map(drop)
            .map_err(|error| Error::server("count returns", words(&error)))
    }
}
