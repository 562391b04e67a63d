//! A runner without the threads that drive it: its queue, its permits, and a task's way
//! from submission to its report.
//!
//! Invariants: every admitted task gets exactly one report or error; at most
//! `max_running` tasks run and `max_queued` wait.

use crate::admission::{Admission, InFlight};
use crate::children::{Tree, child_data};
use crate::handle::OutputStream;
#[cfg(feature = "http")]
use crate::http::Responding;
#[cfg(feature = "http")]
use crate::http_client::LazyClient;
use crate::launch::{Launch, Ran, Request, RunPermit, Starter};
use crate::mode;
use crate::provider::SharedState;
use crate::task::{Input, Stdio, Task, validate_output};
use crate::task_grant::validate_tasks;
use crate::trace;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::Semaphore;
use wrun_sandbox::Budgets;
#[cfg(feature = "measure")]
use wrun_sandbox::Code;
use wrun_sandbox::broadcast::Broadcast;
use wrun_sandbox::deadline::Deadline;
use wrun_sandbox::executor::{Executed, Executor};
#[cfg(feature = "http")]
use wrun_sandbox::http::{Exchange, MAX_FIELDS};
use wrun_sandbox::locks::Locks;
use wrun_sandbox::services::TaskServices as _;
use wrun_sandbox::token::Token;
use wrun_sandbox::{Artifact, Compiled, Loader, OnProgress, Sink};
use wrun_sys::{self, Process};
use wrun_types::config::{Config, Jail, Mode};
use wrun_types::error::{Error, ErrorKind};
use wrun_types::jail_report::JailReport;
use wrun_types::outcome::{Outcome, Output};
use wrun_types::report::{Report, Stats};
use wrun_types::spec::Spec;
use wrun_types::task_error::TaskError;

/// See the [module](self).
pub(crate) struct Core {
    /// A fork of that process has no threads to drive this.
    pub(crate) made_in: Process,
    pub(crate) config: Config,
    pub(crate) loader: Arc<Loader>,
    pub(crate) executor: Arc<dyn Executor>,
    /// Tasks that are running or queued.
    pub(crate) admission: Admission,
    pub(crate) starter: Arc<Starter>,
    pub(crate) kill_all: Token,
}

/// A task in the queue.
pub(crate) struct Admitted {
    pub(crate) launch: Launch,
    capture_out: Option<Sink>,
    capture_err: Option<Sink>,
    in_flight: InFlight,
}

/// The embedder's ends of a task.
pub(crate) struct Ends {
    pub(crate) stdout: Option<OutputStream>,
    pub(crate) stderr: Option<OutputStream>,
    #[cfg(feature = "http")]
    pub(crate) response: Option<Responding>,
}

impl Core {
    /// Needs no runtime yet.
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        if wrun_sys::is_denied_code() {
            return Err(Error::new(
                ErrorKind::System,
                "this process may not make memory executable (PR_SET_MDWE, as by systemd's \
                 MemoryDenyWriteExecute=): wrun runs compiled code and needs that",
            ));
        }
        let loader = Arc::new(Loader::new(&config, mode::compiler(&config)?));
        let executor = mode::executor(loader.clone(), &config)?;
        Ok(Core {
            made_in: Process::current(),
            admission: Admission::new(config.max_running + config.max_queued),
            starter: Arc::new(Starter {
                executor: executor.clone(),
                mode: config.mode,
                next_id: AtomicU64::new(1),
                permits: Arc::new(Semaphore::new(config.max_running)),
                child_permits: Arc::new(Semaphore::new(config.max_children)),
                shared: Arc::new(SharedState {
                    locks: Arc::new(Locks::new()),
                    broadcast: Arc::new(Broadcast::new(executor.transport().clone())),
                    ledger: executor.ledger().clone(),
                    #[cfg(feature = "http")]
                    http: LazyClient::new(&config.http_authorities)?,
                }),
            }),
            config,
            loader,
            executor,
            kill_all: Token::new(),
        })
    }

    pub(crate) fn load_file(&self, path: &Path, trusted: bool) -> Result<Artifact, Error> {
        self.is_of_this_process()?;
        self.prepare(trace::load(|| self.loader.load_file(path, trusted))?)
    }

    pub(crate) fn load_bytes(&self, name: &str, bytes: Bytes) -> Result<Artifact, Error> {
        self.is_of_this_process()?;
        self.prepare(trace::load(|| self.loader.load(name, bytes, false))?)
    }

    fn prepare(&self, artifact: Artifact) -> Result<Artifact, Error> {
        self.executor.prepare(&artifact, self.config.metered)?;
        Ok(artifact)
    }

    /// The compiled code of an artifact; compiles it if necessary.
    #[cfg(feature = "measure")]
    pub(crate) fn code(&self, artifact: &Artifact) -> Result<Arc<Code>, Error> {
        self.is_of_this_process()?;
        Ok(self.loader.code(artifact, self.config.metered)?)
    }

    /// The code for a runner of that mode, in the format of an artifact file.
    pub(crate) fn code_bytes(&self, artifact: &Artifact, mode: Mode) -> Result<Vec<u8>, Error> {
        self.is_of_this_process()?;
        let metered = self.config.metered;
        let code = self.loader.code_for(mode, artifact, metered)?;
        code.bytes().map_err(|error| {
            Error::new(ErrorKind::System, format!("cannot read the code: {error}"))
        })
    }

    /// The code for both modes, in the format of an artifact file.
    pub(crate) fn code_of_both(&self, artifact: &Artifact) -> Result<Vec<u8>, Error> {
        let thread = self.code_bytes(artifact, Mode::Thread)?;
        let process = self.code_bytes(artifact, Mode::Process)?;
        Ok(wrun_sandbox::join(&thread, &process))
    }

    /// # Errors
    ///
    /// This process is a fork of the one that made the runner.
    pub(crate) fn is_of_this_process(&self) -> Result<(), Error> {
        match self.made_in.is_current() {
            true => Ok(()),
            false => Err(Error::forked()),
        }
    }

    pub(crate) async fn admit(self: Arc<Self>) -> Result<InFlight, Error> {
        self.is_of_this_process()?;
        Admission::admit(self).await
    }

    /// # Errors
    ///
    /// The settings of a task that cannot be submitted.
    pub(crate) fn validate(&self, task: &mut Task) -> Result<(), Error> {
        let all = task.tasks.iter().map(|grant| &grant.artifact);
        if all
            .chain([&task.artifact])
            .any(|artifact| artifact.runner() != self.loader.runner())
        {
            return Err(Error::new(
                ErrorKind::OtherRunner,
                "the artifact was loaded by another runner",
            ));
        }
        if task
            .port
            .as_ref()
            .is_some_and(|port| !self.executor.transport().has(port))
        {
            return Err(Error::new(
                ErrorKind::OtherRunner,
                "the port belongs to another runner's channel",
            ));
        }
        #[cfg(feature = "http")]
        let has_request = task.request.is_some();
        #[cfg(not(feature = "http"))]
        let has_request = false;
        check_request(&task.artifact, has_request)?;
        #[cfg(feature = "http")]
        if let Some(request) = &task.request {
            check_fields(request.headers().len())?;
        }
        task.spec.validate()?;
        if !task.spec.dirs.is_empty() {
            Arc::make_mut(&mut task.spec).settle_dirs()?;
        }
        validate_tasks(&task.tasks)?;
        validate_output(task.stdout, task.stderr)?;
        Ok(())
    }

    /// Validates a task, and assigns its id and deadline, once.
    pub(crate) fn admitted(
        mut task: Task,
        in_flight: InFlight,
        progress: OnProgress,
    ) -> Result<(Admitted, Ends), Error> {
        let core = in_flight.core();
        core.validate(&mut task)?;
        let Task {
            artifact,
            mut spec,
            input: Input(stdin),
            stdout,
            stderr,
            retries,
            grace,
            port,
            tasks,
            #[cfg(feature = "http")]
            request,
        } = task;
        #[cfg(feature = "http")]
        let (exchange, response) = request
            .map(|request| {
                let (exchange, response) = Exchange::new(*request);
                (Box::new(exchange), response)
            })
            .unzip();
        #[cfg(not(feature = "http"))]
        let exchange = None;
        if !tasks.is_empty() {
            let limits = &spec.limits;
            Arc::make_mut(&mut spec).child_data = child_data(&tasks, limits);
        }
        let (stdout, capture_out, stream_out) = sink(stdout, &spec);
        let beside = match stderr {
            Stdio::Stdout => stdout.beside(spec.limits.output_budget(false)),
            _ => None,
        };
        let (stderr, capture_err, stream_err) = match beside {
            Some(stderr) => (stderr, None, None),
            None => sink(stderr, &spec),
        };
        let tree = (!tasks.is_empty()).then(|| (Tree::new(tasks, &spec.limits), 0));
        let launch = core.starter.launch(Request {
            artifact,
            deadline: spec.limits.timeout.and_then(Deadline::after),
            spec,
            input: stdin,
            stdout,
            stderr,
            exchange,
            port,
            progress,
            cancel: Token::new(),
            kill: core.kill_all.child(),
            grace,
            retries,
            tree,
            permit: RunPermit::queue(&core.starter.permits),
        });
        let admitted = Admitted {
            launch,
            capture_out,
            capture_err,
            in_flight,
        };
        let ends = Ends {
            stdout: stream_out,
            stderr: stream_err,
            #[cfg(feature = "http")]
            response,
        };
        Ok((admitted, ends))
    }

    /// Drives an admitted task to its report.
    pub(crate) async fn drive(admitted: Admitted) -> Result<Report, Error> {
        // It ends last.
        let Admitted {
            in_flight,
            launch,
            capture_out,
            capture_err,
        } = admitted;
        let core = in_flight.core();
        let job = &launch.job;
        let spec = job.spec.clone();
        let task_id = job.task_id;
        let provider = launch.provider.clone();
        let is_captured = job.stdout.is_capture();
        let metered = job.metered();
        let submitted = launch.submitted;
        let ran = launch.run(&core.executor).await;
        if let Some(end) = provider.end() {
            end.await;
        }
        let Ran {
            queue,
            attempt,
            executed,
            permit,
            artifact,
        } = ran.inspect_err(trace::not_run)?;
        drop(permit);
        let [stdout, stderr] = [captured(capture_out).await, captured(capture_err).await];
        let total = submitted.elapsed();
        let Executed {
            result,
            overhead,
            worker_pid,
            usage,
            jail,
            start: start_method,
            mut notes,
        } = executed;
        let compiled = artifact.made(metered);
        notes.extend(compiled.as_ref().and_then(Compiled::note));
        let jail_mode = (core.config.mode == Mode::Process).then_some(core.config.jail);
        let jail = match jail {
            Some(jail) => Some(Arc::unwrap_or_clone(jail)),
            // No walls: that is known without a report of the worker.
            None if jail_mode == Some(Jail::Off) && worker_pid.is_some() => {
                Some(JailReport::default())
            }
            None => None,
        };
        let outcome = match result.outcome {
            Outcome::Completed(_) => Outcome::Completed(Output(stdout.clone())),
            other => other,
        };
        let limit_value = match outcome {
            Outcome::LimitExceeded(limit) => spec.limits.value(limit, &artifact, is_captured),
            _ => None,
        };
        let mut stats = Stats::default();
        stats.queue = queue;
        stats.start = overhead.saturating_add(result.start);
        stats.run = result.run;
        stats.total = total;
        stats.compile = compiled.map(|compiled| compiled.time);
        stats.cpu = result.cpu;
        stats.peak_memory_bytes = result.peak_memory;
        stats.fuel = result.fuel;
        stats.memory_growth_refused = result.growth_refused;
        stats.worker_pid = worker_pid;
        stats.usage = usage;
        stats.start_method = start_method;
        stats.children = provider.children_started();
        let mut report = Report::new(task_id, &spec.name, core.config.mode, outcome);
        report.attempt = attempt;
        report.limit_value = limit_value;
        report.stats = stats;
        report.denied = result.denied;
        report.jail_mode = jail_mode;
        report.jail = jail;
        report.notes = notes;
        report.stdout = stdout;
        report.stderr = stderr;
        trace::ended(&report);
        Ok(report)
    }
}

/// # Errors
///
/// A request for a task that answers none, or the other way round.
fn check_request(artifact: &Artifact, has_request: bool) -> Result<(), TaskError> {
    match (artifact.shape().is_http(), has_request) {
        (true, false) => Err(TaskError::NoRequest),
        (false, true) => Err(TaskError::NoHandler),
        _ => Ok(()),
    }
}

#[cfg(feature = "http")]
fn check_fields(fields: usize) -> Result<(), TaskError> {
    match fields <= MAX_FIELDS {
        true => Ok(()),
        false => Err(TaskError::TooManyFields {
            fields,
            most: MAX_FIELDS,
        }),
    }
}

async fn captured(sink: Option<Sink>) -> Bytes {
    match sink {
        Some(sink) => sink.take_in_turns().await,
        None => Bytes::new(),
    }
}

fn sink(stdio: Stdio, spec: &Spec) -> (Sink, Option<Sink>, Option<OutputStream>) {
    match stdio {
        Stdio::Capture => {
            let budget = spec.limits.output_budget(true).unwrap_or(u64::MAX);
            let sink = Sink::capture(budget);
            (sink.clone(), Some(sink), None)
        }
        Stdio::Stream => {
            let (sink, chunks) = Sink::channel(spec.limits.output_budget(false));
            (sink, None, Some(OutputStream::new(chunks)))
        }
        Stdio::Null | Stdio::Stdout => (Sink::null(spec.limits.output_budget(false)), None, None),
    }
}
