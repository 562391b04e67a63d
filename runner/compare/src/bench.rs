//! The runners to compare, one for each policy, with the task loaded in each; and the
//! remaining time.

use super::comparison::Comparison;
use super::results::Policy;
use super::scratch::Scratch;
use crate::measure::FloorProgram;
use bytes::Bytes;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use wrun::{
    Artifact, Cache, Error, ErrorKind, Mode, Outcome, Preemption, ProcessOptions, Report, Runner,
    Start, Task, TaskGrant, TaskHandle,
    measure::{Spec, WholeRequest, WholeResponse, deadline::Deadline},
};

/// Idle workers, if workers are started ahead: this many can be used up at once.
pub(super) const SPARES: usize = 6;

/// The task to compare, and the runners that were made for it so far.
pub(super) struct Bench<'a> {
    pub(super) comparison: &'a Comparison,
    /// Compiled code; removed when this is dropped.
    cache: Scratch,
    runners: HashMap<Policy, Arc<Ready>>,
    pub(super) program: Arc<FloorProgram>,
}

/// A runner with the task loaded.
pub(super) struct Ready {
    pub(super) runner: Arc<Runner>,
    pub(super) artifact: Artifact,
    tasks: Vec<(String, Artifact)>,
    /// What a handler answers.
    request: Option<WholeRequest>,
    /// For waiting for answers.
    pub(super) waiting: Waiting,
}

/// A runtime that waits, on the thread that calls it.
pub(super) struct Waiting(Option<Runtime>);

impl Waiting {
    fn new() -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let failed = |error| Error::new(ErrorKind::System, format!("cannot wait: {error}"));
        Ok(Waiting(Some(runtime.map_err(failed)?)))
    }

    /// The output of a future.
    pub(super) fn on<T>(&self, future: impl Future<Output = T>) -> T {
        match &self.0 {
            Some(runtime) => runtime.block_on(future),
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // It may end within another one, where waiting for its end is forbidden.
            runtime.shutdown_background();
        }
    }
}

impl<'a> Bench<'a> {
    pub(super) fn new(comparison: &'a Comparison) -> Result<Self, Error> {
        let system = |error: std::io::Error| {
            let why = format!("cannot make a directory for compiled code: {error}");
            Error::new(ErrorKind::System, why)
        };
        Ok(Bench {
            comparison,
            cache: Scratch::new().map_err(system)?,
            runners: HashMap::new(),
            program: Arc::new(FloorProgram::new(wrun::measure::worker_program(
                &comparison.builder,
            )?)),
        })
    }

    /// The directory of compiled code.
    pub(super) fn cache(&self) -> PathBuf {
        self.cache.path().join("code")
    }

    /// The runner of a policy; made at the first request, and kept.
    pub(super) fn ready(&mut self, policy: Policy) -> Result<Arc<Ready>, Error> {
        if let Some(ready) = self.runners.get(&policy) {
            return Ok(ready.clone());
        }
        let ready = Arc::new(self.fresh(policy)?);
        self.runners.insert(policy, ready.clone());
        Ok(ready)
    }

    /// A new runner with the task loaded, from the cache if it is there.
    pub(super) fn fresh(&self, policy: Policy) -> Result<Ready, Error> {
        Ready::new(
            self.comparison,
            self.runner(policy, Cache::Directory(self.cache()))?,
        )
    }

    /// A new runner with nothing loaded.
    pub(super) fn runner(&self, policy: Policy, cache: Cache) -> Result<Runner, Error> {
        let builder = self.comparison.builder.clone();
        let builder = match policy {
            Policy::Instance => builder.mode(Mode::Thread).preemption(Preemption::Epoch),
            Policy::Signal => builder.mode(Mode::Thread).preemption(Preemption::Signal),
            Policy::Spare => builder.process(ProcessOptions::default().spares(SPARES)),
            Policy::Fork => builder.process(ProcessOptions::default().spares(0)),
            Policy::Exec => builder.process(ProcessOptions::default().spares(0).start(Start::Exec)),
            Policy::Reuse => builder.process(ProcessOptions::default().spares(0).reuse(u32::MAX)),
        };
        builder
            .max_running(256)
            .process(ProcessOptions::default().idle_timeout(Duration::from_secs(600)))
            .cache(cache)
            .build()
    }

    /// Ends the runners, so that they do not affect the next measurement.
    pub(super) fn end_runners(&mut self) {
        self.runners.clear();
    }
}

impl Ready {
    pub(super) fn new(
        comparison: &Comparison,
        runner: impl Into<Arc<Runner>>,
    ) -> Result<Self, Error> {
        let runner = runner.into();
        let artifact = runner.blocking_load(&comparison.task)?;
        let tasks = comparison
            .tasks
            .iter()
            .map(|(name, file)| {
                let loaded = runner.blocking_load(file).map_err(|error| {
                    error.about(&format!("the task {name:?} that may be started"))
                });
                Ok((name.clone(), loaded?))
            })
            .collect::<Result<_, Error>>()?;
        let request = match &comparison.request {
            Some(request) => Some(request.clone()),
            None => artifact.shape().is_http().then(default_request),
        };
        Ok(Ready {
            runner,
            artifact,
            tasks,
            request,
            waiting: Waiting::new()?,
        })
    }

    /// One run of the task.
    pub(super) fn task(&self, comparison: &Comparison) -> Task {
        let mut task = Task::new(&self.artifact)
            .args(comparison.args.iter().cloned())
            .input(comparison.input.clone())
            .limits(comparison.limits.clone())
            .grace(Duration::ZERO);
        for (key, value) in &comparison.env {
            task = task.env(key, value);
        }
        for grant in &comparison.dirs {
            task = task.dir(grant.clone());
        }
        for grant in &comparison.tcp {
            task = task.allow_tcp(grant.clone());
        }
        for grant in &comparison.http {
            task = task.allow_http(grant.clone());
        }
        for (name, artifact) in &self.tasks {
            task = task.allow_task(TaskGrant::new(name, artifact));
        }
        if let Some(Ok(request)) = self.request.as_ref().map(WholeRequest::request) {
            task = task.request(request);
        }
        task
    }

    /// What each run is given, as floors are given it.
    pub(super) fn input(&self, comparison: &Comparison) -> Bytes {
        match &self.request {
            Some(request) => request.to_bytes(),
            None => comparison.input.clone(),
        }
    }

    /// The size of what it reads.
    pub(super) fn input_bytes(&self, comparison: &Comparison) -> u64 {
        match &self.request {
            Some(request) => request.body_len() as u64,
            None => comparison.input.len() as u64,
        }
    }

    pub(super) fn is_http(&self) -> bool {
        self.artifact.shape().is_http()
    }

    /// What a handler is asked for.
    pub(super) fn request(&self) -> Option<WholeRequest> {
        self.request.clone()
    }

    /// The same in a line.
    pub(super) fn asked(&self) -> Option<String> {
        self.request.as_ref().map(WholeRequest::line)
    }

    /// Runs a task to its end: its report, and what it put out or answered.
    pub(super) fn done(&self, task: Task) -> Result<(Report, Bytes), Error> {
        if !self.is_http() {
            let report = self.runner.blocking_run(task)?;
            let output = Bytes::copy_from_slice(&report.stdout);
            return Ok((report, output));
        }
        self.waiting.on(async {
            let handle = self.runner.submit(task).await?;
            answered(handle).await
        })
    }

    /// The part of it that travels to where it runs.
    pub(super) fn spec(&self, comparison: &Comparison) -> Spec {
        wrun::measure::spec(self.task(comparison))
    }

    /// Runs it and requires it to complete, as it has before. The time is from submission
    /// to report.
    pub(super) fn run(&self, comparison: &Comparison) -> Result<Duration, Error> {
        let task = self.task(comparison);
        let began = Instant::now();
        let report = match self.is_http() {
            true => self.done(task)?.0,
            false => self.runner.blocking_run(task)?,
        };
        self.slow(comparison);
        let time = began.elapsed();
        completed(&report)?;
        Ok(time)
    }

    /// Delays a mode, for tests.
    pub(super) fn slow(&self, comparison: &Comparison) {
        if let Some((mode, by)) = comparison.hooks.slowed
            && mode == self.runner.mode()
        {
            std::thread::sleep(by);
        }
    }
}

fn default_request() -> WholeRequest {
    let mut request = http::Request::new(Bytes::new());
    *request.uri_mut() = http::Uri::from_static("http://localhost/");
    WholeRequest::of(&request)
}

/// Waits for the whole answer of a handler, and for its report.
pub(super) async fn answered(mut handle: TaskHandle) -> Result<(Report, Bytes), Error> {
    let response = match handle.response().await {
        Some(response) => Some(WholeResponse::of(response).await),
        None => None,
    };
    let report = handle.report().await?;
    let output = match response {
        Some(Ok(response)) => response.to_bytes(),
        Some(Err(error)) if report.outcome.is_completed() => {
            return Err(Error::new(ErrorKind::InvalidTask, error.to_string()));
        }
        _ => Bytes::new(),
    };
    Ok((report, output))
}

/// The task has completed before; it must do so now, too.
pub(super) fn completed(report: &Report) -> Result<(), Error> {
    match &report.outcome {
        Outcome::Completed(_) => Ok(()),
        other => Err(Error::new(
            ErrorKind::InvalidTask,
            format!("the task completed before, and now: {other}"),
        )),
    }
}

/// The remaining time, divided among measures as they come.
pub(super) struct Left {
    end: Option<Deadline>,
    /// Sum of the weights of the measures that are still to come.
    weights: u32,
}

impl Left {
    pub(super) fn new(budget: Duration) -> Self {
        Left {
            end: Deadline::after(budget),
            weights: 0,
        }
    }

    /// Announces a measure with this weight.
    pub(super) fn expect(&mut self, weight: u32) {
        self.weights += weight;
    }

    /// The share of an announced measure in the remaining time.
    pub(super) fn take(&mut self, weight: u32) -> Duration {
        let left = self.end.map_or(Duration::ZERO, Deadline::left);
        let share = left * weight / self.weights.max(weight).max(1);
        self.weights = self.weights.saturating_sub(weight);
        share
    }
}
