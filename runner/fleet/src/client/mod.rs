//! What a submitter and an operator do: submit, wait, cancel, look, bury, requeue, purge.

mod dead;
mod denied;
mod place;
mod settings;
mod status;

pub use place::{FleetPlace, PlaceSettings};
pub use settings::{Changes, StreamSettings};
pub use status::{Busy, LaneStatus, Purged, Status, Waste};

use crate::error::{Error, ErrorKind};
use crate::nats::{
    Connect, ConnectionStats, Layout, NatsObjects, NatsQueue, ObjectName, QueueLimits,
    QueueSettings, task_subject,
};
use crate::protocol::{
    Answer, AnswerKind, Content, Digest, MAX_INLINE, ObjectRef, Presence, TaskId, TaskMessage,
    Token,
};
use crate::queue::Mark;
use crate::trace::Tracing;
use async_nats::HeaderMap;
use bytes::Bytes;
use denied::Denied;
use std::borrow::Cow;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument as _;
use wrun::{Outcome, Output, Report};
use wrun_map::next;

/// The pause after a queue was full or could not be reached; doubles up to [`PAUSE_MOST`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_secs(5);
/// The longest pause of the submission that waits for room in a queue that is full.
const PAUSE_FULL: Duration = Duration::from_millis(500);
/// How long one submission may be the one that asks.
const A_TURN: Duration = Duration::from_secs(2);
/// How often a result is looked for beside the watch.
const LOOK: Duration = Duration::from_secs(15);

/// A fleet, as those see it that submit tasks to it. Cloning is cheap.
#[derive(Clone)]
pub struct Fleet {
    layout: Layout,
    objects: NatsObjects,
    tracing: Tracing,
    /// Held by the one submission that finds out whether a full queue has room again.
    first_in_line: Arc<tokio::sync::Mutex<()>>,
    denied: Arc<Denied>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fleet")
    }
}

impl Fleet {
    /// Connects, and makes the streams and buckets that are missing. `told` gets a line for each
    /// change of the connection; it must not block.
    ///
    /// # Errors
    ///
    /// As [`Connect::connect`]; [`ErrorKind::NoJetStream`] if the server has none.
    pub async fn connect(
        connect: &Connect,
        name: &str,
        limits: &QueueLimits,
        told: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let denied = Arc::<Denied>::default();
        let noted = denied.clone();
        let told = move |line: String| {
            noted.note(&line);
            told(line);
        };
        let client = connect.connect(name, told).await?;
        let layout = Layout::open(client, connect.domain.as_deref(), limits).await?;
        let objects = NatsObjects::new(layout.clone());
        Ok(Fleet {
            layout,
            objects,
            tracing: Tracing::default(),
            first_in_line: Arc::default(),
            denied,
        })
    }

    /// Has submissions belong to a trace. Default: messages have the `traceparent` that they
    /// have.
    pub fn tracing(mut self, tracing: Tracing) -> Self {
        self.tracing = tracing;
        self
    }

    /// The queue, for a worker.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub async fn queue(&self, settings: QueueSettings) -> Result<NatsQueue, Error> {
        NatsQueue::open(self.layout.clone(), settings).await
    }

    /// How the connection to the server is.
    pub fn connection(&self) -> ConnectionStats {
        crate::nats::connection_stats(&self.layout.client)
    }

    /// Stores a module, unless it is stored.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, or has no room.
    pub async fn put_module(&self, bytes: &[u8]) -> Result<Digest, Error> {
        self.objects.put_module(bytes).await
    }

    /// Makes an input of bytes: part of the message if they are few, and an object otherwise.
    ///
    /// # Errors
    ///
    /// As [`Fleet::put_module`].
    pub async fn input(&self, bytes: Bytes) -> Result<Content, Error> {
        if bytes.len() <= MAX_INLINE {
            return Ok(Content::bytes(&bytes));
        }
        let object = object(Digest::of(&bytes), bytes.len() as u64);
        self.objects.put(&object, &mut Cursor::new(bytes)).await?;
        Ok(Content::object(object))
    }

    /// Makes an input of a file, in memory that does not depend on its length.
    ///
    /// # Errors
    ///
    /// As [`Fleet::put_module`]; [`ErrorKind::Io`] for a file that cannot be read, or that
    /// changes meanwhile.
    pub async fn input_file(&self, path: &Path) -> Result<Content, Error> {
        let named = path.to_owned();
        let io = |error: std::io::Error| {
            let hint = wrun::limit_hint(&error);
            let message = format!("cannot read {}: {error}{hint}", path.display());
            Error::new(ErrorKind::Io, message)
        };
        let read = tokio::task::spawn_blocking(move || begin(&named)).await;
        match read
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(io)?
        {
            Begun::Whole(bytes) => Ok(Content::bytes(&bytes)),
            Begun::Long(digest, len) => {
                let object = object(digest, len);
                let mut file = tokio::fs::File::open(path).await.map_err(io)?;
                self.objects.put(&object, &mut file).await?;
                Ok(Content::object(object))
            }
        }
    }

    /// Queues a task, once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a message that a worker would refuse; [`ErrorKind::Full`],
    /// [`ErrorKind::NoSpace`] and [`ErrorKind::Unavailable`], after which the same call may
    /// succeed.
    pub async fn submit(
        &self,
        class: &Token,
        tenant: &Token,
        task: &TaskMessage,
    ) -> Result<(), Error> {
        let body = task.encode().map_err(Error::invalid)?;
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", task.id.as_str());
        let subject = task_subject(class, tenant);
        let failed = |error: &dyn std::error::Error| match self.denied.take(&subject) {
            false => Error::server("submit the task", crate::nats::error_words(error)),
            true => Error::new(
                ErrorKind::Denied,
                format!("the server does not let this user publish to {subject}"),
            ),
        };
        let jetstream = &self.layout.jetstream;
        let published = jetstream
            .publish_with_headers(subject.clone(), headers, body)
            .await;
        published
            .map_err(|error| failed(&error))?
            .await
            .map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Queues a task, and tries again while the queue is full or cannot be reached, until then.
    /// `told` gets the reason for the first such pause.
    ///
    /// # Errors
    ///
    /// As [`Fleet::submit`].
    pub async fn submit_until(
        &self,
        (class, tenant): (&Token, &Token),
        task: &TaskMessage,
        until: Option<Instant>,
        told: impl Fn(&Error),
    ) -> Result<(), Error> {
        let said = task.traceparent.as_deref();
        let (span, parent) = self.tracing.submitting((class, tenant), &task.id, said);
        let mut task = Cow::Borrowed(task);
        if parent != task.traceparent {
            task.to_mut().traceparent = parent;
        }
        let submitting = async {
            let (mut pause, mut is_first, mut turn) = (PAUSE, true, None);
            loop {
                let error = match self.submit(class, tenant, &task).await {
                    Err(error) if error.is_retryable() => error,
                    submitted => return submitted,
                };
                if std::mem::take(&mut is_first) {
                    told(&error);
                }
                let is_full = matches!(error.kind(), ErrorKind::Full | ErrorKind::NoSpace);
                if is_full && turn.is_none() {
                    // Of many that wait, one asks, and the next as soon as there was room.
                    turn = match before(until, self.first_in_line.lock()).await {
                        Some(turn) => Some((Instant::now(), turn)),
                        None => return Err(error),
                    };
                    continue;
                }
                // Others may wait for room for another class or tenant.
                turn = turn.filter(|(since, _)| since.elapsed() < A_TURN);
                if before(until, tokio::time::sleep(pause)).await.is_none() {
                    return Err(error);
                }
                let most = match turn.is_some() {
                    true => PAUSE_FULL,
                    false => PAUSE_MOST,
                };
                pause = (pause * 2).min(most);
            }
        };
        let submitted = submitting.instrument(span.clone()).await;
        if submitted.is_err() {
            span.record("otel.status_code", "ERROR");
        }
        submitted
    }

    /// The result of a task; `None` while it has none.
    ///
    /// # Errors
    ///
    /// The server cannot be reached; [`ErrorKind::Invalid`] for a value that is no result.
    pub async fn result(&self, id: &TaskId) -> Result<Option<Answer>, Error> {
        let value = self.layout.results.get(id.as_str()).await;
        let value = value.map_err(|error| {
            Error::server("look for the result", crate::nats::error_words(&error))
        })?;
        value
            .map(|value| Answer::decode(&value).map_err(Error::invalid))
            .transpose()
    }

    /// Waits for the result of a task, also over a restart of the server.
    ///
    /// # Errors
    ///
    /// As [`Fleet::result`], but for a server that cannot be reached for a while.
    pub async fn wait(&self, id: &TaskId) -> Result<Answer, Error> {
        loop {
            let watch = self.layout.results.watch_with_history(id.as_str()).await;
            match self.result(id).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error),
            }
            match watch {
                Ok(mut watch) => {
                    let _ = tokio::time::timeout(LOOK, next(&mut watch)).await;
                }
                Err(_) => tokio::time::sleep(PAUSE_MOST).await,
            }
        }
    }

    /// The report of an answer, with what is in objects.
    ///
    /// # Errors
    ///
    /// As [`Fleet::result`]; [`ErrorKind::NotFound`] for an answer without a report, or an
    /// output that is not kept any more.
    pub async fn report(&self, answer: &Answer) -> Result<Report, Error> {
        let Some(json) = answer.report.clone() else {
            return Err(Error::new(ErrorKind::NotFound, answer.message()));
        };
        let report = serde_json::from_value::<Report>(json);
        let mut report =
            report.map_err(|error| Error::invalid(format!("the result has no report: {error}")))?;
        if let Some(stdout) = &answer.stdout {
            report.stdout = self.objects.read(stdout, stdout.bytes).await?;
            if report.outcome.is_completed() {
                report.outcome = Outcome::Completed(Output(report.stdout.clone()));
            }
        }
        if let Some(stderr) = &answer.stderr {
            report.stderr = self.objects.read(stderr, stderr.bytes).await?;
        }
        Ok(report)
    }

    /// Cancels a task, queued or running. False if it has a result, which stays.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub async fn cancel(&self, id: &TaskId) -> Result<bool, Error> {
        let answer = Answer::without_report(id.clone(), AnswerKind::Cancelled, "it was cancelled");
        let bytes = answer.encode().map_err(Error::invalid)?;
        // Before the mark: a worker that sees that answers, too.
        let is_new = self.layout.create_result(&answer, bytes).await?;
        if is_new {
            self.mark(id, &Mark::Cancel).await?;
        }
        Ok(is_new)
    }

    /// Has a task buried by the worker that has it, or that takes it next.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub async fn bury(&self, id: &TaskId, why: &str) -> Result<(), Error> {
        let why = crate::protocol::cut(why, 1024);
        self.mark(id, &Mark::Bury { why }).await
    }

    async fn mark(&self, id: &TaskId, mark: &Mark) -> Result<(), Error> {
        let value = serde_json::to_vec(mark).map_err(|error| Error::invalid(error.to_string()))?;
        let marked = self.layout.marks.put(id.as_str(), value.into()).await;
        let failed = |error| Error::server("mark the task", crate::nats::error_words(&error));
        marked.map(drop).map_err(failed)
    }

    /// Says what a worker is; it is listed for half a minute.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub async fn announce(&self, presence: &Presence) -> Result<(), Error> {
        let value =
            serde_json::to_vec(presence).map_err(|error| Error::invalid(error.to_string()))?;
        let put = self
            .layout
            .workers
            .put(presence.id.as_str(), value.into())
            .await;
        let failed = |error| Error::server("announce the worker", crate::nats::error_words(&error));
        put.map(drop).map_err(failed)
    }

    /// Takes a worker off the list.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub async fn leave(&self, id: &TaskId) -> Result<(), Error> {
        let left = self.layout.workers.delete(id.as_str()).await;
        left.map_err(|error| Error::server("leave", crate::nats::error_words(&error)))
    }
}

/// What comes of this until then, if there is a then.
async fn before<T>(until: Option<Instant>, what: impl Future<Output = T>) -> Option<T> {
    match until {
        None => Some(what.await),
        Some(until) => tokio::time::timeout_at(until, what).await.ok(),
    }
}

fn object(digest: Digest, bytes: u64) -> ObjectRef {
    ObjectRef {
        name: ObjectName::input(digest),
        bytes,
        blake3: digest,
    }
}

/// The beginning of a file: all of it, or what is known of a long one.
enum Begun {
    Whole(Vec<u8>),
    Long(Digest, u64),
}

fn begin(path: &Path) -> std::io::Result<Begun> {
    let mut file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    let mut bytes = Vec::new();
    (&mut file)
        .take(MAX_INLINE as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() <= MAX_INLINE {
        return Ok(Begun::Whole(bytes));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes);
    let rest = std::io::copy(&mut file, &mut hasher)?;
    Ok(Begun::Long(
        Digest::from_hasher(&hasher),
        bytes.len() as u64 + rest,
    ))
}
