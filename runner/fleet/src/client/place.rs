//! A fleet as the place of a batch: `wrun map --on`.
//!
//! The id of a task is made of the batch and of all that decides the result: so a batch that goes
//! on finds the results of tasks that it submitted before, and changed arguments are another task.
//!
//! Invariant: each order that is waited for is in `waiting`, and each result of the batch that
//! the watch sees is looked up there; what the watch misses is looked for every [`LOOK`].

use super::{Fleet, LOOK, PAUSE_MOST};
use crate::error::{Error, ErrorKind};
use crate::protocol::{
    Answer, AnswerKind, Content, Digest, ModuleRef, TaskId, TaskLimits, TaskMessage, Token,
};
use async_nats::jetstream::kv::Operation;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use wrun::{Limit, Outcome, Report};
use wrun_map::{Order, Payload, Place, PlaceError, next};

/// The form of what decides a result, whose digest is a part of ids: another form has other ids.
const FORM: u32 = 1;
/// How long cancelling what is abandoned may take.
const CANCELLING: Duration = Duration::from_secs(3);

/// What tasks of a batch have in common.
#[derive(Clone, Debug)]
pub struct PlaceSettings {
    /// Their class.
    pub class: Token,
    /// Their tenant.
    pub tenant: Token,
    /// The module.
    pub module: Digest,
    /// The name in reports.
    pub name: String,
    /// Their limits.
    pub limits: TaskLimits,
    /// Names of grants.
    pub grants: Vec<String>,
    /// What they may start, under these names.
    pub tasks: BTreeMap<String, Digest>,
    /// New attempts after a crash.
    pub retries: u32,
    /// The batch: 1 to 32 letters, digits, `-` and `_`. The same batch has the same tasks.
    pub batch: Token,
    /// Whether the batch may have run before.
    pub is_resumed: bool,
}

type Waiting = Mutex<HashMap<TaskId, oneshot::Sender<Answer>>>;

/// Runs orders on a fleet.
pub struct FleetPlace {
    fleet: Fleet,
    settings: PlaceSettings,
    waiting: Arc<Waiting>,
    /// Tasks that were submitted and are not waited for any more.
    abandoned: Arc<Mutex<Vec<TaskId>>>,
    watching: tokio::task::JoinHandle<()>,
    told: Box<dyn Fn(&str) + Send + Sync>,
    told_at: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for FleetPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetPlace")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Drop for FleetPlace {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl FleetPlace {
    /// A place on this fleet. `told` gets a line when the queue is full or cannot be reached.
    /// Needs the context of a tokio runtime.
    pub fn new(
        fleet: Fleet,
        settings: PlaceSettings,
        told: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let waiting = Arc::<Waiting>::default();
        let watching = tokio::spawn(watch(
            fleet.clone(),
            settings.batch.clone(),
            waiting.clone(),
        ));
        FleetPlace {
            fleet,
            settings,
            waiting,
            abandoned: Arc::default(),
            watching,
            told: Box::new(told),
            told_at: Mutex::default(),
        }
    }

    /// What cancels the tasks that were submitted and whose run was dropped; how many those are.
    pub fn canceller(&self) -> impl Future<Output = usize> + Send + use<> {
        let (fleet, abandoned) = (self.fleet.clone(), self.abandoned.clone());
        async move {
            let ids = std::mem::take(&mut *locked(&abandoned));
            let all = async {
                for id in &ids {
                    let _ = fleet.cancel(id).await;
                }
            };
            let _ = tokio::time::timeout(CANCELLING, all).await;
            ids.len()
        }
    }

    async fn message(&self, order: &Order) -> Result<TaskMessage, PlaceError> {
        let settings = &self.settings;
        let input = match &order.payload {
            Payload::Bytes(bytes) => self.fleet.input(bytes.clone()).await,
            Payload::File(file) => self.fleet.input_file(&file.path).await,
        };
        let input = input.map_err(|error| match error.kind() {
            ErrorKind::Io => PlaceError::NotRun(error.to_string()),
            _ => failed(&error),
        })?;
        let id = self.id(order, &input)?;
        let mut message = TaskMessage::new(id, settings.module.into());
        message.name = Some(settings.name.clone());
        message.args = order.args.clone();
        message.input = input;
        message.limits = settings.limits.clone();
        message.grants = settings.grants.clone();
        let tasks = settings.tasks.iter();
        message.tasks = tasks
            .map(|(name, digest)| (name.clone(), ModuleRef::from(*digest)))
            .collect();
        message.retries = settings.retries;
        message.resubmitted = settings.is_resumed;
        Ok(message)
    }

    /// The batch, the number of the input, and a digest of all that decides the result.
    fn id(&self, order: &Order, input: &Content) -> Result<TaskId, PlaceError> {
        let settings = &self.settings;
        let limits = (&settings.limits, &settings.grants, settings.retries);
        let decides = (
            FORM,
            settings.module,
            &settings.name,
            &order.args,
            input,
            limits,
        );
        let decides = match settings.tasks.is_empty() {
            true => serde_json::to_vec(&decides),
            false => serde_json::to_vec(&(decides, &settings.tasks)),
        };
        let digest = Digest::of(&decides.map_err(|error| PlaceError::NotRun(error.to_string()))?);
        let id = format!(
            "{}.{}-{}",
            settings.batch,
            order.index,
            &digest.to_string()[..16]
        );
        id.parse()
            .map_err(|error: crate::InvalidName| PlaceError::NotRun(error.to_string()))
    }

    async fn answer(&self, message: &TaskMessage) -> Result<Answer, PlaceError> {
        let id = &message.id;
        if self.settings.is_resumed
            && let Ok(Some(answer)) = self.fleet.result(id).await
        {
            return Ok(answer);
        }
        let (sender, mut receiver) = oneshot::channel();
        locked(&self.waiting).insert(id.clone(), sender);
        let mut guard = Guard {
            id: id.clone(),
            place: self,
            is_submitted: false,
        };
        let lane = (&self.settings.class, &self.settings.tenant);
        let told = |error: &Error| {
            // All tasks that are submitted now have the same to tell.
            let mut told_at = locked(&self.told_at);
            if told_at.is_none_or(|told| told.elapsed() >= LOOK) {
                *told_at = Some(Instant::now());
                (self.told)(&error.to_string());
            }
        };
        let submitted = self.fleet.submit_until(lane, message, None, told).await;
        submitted.map_err(|error| match error.kind() {
            ErrorKind::Invalid => PlaceError::NotRun(error.to_string()),
            _ => failed(&error),
        })?;
        guard.is_submitted = true;
        let answer = loop {
            match tokio::time::timeout(LOOK, &mut receiver).await {
                Ok(Ok(answer)) => break answer,
                Ok(Err(_)) | Err(_) => match self.fleet.result(id).await {
                    Ok(Some(answer)) => break answer,
                    Err(error) if !error.is_retryable() => return Err(failed(&error)),
                    Ok(None) | Err(_) => {}
                },
            }
        };
        guard.is_submitted = false;
        Ok(answer)
    }
}

/// Takes an order off the list, and notes it if it still runs.
struct Guard<'a> {
    id: TaskId,
    place: &'a FleetPlace,
    is_submitted: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        locked(&self.place.waiting).remove(&self.id);
        if self.is_submitted {
            locked(&self.place.abandoned).push(self.id.clone());
        }
    }
}

/// Hands results of the batch to those that wait for them.
async fn watch(fleet: Fleet, batch: Token, waiting: Arc<Waiting>) {
    loop {
        if let Ok(mut watch) = fleet
            .layout
            .results
            .watch_with_history(format!("{batch}.>"))
            .await
        {
            while let Some(Ok(entry)) = next(&mut watch).await {
                if entry.operation != Operation::Put {
                    continue;
                }
                let Ok(id) = entry.key.parse::<TaskId>() else {
                    continue;
                };
                let Some(sender) = locked(&waiting).remove(&id) else {
                    continue;
                };
                if let Ok(answer) = Answer::decode(&entry.value) {
                    let _ = sender.send(answer);
                }
            }
        }
        tokio::time::sleep(PAUSE_MOST).await;
    }
}

fn failed(error: &Error) -> PlaceError {
    PlaceError::Failed(error.to_string())
}

impl Place for FleetPlace {
    async fn run(&self, order: &Order) -> Result<Report, PlaceError> {
        let message = self.message(order).await?;
        let answer = self.answer(&message).await?;
        if answer.kind != AnswerKind::Report {
            return Err(PlaceError::NotRun(answer.message()));
        }
        let mut report = self
            .fleet
            .report(&answer)
            .await
            .map_err(|error| failed(&error))?;
        if report.outcome == Outcome::LimitExceeded(Limit::Deadline) {
            // A worker takes what it can start: there was no queue that others had filled, and
            // the same task would have the same result.
            report.stats.start += std::mem::take(&mut report.stats.queue);
        }
        Ok(report)
    }
}
