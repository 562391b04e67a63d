//! Runs tasks with the public API of wrun: module, grants, limits, input, report.

use super::grants::WorkerConfig;
use super::metrics::Metrics;
use super::modules::{ModuleSource, Modules, NoModule};
use super::{Execute, Executed};
use crate::error::Error;
use crate::protocol::{
    Answer, AnswerKind, Checked, MAX_INLINE, ModuleRef, ObjectRef, TaskId, TaskMessage, Token, cut,
    now_ms,
};
use bytes::Bytes;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use wrun::{Artifact, ErrorKind, Input, Outcome, Report, Runner, Task, TaskGrant};

/// How much of a message that a guest returned as its failure an answer has, in bytes.
const FAILED: usize = 64 << 10;

/// Where large inputs come from and large outputs go to.
pub trait ObjectStore: ModuleSource {
    /// Writes an object to a file, which is at its start then; its length and digest are
    /// checked. An error that is not retryable is the task's: no such object, another digest.
    fn download(
        &self,
        object: &ObjectRef,
        into: File,
    ) -> impl Future<Output = Result<File, Error>> + Send;

    /// Stores an output of a task.
    fn upload(
        &self,
        id: &TaskId,
        bytes: Bytes,
    ) -> impl Future<Output = Result<ObjectRef, Error>> + Send;
}

/// How much a worker keeps of what it fetches.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Maximum of all inputs that are on this disk together, in bytes. Default: 32 GiB.
    pub spool: u64,
    /// Maximum of modules in memory. Default: 64.
    pub modules: usize,
    /// Maximum of one module, in bytes. Default: 64 MiB.
    pub module_size: u64,
}

impl Default for StoreLimits {
    fn default() -> Self {
        StoreLimits {
            spool: 32 << 30,
            modules: 64,
            module_size: 64 << 20,
        }
    }
}

/// Runs tasks on this machine.
pub struct Guests<S> {
    runner: Arc<Runner>,
    store: S,
    config: WorkerConfig,
    modules: Modules,
    spool: Arc<Semaphore>,
    most_spooled: u64,
    metrics: Arc<Metrics>,
}

impl<S> std::fmt::Debug for Guests<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Guests").field(&self.runner).finish()
    }
}

impl<S: ObjectStore> Guests<S> {
    /// Runs tasks with this runner; `config` says what they may have. The runner must be able
    /// to run as many at the same time as the worker has jobs. What is fetched is counted in
    /// `metrics`.
    pub fn new(
        runner: Arc<Runner>,
        store: S,
        config: WorkerConfig,
        limits: StoreLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        let most_spooled = limits.spool.min((Semaphore::MAX_PERMITS as u64) << MIB);
        Guests {
            runner,
            store,
            config,
            modules: Modules::new(limits.modules, limits.module_size),
            spool: Arc::new(Semaphore::new((most_spooled >> MIB) as usize)),
            most_spooled,
            metrics,
        }
    }

    /// How many modules are in memory.
    pub fn modules(&self) -> usize {
        self.modules.len()
    }

    async fn run(&self, message: &TaskMessage, tenant: &Token) -> Result<Report, Stopped> {
        let deadline = message.deadline_ms;
        let left = deadline.map(|it| Duration::from_millis(it.saturating_sub(now_ms()).max(1)));
        // Refuse before anything is fetched.
        self.config.limits_of(message, left)?;
        let artifact = self
            .module(&message.module, message.name.as_deref())
            .await?;
        let mut children = Vec::new();
        for (name, module) in &message.tasks {
            let child = self.module(module, Some(name)).await;
            let child = child.map_err(|stopped| stopped.of_child(name))?;
            children.push(TaskGrant::new(name, &child));
        }
        let most_input = message
            .limits
            .max_input
            .unwrap_or(self.config.limits().max_input);
        let (input, held) = self.input(message, most_input).await?;
        // Fetching took a part of the time.
        let left = deadline.map(|it| Duration::from_millis(it.saturating_sub(now_ms()).max(1)));
        let limits = self.config.limits_of(message, left)?;
        let mut task = Task::new(&artifact)
            .args(message.args.iter().cloned())
            .input(input)
            .limits(limits)
            .retries(message.retries);
        for child in children {
            task = task.allow_task(child);
        }
        if let Some(name) = &message.name {
            task = task.name(name.clone());
        }
        let task = self.config.grant(task, &message.grants, tenant.as_str())?;
        let ran = self.runner.run(task).await;
        drop(held);
        ran.map_err(|error| stopped(&error))
    }

    async fn module(&self, wanted: &ModuleRef, name: Option<&str>) -> Result<Artifact, Stopped> {
        let store = &self.store;
        let (runner, config) = (&self.runner, &self.config);
        let getting = self
            .modules
            .get(wanted, name, runner, store, config, &self.metrics);
        let module = getting.await;
        self.metrics.modules_kept(self.modules.len());
        let module = module.map_err(|no| match no {
            NoModule::Refused(why) => Stopped::Refused(why),
            NoModule::Failed(why) => Stopped::Failed(why),
        })?;
        match module.shape().is_http() {
            false => Ok(module),
            true => Err(Stopped::Refused(
                "the module answers HTTP requests: it is no batch task".into(),
            )),
        }
    }

    async fn input(
        &self,
        message: &TaskMessage,
        most: u64,
    ) -> Result<(Input, Option<tokio::sync::OwnedSemaphorePermit>), Stopped> {
        let object = match message.checked_input()? {
            Checked::Bytes(bytes) => return Ok((Input::bytes(bytes), None)),
            Checked::Object(object) => object,
        };
        let size = object.bytes;
        if size > most || size > self.most_spooled {
            let most = most.min(self.most_spooled);
            return Err(Stopped::Refused(format!(
                "the input has {size} bytes, and at most {most} are allowed"
            )));
        }
        let permits = u32::try_from(size.div_ceil(1 << MIB)).unwrap_or(u32::MAX);
        let held = self.spool.clone().acquire_many_owned(permits).await;
        let held = held.map_err(|_| Stopped::Failed("the worker ends".into()))?;
        let file = tokio::task::spawn_blocking(tempfile::tempfile).await;
        let file = file
            .map_err(|error| error.to_string())
            .and_then(|file| file.map_err(|error| format!("{error}{}", wrun::limit_hint(&error))));
        let file =
            file.map_err(|why| Stopped::Failed(format!("cannot make a temporary file: {why}")))?;
        let file = self.store.download(&object, file).await.map_err(|error| {
            match error.is_retryable() || error.kind() == crate::error::ErrorKind::Io {
                true => Stopped::Failed(error.to_string()),
                false => Stopped::Refused(error.to_string()),
            }
        })?;
        self.metrics.fetched("input", size);
        Ok((Input::reader(tokio::fs::File::from_std(file)), Some(held)))
    }

    /// The answer of a task that ran: what is long goes to the store.
    async fn answer(&self, id: TaskId, mut report: Report) -> Result<Answer, Stopped> {
        if let Outcome::Failed(message) = &mut report.outcome
            && message.len() > FAILED
        {
            *message = cut(message, FAILED);
            report
                .notes
                .push(format!("the task's message was cut to {FAILED} bytes"));
        }
        let (mut stdout, mut stderr) = (None, None);
        let (out_len, err_len) = (report.stdout.len(), report.stderr.len());
        for (stream, object) in [
            (&mut report.stdout, &mut stdout),
            (&mut report.stderr, &mut stderr),
        ] {
            if stream.len() > MAX_INLINE {
                let stored = self.store.upload(&id, std::mem::take(stream)).await;
                let stored = stored.map_err(|error| Stopped::Failed(error.to_string()))?;
                self.metrics.stored(stored.bytes);
                *object = Some(stored);
            }
        }
        let mut json = report.to_json();
        json["stdout_bytes"] = out_len.into();
        json["stderr_bytes"] = err_len.into();
        let mut answer = Answer::report(id, json);
        (answer.stdout, answer.stderr) = (stdout, stderr);
        Ok(answer)
    }
}

/// The logarithm of a mebibyte.
const MIB: u32 = 20;

/// Why a task has no report.
enum Stopped {
    /// It cannot run anywhere.
    Refused(String),
    /// It cannot run here and now.
    Failed(String),
}

impl Stopped {
    fn of_child(self, name: &str) -> Self {
        let told = |why| format!("child task {name:?}: {why}");
        match self {
            Stopped::Refused(why) => Stopped::Refused(told(why)),
            Stopped::Failed(why) => Stopped::Failed(told(why)),
        }
    }
}

impl From<String> for Stopped {
    fn from(why: String) -> Self {
        Stopped::Refused(why)
    }
}

fn stopped(error: &wrun::Error) -> Stopped {
    let why = error.to_string();
    match error.kind() {
        _ if error.is_retryable() => Stopped::Failed(why),
        ErrorKind::ShutDown | ErrorKind::NoWorker | ErrorKind::Jail => Stopped::Failed(why),
        _ => Stopped::Refused(why),
    }
}

impl<S: ObjectStore> Execute for Guests<S> {
    async fn execute(&self, message: TaskMessage, tenant: &Token) -> Executed {
        let answered = match self.run(&message, tenant).await {
            Ok(report) => self.answer(message.id.clone(), report).await,
            Err(stopped) => Err(stopped),
        };
        match answered {
            Ok(answer) => Executed::Answer(Box::new(answer)),
            Err(Stopped::Failed(why)) => Executed::GiveBack(why),
            Err(Stopped::Refused(why)) => {
                let answer = Answer::without_report(message.id, AnswerKind::Refused, &why);
                Executed::Answer(Box::new(answer))
            }
        }
    }
}
