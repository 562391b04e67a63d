//! An app as an embedder names it, and the only place that touches the HTTP part of `wrun`.

use crate::error::Error;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wrun::{
    Artifact, DirGrant, ErrorKind, HttpGrant, Limits, Runner, Stdio, Task, TaskGrant, TaskHandle,
    TcpGrant,
};

pub(crate) use wrun::http::{Body, BodyError};

/// An HTTP component, with what it may reach and what each of its requests may take.
///
/// Nothing is granted by default. The files are read again at each
/// [reload](crate::Server::reload).
///
/// ```
/// use std::time::Duration;
/// use wrun_serve::App;
///
/// let app = App::new("shop.wasm")
///     .env("CURRENCY", "EUR")
///     .timeout(Duration::from_secs(5));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an app does nothing until it is served"]
pub struct App {
    file: PathBuf,
    limits: Limits,
    dirs: Vec<DirGrant>,
    env: Vec<(String, String)>,
    tcp: Vec<TcpGrant>,
    http: Vec<HttpGrant>,
    tasks: Vec<(String, PathBuf)>,
    trusted: bool,
    /// None where that of the server holds.
    max_body: Option<Option<u64>>,
}

impl App {
    /// The default of [`App::timeout`]: 30 seconds.
    pub const TIMEOUT: Duration = Duration::from_secs(30);

    /// The app in this file, without grants and with [`Limits::default`], but for a timeout of
    /// [`App::TIMEOUT`].
    pub fn new(file: impl Into<PathBuf>) -> Self {
        App {
            file: file.into(),
            limits: Limits::default().timeout(App::TIMEOUT),
            dirs: Vec::new(),
            env: Vec::new(),
            tcp: Vec::new(),
            http: Vec::new(),
            tasks: Vec::new(),
            trusted: false,
            max_body: None,
        }
    }

    /// Its file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Replaces the limits of each request. `timeout` is the time from the first byte of the
    /// request until the end of its answer; with none, an answer may be streamed for as long as
    /// the client stays.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the timeout of each request; none for no limit.
    pub fn timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.limits.timeout = time.into();
        self
    }

    /// Limits the body of each request in bytes, instead of
    /// [`ClientLimits::max_body`](crate::ClientLimits::max_body); none for no limit. Beyond it,
    /// the answer is 413.
    pub fn max_body(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.max_body = Some(bytes.into());
        self
    }

    /// Grants a directory to each request.
    pub fn dir(mut self, grant: DirGrant) -> Self {
        self.dirs.push(grant);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Grants TCP connections to one address.
    pub fn allow_tcp(mut self, grant: TcpGrant) -> Self {
        self.tcp.push(grant);
        self
    }

    /// Grants HTTP requests to a host, which the runner sends.
    pub fn allow_http(mut self, grant: HttpGrant) -> Self {
        self.http.push(grant);
        self
    }

    /// Lets each request start the task in this file, under a name.
    pub fn task(mut self, name: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        self.tasks.push((name.into(), file.into()));
        self
    }

    /// Whether to take artifacts of `Runner::compile`: native code, which cannot be verified.
    /// Default: no.
    pub fn trusted(mut self, trusted: bool) -> Self {
        self.trusted = trusted;
        self
    }

    /// All files that it is made of.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let tasks = self.tasks.iter().map(|(_, file)| &**file);
        std::iter::once(&*self.file).chain(tasks)
    }

    pub(crate) async fn load(&self, runner: &Runner) -> Result<Loaded, Error> {
        let artifact = load(runner, &self.file, self.trusted).await?;
        let metered = self.limits.fuel.is_some();
        let prepared = runner.prepare(&artifact, metered).await;
        prepared.map_err(|source| self.not_loaded(source))?;
        if !artifact.shape().is_http() {
            return Err(Error::NotHttp(self.file.clone()));
        }
        let mut tasks = Vec::new();
        for (name, file) in &self.tasks {
            tasks.push((name.clone(), load(runner, file, self.trusted).await?));
        }
        let loaded = Loaded {
            app: self.clone(),
            artifact,
            tasks,
        };
        // What each request would be refused for.
        let nothing = Empty::new().map_err(|never: Infallible| match never {});
        let request = Request::new(nothing.boxed_unsync());
        let task = loaded.task(request, self.limits.clone(), false);
        let checked = runner.validate(task);
        checked.map_err(|source| self.not_loaded(source))?;
        Ok(loaded)
    }

    fn not_loaded(&self, source: wrun::Error) -> Error {
        Error::Load {
            file: self.file.clone(),
            source,
        }
    }
}

async fn load(runner: &Runner, file: &Path, trusted: bool) -> Result<Artifact, Error> {
    let loaded = match trusted {
        true => runner.load_trusted(file).await,
        false => runner.load(file).await,
    };
    loaded.map_err(|source| Error::Load {
        file: file.to_owned(),
        source,
    })
}

/// One version of an app.
#[derive(Debug)]
pub(crate) struct Loaded {
    app: App,
    artifact: Artifact,
    tasks: Vec<(String, Artifact)>,
}

/// Why a request did not become a task.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// Later it may.
    Busy(wrun::Error),
    /// It never will.
    Failed(wrun::Error),
    /// Its time was over before.
    TooLate,
}

impl std::fmt::Display for NotStarted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotStarted::Busy(error) | NotStarted::Failed(error) => error.fmt(f),
            NotStarted::TooLate => f.write_str("its time was over"),
        }
    }
}

impl Loaded {
    pub(crate) fn file(&self) -> &Path {
        &self.app.file
    }

    /// The limit of a request's body, where that of the server is this.
    pub(crate) fn max_body(&self, of_server: Option<u64>) -> Option<u64> {
        self.app.max_body.unwrap_or(of_server)
    }

    /// True if the code of both is the same, and what it may take and reach.
    pub(crate) fn is_same(&self, other: &Loaded) -> bool {
        let digests = |it: &Loaded| {
            let tasks = it.tasks.iter().map(|(_, task)| task.digest());
            let mut digests: Vec<_> = tasks.collect();
            digests.push(it.artifact.digest());
            digests
        };
        self.app == other.app && digests(self) == digests(other)
    }

    /// Notes on its code and that of its tasks, as the reports of those that use it have them.
    pub(crate) fn notes(&self) -> Vec<String> {
        let metered = self.app.limits.fuel.is_some();
        let tasks = self.tasks.iter().map(|(_, task)| task);
        let all = std::iter::once(&self.artifact).chain(tasks);
        let notes = all.filter_map(|artifact| artifact.made(metered)?.note());
        notes.collect()
    }

    /// The time of each request.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.app.limits.timeout
    }

    /// Has it answer a request that began this long ago.
    pub(crate) fn start(
        &self,
        runner: &Runner,
        request: Request<Body>,
        elapsed: Duration,
        prints: bool,
    ) -> Result<TaskHandle, NotStarted> {
        let mut limits = self.app.limits.clone();
        if let Some(timeout) = limits.timeout {
            let left = timeout.saturating_sub(elapsed);
            if left.is_zero() {
                return Err(NotStarted::TooLate);
            }
            limits.timeout = Some(left);
        }
        let task = self.task(request, limits, prints);
        runner
            .try_submit_here(task)
            .map_err(|error| match error.kind() {
                ErrorKind::ShutDown => NotStarted::Busy(error),
                _ if error.is_retryable() => NotStarted::Busy(error),
                _ => NotStarted::Failed(error),
            })
    }

    /// The task that answers a request.
    fn task(&self, request: Request<Body>, limits: Limits, prints: bool) -> Task {
        let mut task = Task::new(&self.artifact)
            .limits(limits)
            .stdout(if prints { Stdio::Stream } else { Stdio::Null })
            .stderr(if prints { Stdio::Stdout } else { Stdio::Null })
            // A client that is gone waits for nothing.
            .grace(Duration::ZERO)
            .request(request);
        for (key, value) in &self.app.env {
            task = task.env(key, value);
        }
        for grant in &self.app.dirs {
            task = task.dir(grant.clone());
        }
        for grant in &self.app.tcp {
            task = task.allow_tcp(grant.clone());
        }
        for grant in &self.app.http {
            task = task.allow_http(grant.clone());
        }
        for (name, artifact) in &self.tasks {
            task = task.allow_task(TaskGrant::new(name, artifact));
        }
        task
    }
}

/// What a task answers, once it does; none where it ended without.
pub(crate) async fn response(handle: &mut TaskHandle) -> Option<Response<Body>> {
    handle.response().await
}
