//! What a runner is, without the threads that drive it: its queue, its places, and a
//! task's way from submission to its report.
//!
//! Invariants: every admitted task gets exactly one report or error; at most
//! `max_running` tasks run and `max_queued` wait.

use crate::children::{Children, Heritage, Starter, child_data};
use crate::handle::OutputStream;
use crate::provider::{Commons, Provider};
use crate::retry::Retry;
use crate::task::{Input, Stdio, Task, validate_output};
use crate::task_grant::validate_tasks;
use crate::thread::ThreadExecutor;
use crate::trace;
use bytes::Bytes;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wrun_process::{ChildCompiler, ProcessExecutor};
use wrun_sandbox::Budgets;
use wrun_sandbox::broadcast::Broadcast;
use wrun_sandbox::deadline::{Deadline, until};
use wrun_sandbox::executor::{Executed, Executor, Job};
use wrun_sandbox::locks::Locks;
use wrun_sandbox::region::{Ledger, Maker};
use wrun_sandbox::stop::Stop;
use wrun_sandbox::{Artifact, Compiled, Compiler, Ending, Fate, InProcess, Loader, Progress, Sink};
use wrun_sys::{self, Process};
use wrun_types::config::{Config, Jail, Mode};
use wrun_types::error::{Error, ErrorKind};
use wrun_types::jail_report::JailReport;
use wrun_types::outcome::{Limit, Outcome, Output};
use wrun_types::report::{Report, Stats};
use wrun_types::spec::Spec;

/// See the [module](self).
pub(crate) struct Core {
    /// In a fork of it there is nobody to drive this.
    pub(crate) made_in: Process,
    pub(crate) config: Config,
    pub(crate) loader: Arc<Loader>,
    pub(crate) executor: Arc<dyn Executor>,
    /// Permits for tasks that are running or queued.
    pub(crate) admission: Arc<Semaphore>,
    /// Permits for tasks that are running.
    places: Arc<Semaphore>,
    pub(crate) starter: Arc<Starter>,
    pub(crate) kill_all: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// A task with its place in the queue.
pub(crate) struct Admitted {
    pub(crate) job: Job,
    submitted: Instant,
    retries: u32,
    pub(crate) stop: Stop,
    capture_out: Option<Sink>,
    capture_err: Option<Sink>,
    place: Place,
    /// Of all that is done for the task.
    pub(crate) span: tracing::Span,
    _permit: OwnedSemaphorePermit,
}

/// What came of an admitted task.
struct Ran {
    queue: Duration,
    attempt: u32,
    executed: Executed,
}

/// A permit to run, in the order of submission.
enum Place {
    Had(OwnedSemaphorePermit),
    Queued(Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>),
}

impl Place {
    async fn had(self) -> Result<OwnedSemaphorePermit, AcquireError> {
        match self {
            Place::Had(permit) => Ok(permit),
            Place::Queued(queued) => queued.await,
        }
    }
}

/// The embedder's ends of a task.
pub(crate) struct Ends {
    pub(crate) stdout: Option<OutputStream>,
    pub(crate) stderr: Option<OutputStream>,
    pub(crate) progress: watch::Receiver<Progress>,
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
        let compiler: Box<dyn Compiler> = match config.mode {
            Mode::Thread => match ChildCompiler::with_limits(&config)? {
                Some(compiler) => Box::new(compiler),
                None => Box::new(InProcess::new(config.compile_budget)),
            },
            Mode::Process => Box::new(ChildCompiler::new(&config)?),
        };
        let loader = Arc::new(Loader::new(&config, compiler));
        let executor: Arc<dyn Executor> = match config.mode {
            Mode::Thread => {
                let ledger = Arc::new(Ledger::new(config.region_memory, false));
                let slots = config.max_running + config.max_children;
                Arc::new(ThreadExecutor::new(loader.clone(), slots, ledger))
            }
            Mode::Process => Arc::new(ProcessExecutor::new(loader.clone(), &config)?),
        };
        Ok(Core {
            made_in: Process::current(),
            admission: Arc::new(Semaphore::new(config.max_running + config.max_queued)),
            places: Arc::new(Semaphore::new(config.max_running)),
            starter: Arc::new(Starter {
                executor: executor.clone(),
                mode: config.mode,
                next_id: AtomicU64::new(1),
                places: Arc::new(Semaphore::new(config.max_children)),
                commons: Arc::new(Commons {
                    locks: Arc::new(Locks::new()),
                    broadcast: Arc::new(Broadcast::new(executor.transport().clone())),
                }),
            }),
            config,
            loader,
            executor,
            kill_all: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    pub(crate) fn prepare(&self, artifact: Artifact) -> Result<Artifact, Error> {
        self.executor.prepare(&artifact, self.config.metered)?;
        Ok(artifact)
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

    pub(crate) async fn admit(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.is_of_this_process()?;
        self.admission
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Error::shut_down())
    }

    /// Validates a task, and stamps its id and deadline, once.
    pub(crate) fn admitted(
        &self,
        task: Task,
        permit: OwnedSemaphorePermit,
    ) -> Result<(Admitted, Ends), Error> {
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
        } = task;
        let all = tasks.iter().map(|grant| &grant.artifact);
        if all
            .chain([&artifact])
            .any(|artifact| artifact.runner() != self.loader.runner())
        {
            return Err(Error::new(
                ErrorKind::InvalidTask,
                "the artifact was loaded by another runner",
            ));
        }
        if port
            .as_ref()
            .is_some_and(|port| !self.executor.transport().has(port))
        {
            return Err(Error::new(
                ErrorKind::InvalidTask,
                "the port belongs to another runner's channel",
            ));
        }
        spec.validate()?;
        validate_tasks(&tasks)?;
        validate_output(stdout, stderr)?;
        spec.child_data = child_data(&tasks, &spec.limits);
        let submitted = Instant::now();
        let (stdout, capture_out, stream_out) = sink(stdout, &spec);
        let beside = match stderr {
            Stdio::Stdout => stdout.beside(spec.limits.output_budget(false)),
            _ => None,
        };
        let (stderr, capture_err, stream_err) = match beside {
            Some(stderr) => (stderr, None, None),
            None => sink(stderr, &spec),
        };
        let (progress, watched) = watch::channel(Progress::default());
        let deadline = spec.limits.timeout.and_then(Deadline::after);
        let cancel = CancellationToken::new();
        let kill = self.kill_all.child_token();
        let stop = Stop {
            wished: CancellationToken::new(),
            ask: cancel.clone(),
            end: kill.clone(),
            grace,
        };
        let children = (!tasks.is_empty()).then(|| {
            let heritage = Heritage {
                limits: spec.limits.clone(),
                deadline,
                cancel: cancel.clone(),
                kill: kill.clone(),
                grace,
                stderr: stderr.clone(),
            };
            Children::of_submitted(&self.starter, tasks, heritage)
        });
        let regions = Arc::new(Maker::new(
            self.executor.ledger().clone(),
            spec.limits.max_memory,
        ));
        let id = self.starter.next_id.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted {
            span: trace::task(id, &spec.name, &artifact, self.config.mode),
            submitted,
            retries,
            stop,
            job: Job {
                task_id: id,
                attempt: 1,
                artifact,
                deadline,
                spec: Arc::new(spec),
                stdin,
                stdout,
                stderr,
                cancel,
                kill,
                progress: Arc::new(move |value| {
                    progress.send_replace(value);
                }),
                port,
                services: Arc::new(Provider::new(
                    children,
                    self.starter.commons.clone(),
                    regions,
                )),
            },
            capture_out,
            capture_err,
            place: self.place(),
            _permit: permit,
        };
        let ends = Ends {
            stdout: stream_out,
            stderr: stream_err,
            progress: watched,
        };
        Ok((admitted, ends))
    }

    /// Queues for a place now: whoever was submitted first runs first, whichever
    /// thread comes to it first.
    fn place(&self) -> Place {
        // Where others wait there is none to be had at once.
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Place::Had(permit);
        }
        let mut place = Box::pin(self.places.clone().acquire_owned());
        // The semaphore keeps the order in which it was first asked.
        let mut cx = Context::from_waker(Waker::noop());
        match place.as_mut().poll(&mut cx) {
            Poll::Ready(had) => Place::Queued(Box::pin(std::future::ready(had))),
            Poll::Pending => Place::Queued(place),
        }
    }

    /// Takes an admitted task to its report.
    pub(crate) async fn drive(self: Arc<Self>, admitted: Admitted) -> Result<Report, Error> {
        let Admitted {
            job,
            submitted,
            retries,
            stop,
            capture_out,
            capture_err,
            place,
            span: _,
            _permit,
        } = admitted;
        let spec = job.spec.clone();
        let task_id = job.task_id;
        let services = job.services.clone();
        let artifact = job.artifact.clone();
        let is_captured = job.stdout.is_capture();
        let metered = job.metered();
        let ran = self.execute(job, retries, place, submitted, &stop).await;
        services.end().await;
        let Ran {
            queue,
            attempt,
            executed,
        } = ran.inspect_err(trace::not_run)?;
        let [stdout, stderr] = [captured(capture_out).await, captured(capture_err).await];
        let total = submitted.elapsed();
        let Executed {
            fate,
            overhead,
            worker_pid,
            usage,
            jail,
            start: start_method,
            mut notes,
        } = executed;
        let compiled = artifact.made(metered);
        notes.extend(compiled.as_ref().and_then(Compiled::note));
        let jail_mode = (self.config.mode == Mode::Process).then_some(self.config.jail);
        let jail = match jail {
            Some(jail) => Some(Arc::unwrap_or_clone(jail)),
            // No walls: that needs nobody who says so.
            None if jail_mode == Some(Jail::Off) && worker_pid.is_some() => {
                Some(JailReport::default())
            }
            None => None,
        };
        let (outcome, fate) = match fate {
            Ok(fate) => (outcome(&fate.ending, &stdout), fate),
            Err(crash) => (Outcome::Crashed(crash), Fate::imposed(Ending::Cancelled)),
        };
        let limit_value = match outcome {
            Outcome::LimitExceeded(limit) => spec.limits.value(limit, &artifact, is_captured),
            _ => None,
        };
        let mut stats = Stats::default();
        stats.queue = queue;
        stats.start = overhead.saturating_add(fate.start);
        stats.run = fate.run;
        stats.total = total;
        stats.compile = compiled.map(|compiled| compiled.time);
        stats.cpu = fate.cpu;
        stats.peak_memory_bytes = fate.peak_memory;
        stats.fuel = fate.fuel;
        stats.memory_growth_refused = fate.growth_refused;
        stats.worker_pid = worker_pid;
        stats.usage = usage;
        stats.start_method = start_method;
        stats.children = services.children_started();
        let mut report = Report::new(task_id, &spec.name, self.config.mode, outcome);
        report.attempt = attempt;
        report.limit_value = limit_value;
        report.stats = stats;
        report.denied = fate.denied;
        report.jail_mode = jail_mode;
        report.jail = jail;
        report.notes = notes;
        report.stdout = stdout;
        report.stderr = stderr;
        trace::ended(&report);
        Ok(report)
    }

    /// Waits for a place and runs there.
    async fn execute(
        &self,
        job: Job,
        retries: u32,
        place: Place,
        submitted: Instant,
        stop: &Stop,
    ) -> Result<Ran, Error> {
        let imposed = |ending| Ran {
            queue: submitted.elapsed(),
            attempt: 1,
            executed: Executed::new(Ok(Fate::imposed(ending))),
        };
        let kill = job.kill.clone();
        let deadline = job.deadline;
        let mut ended = std::pin::pin!(async {
            tokio::select! {
                biased;
                () = kill.cancelled() => Ending::Cancelled,
                () = stop.wished.cancelled() => Ending::Cancelled,
                () = until(deadline) => Ending::LimitExceeded(Limit::Deadline),
            }
        });
        if matches!(place, Place::Queued(_)) {
            trace::queued();
        }
        let _place = tokio::select! {
            biased;
            place = place.had() => place.map_err(|_| Error::shut_down())?,
            ending = &mut ended => return Ok(imposed(ending)),
        };
        let metered = job.metered();
        if job.artifact.prepared(metered).is_none() {
            let executor = self.executor.clone();
            let artifact = job.artifact.clone();
            let preparing =
                tokio::task::spawn_blocking(move || executor.prepare(&artifact, metered));
            tokio::select! {
                biased;
                prepared = preparing => prepared.map_err(|_| Error::shut_down())??,
                ending = &mut ended => return Ok(imposed(ending)),
            }
            trace::prepared(&job.artifact, metered);
        }
        let queue = submitted.elapsed();
        let listens = self.executor.listens(&job.artifact, metered);
        if retries == 0 {
            let executed = stop.watch(listens, self.executor.execute(job)).await?;
            return Ok(Ran {
                queue,
                attempt: 1,
                executed,
            });
        }
        let attempts = self.attempts(Retry::new(job, retries), ended);
        let (attempt, executed) = stop.watch(listens, attempts).await?;
        Ok(Ran {
            queue,
            attempt,
            executed,
        })
    }

    /// Runs one attempt after another until one does not crash, or there may be
    /// no more; says which was the last.
    async fn attempts(
        &self,
        mut retry: Retry,
        mut ended: Pin<&mut impl Future<Output = Ending>>,
    ) -> Result<(u32, Executed), Error> {
        let mut attempt = retry.attempt();
        let mut executed = self.executor.execute(retry.job()).await?;
        let mut notes = Vec::new();
        while let Err(crash) = &executed.fate {
            retry.let_go();
            if retry.is_spent() {
                break;
            }
            if let Some(obstacle) = retry.obstacle() {
                trace::not_retried(obstacle);
                notes.push(format!("no new attempt: {obstacle}"));
                break;
            }
            let crashed = format!("attempt {attempt} crashed: {crash}");
            let pause = retry.pause();
            trace::retrying(attempt.saturating_add(1), pause);
            tokio::select! {
                biased;
                ending = &mut ended => {
                    notes.push(crashed);
                    executed.fate = Ok(Fate::imposed(ending));
                    break;
                }
                () = retry.asked_to_stop() => continue,
                () = tokio::time::sleep(pause) => {}
            }
            retry.begin_next();
            match self.executor.execute(retry.job()).await {
                Ok(next) => {
                    notes.push(crashed);
                    attempt = retry.attempt();
                    executed = next;
                }
                // The crash is what is known of the task.
                Err(error) => {
                    trace::not_retried(&error.to_string());
                    notes.push(format!("no new attempt: {error}"));
                    break;
                }
            }
        }
        notes.append(&mut executed.notes);
        executed.notes = notes;
        Ok((attempt, executed))
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

fn outcome(ending: &Ending, stdout: &Bytes) -> Outcome {
    match ending {
        Ending::Completed => Outcome::Completed(Output(stdout.clone())),
        Ending::Failed(message) => Outcome::Failed(message.clone()),
        Ending::Exited(code) => Outcome::Exited(*code),
        Ending::Trapped(trap) => Outcome::Trapped(trap.clone()),
        Ending::LimitExceeded(limit) => Outcome::LimitExceeded(*limit),
        Ending::Cancelled => Outcome::Cancelled,
    }
}
