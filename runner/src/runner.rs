//! The runner: admits tasks to a bounded queue, gives each a place to run, and
//! hands out its report.
//!
//! Invariants: every admitted task gets exactly one report or error; at most
//! `max_running` tasks run and `max_queued` wait; dropping the runner ends all
//! of them and leaves no process and no descriptor, and no thread but, in thread
//! mode, one that is compiling, which ends when it has compiled.

use crate::broadcast::Broadcast;
use crate::builder::Builder;
use crate::children::{Children, Heritage, Starter, child_data};
use crate::config::{Config, Jail, Mode};
use crate::error::{Error, ErrorKind};
use crate::executor::{Executed, Executor, Job};
use crate::handle::{OutputStream, TaskHandle};
use crate::jail::JailReport;
use crate::lock_table::LockMode;
use crate::locks::{Hold, LockGuard, Locks, MAX_NAME};
use crate::outcome::{Limit, Outcome, Output};
use crate::port::Port;
use crate::process::{ChildCompiler, ProcessExecutor};
use crate::region::{Kind as RegionKind, Ledger, Maker, Region, RegionError};
use crate::report::{Report, Stats};
use crate::retry::Retry;
use crate::sandbox::{Artifact, Compiler, Ending, Fate, InProcess, Loader, Progress, Sink};
use crate::services::{Commons, Provider};
use crate::stop::Stop;
use crate::task::{Input, Spec, Stdio, Task, validate_tasks};
use crate::thread::ThreadExecutor;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long dropping a runner waits for tasks that were killed.
const DROP_WAIT: Duration = Duration::from_secs(5);
/// How long it waits for threads that are blocked in the operating system.
const THREADS_WAIT: Duration = Duration::from_millis(100);

/// Runs tasks, in one mode; see the [crate's tour](crate).
///
/// Dropping it kills what still runs and waits until it is gone.
pub struct Runner {
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    config: Config,
    loader: Arc<Loader>,
    executor: Arc<dyn Executor>,
    /// Permits for tasks that are running or queued.
    admission: Arc<Semaphore>,
    /// Permits for tasks that are running.
    places: Arc<Semaphore>,
    starter: Arc<Starter>,
    kill_all: CancellationToken,
    tasks: TaskTracker,
}

/// A task with its place in the queue.
struct Admitted {
    job: Job,
    submitted: Instant,
    retries: u32,
    stop: Stop,
    capture_out: Option<Sink>,
    capture_err: Option<Sink>,
    place: Place,
    _permit: OwnedSemaphorePermit,
}

/// What came of an admitted task.
struct Ran {
    queue: Duration,
    attempt: u32,
    executed: Executed,
}

/// A permit to run, had or queued for in the order of submission.
type Place = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// The embedder's ends of a task.
struct Ends {
    stdout: Option<OutputStream>,
    stderr: Option<OutputStream>,
    progress: watch::Receiver<Progress>,
}

impl Runner {
    /// A builder with the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(config.worker_threads)
            // A task that computes gives way at each epoch tick; timers and I/O
            // must be looked at then, not after 61 such turns.
            .event_interval(1)
            .thread_name("wrun")
            .enable_all()
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::System, format!("cannot start threads: {error}"))
            })?;
        let compiler: Box<dyn Compiler> = match config.mode {
            Mode::Thread => Box::new(InProcess::default()),
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
        Ok(Runner {
            shared: Arc::new(Shared {
                admission: Arc::new(Semaphore::new(config.max_running + config.max_queued)),
                places: Arc::new(Semaphore::new(config.max_running)),
                starter: Arc::new(Starter {
                    executor: executor.clone(),
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
            }),
            runtime: Some(runtime),
        })
    }

    /// Where this runner's tasks run.
    pub fn mode(&self) -> Mode {
        self.shared.config.mode
    }

    /// Loads a task file: recognised, checked, compiled unless cached. Blocks
    /// for as long as that takes; in asynchronous code use
    /// [`Runner::load_async`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], or [`ErrorKind::NotLoadable`] with what is wrong
    /// with the bytes. In process mode, which compiles in a child with limits,
    /// also [`ErrorKind::LoadLimit`], or [`ErrorKind::NoWorker`] when there is
    /// nobody to compile.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<Artifact, Error> {
        let artifact = self.shared.loader.load_file(path.as_ref(), false)?;
        self.shared.prepare(artifact)
    }

    /// Loads a task from memory, under a name.
    ///
    /// # Errors
    ///
    /// As [`Runner::load`].
    pub fn load_bytes(&self, name: &str, bytes: impl Into<Bytes>) -> Result<Artifact, Error> {
        let artifact = self.shared.loader.load(name, bytes.into(), false)?;
        self.shared.prepare(artifact)
    }

    /// Loads a task file that may also be an artifact of `wrun compile`.
    ///
    /// An artifact is native code that no sandbox checks: vouch only for what you
    /// made yourself.
    ///
    /// # Errors
    ///
    /// As [`Runner::load`]; [`ErrorKind::NotLoadable`] for an artifact that is
    /// damaged, or made by another version or for another kind of processor.
    pub fn load_trusted(&self, path: impl AsRef<Path>) -> Result<Artifact, Error> {
        let artifact = self.shared.loader.load_file(path.as_ref(), true)?;
        self.shared.prepare(artifact)
    }

    /// [`Runner::load`] for asynchronous code. Compiling goes on to its end when
    /// the future is dropped, but in process mode not beyond the runner.
    ///
    /// # Errors
    ///
    /// As [`Runner::load`].
    pub async fn load_async(&self, path: impl Into<PathBuf>) -> Result<Artifact, Error> {
        self.load_elsewhere(path.into(), false).await
    }

    /// [`Runner::load_trusted`] for asynchronous code.
    ///
    /// # Errors
    ///
    /// As [`Runner::load_trusted`].
    pub async fn load_trusted_async(&self, path: impl Into<PathBuf>) -> Result<Artifact, Error> {
        self.load_elsewhere(path.into(), true).await
    }

    async fn load_elsewhere(&self, path: PathBuf, trusted: bool) -> Result<Artifact, Error> {
        let shared = self.shared.clone();
        self.handle()
            .spawn_blocking(move || shared.prepare(shared.loader.load_file(&path, trusted)?))
            .await
            .map_err(|_| Error::shut_down())?
    }

    /// Two connected [`Port`]s: one for a task ([`Task::port`]), one to talk to it
    /// with. Up to `capacity` messages, 1 to [`Port::MAX_CAPACITY`], wait in each
    /// direction.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidTask`] for another capacity; [`ErrorKind::System`] when
    /// there are no descriptors left.
    pub fn channel(&self, capacity: u32) -> Result<(Port, Port), Error> {
        if !(1..=Port::MAX_CAPACITY).contains(&capacity) {
            return Err(Error::new(
                ErrorKind::InvalidTask,
                format!("a channel has a capacity of 1 to {}", Port::MAX_CAPACITY),
            ));
        }
        let _context = self.handle().enter();
        let transport = self.shared.executor.transport();
        transport
            .channel(capacity)
            .map_err(|_| Error::new(ErrorKind::System, "no descriptors are left for a channel"))
    }

    /// A [`Region`] of `len` bytes, all zero, exclusive or shared. Its memory is
    /// reserved, which takes milliseconds for tens of MiB.
    ///
    /// # Errors
    ///
    /// [`RegionError::OutOfBounds`] for no bytes; [`RegionError::WrongKind`] for a
    /// frozen one, which [`Runner::frozen_region`] makes; [`RegionError::Limit`];
    /// [`RegionError::System`] when there is no memory.
    pub fn region(&self, len: u64, kind: RegionKind) -> Result<Region, RegionError> {
        let ledger = self.shared.executor.ledger();
        ledger.make(len, kind)?.finish()
    }

    /// A frozen [`Region`] of these bytes: one large input that any number of tasks
    /// read without a copy.
    ///
    /// # Errors
    ///
    /// As [`Runner::region`].
    pub fn frozen_region(&self, bytes: &[u8]) -> Result<Region, RegionError> {
        let mut region = self.region(bytes.len() as u64, RegionKind::Exclusive)?;
        region.write(0, bytes)?;
        region.freeze()?;
        Ok(region)
    }

    /// Bytes that all regions of this runner have now, of its tasks and of its host.
    pub fn region_memory_used(&self) -> u64 {
        self.shared.executor.ledger().bytes()
    }

    /// Joins a broadcast channel of this runner, as a task does with `broadcast.open`:
    /// what is sent through the port, all other members receive, bytes only. Of each
    /// member, 64 messages wait; one that has no room for the next is closed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidTask`] for a name without bytes or of more than 256;
    /// [`ErrorKind::System`] when the runner's channels have 128 members, or there are
    /// no descriptors left.
    pub fn broadcast(&self, name: &str) -> Result<Port, Error> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(Error::new(
                ErrorKind::InvalidTask,
                "a broadcast channel has a name of 1 to 256 bytes",
            ));
        }
        let _context = self.handle().enter();
        let joined = self.shared.starter.commons.broadcast.join(name, ());
        joined.map_err(|_| Error::new(ErrorKind::System, "there are too many of the channel"))
    }

    /// Has a named lock of this runner, as a task does with `locks.request`: waits until
    /// it can be had, in the order in which host and tasks ask for it. Shared requests do
    /// not pass an exclusive one that waits. Dropping the future gives up waiting.
    ///
    /// It waits for ever where this thread has the lock already; and tasks that wait for
    /// it wait as long as the host has it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidTask`] for a name without bytes or of more than 256;
    /// [`ErrorKind::System`] when host and tasks have or wait for 65,536 locks, or for
    /// 4,096 names.
    ///
    /// # Examples
    ///
    /// ```
    /// use wrun::{LockMode, Mode, Runner, Task};
    ///
    /// # fn main() -> Result<(), wrun::Error> {
    /// let runner = Runner::builder().mode(Mode::Thread).build()?;
    /// let commons = runner.load("../guest-tasks/commons/commons.wasm")?;
    ///
    /// let guard = runner.lock_blocking("ledger", LockMode::Exclusive)?;
    /// let task = runner.submit_blocking(Task::new(&commons).input("take ledger"))?;
    /// assert!(runner.try_lock("ledger", LockMode::Shared)?.is_none());
    /// // The task waits for its turn.
    /// drop(guard);
    /// assert_eq!(task.wait()?.stdout, "taken");
    /// assert!(runner.try_lock("ledger", LockMode::Shared)?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn lock(&self, name: &str, mode: LockMode) -> Result<LockGuard, Error> {
        check_lock(name)?;
        let locks = &self.shared.starter.commons.locks;
        let held = locks.request(name, mode, false).await;
        lock_guard(held)?.ok_or_else(too_many_locks)
    }

    /// [`Runner::lock`] for code that is not asynchronous.
    ///
    /// # Errors
    ///
    /// As [`Runner::lock`]; [`ErrorKind::InvalidTask`] in asynchronous code.
    pub fn lock_blocking(&self, name: &str, mode: LockMode) -> Result<LockGuard, Error> {
        self.must_not_be_async()?;
        self.handle().block_on(self.lock(name, mode))
    }

    /// Has a named lock if it can be had at once; `None` where it cannot.
    ///
    /// # Errors
    ///
    /// As [`Runner::lock`].
    pub fn try_lock(&self, name: &str, mode: LockMode) -> Result<Option<LockGuard>, Error> {
        check_lock(name)?;
        let locks = &self.shared.starter.commons.locks;
        lock_guard(locks.request_now(name, mode))
    }

    /// The compiled artifact of a task, as `wrun compile` writes it: native
    /// code, for this version of wrun on this kind of processor.
    ///
    /// # Errors
    ///
    /// As [`Runner::load`].
    pub fn compile(&self, artifact: &Artifact) -> Result<Vec<u8>, Error> {
        let metered = self.shared.config.metered;
        let code = self.shared.loader.code(artifact, metered)?;
        code.bytes().map_err(|error| {
            Error::new(ErrorKind::System, format!("cannot read the code: {error}"))
        })
    }

    /// Runs one task and waits for its report.
    ///
    /// The calling thread does the work that a thread of the runner would do:
    /// a short task pays for no switch of threads.
    ///
    /// # Errors
    ///
    /// As [`TaskHandle::outcome`]; [`ErrorKind::InvalidTask`] in asynchronous
    /// code, which must not block: use [`Runner::submit`] there.
    pub fn run(&self, task: Task) -> Result<Report, Error> {
        self.must_not_be_async()?;
        if [task.stdout, task.stderr].contains(&Stdio::Stream) {
            return Err(Error::new(
                ErrorKind::InvalidTask,
                "nobody would read the streams of a task that is waited for: use submit",
            ));
        }
        let shared = self.shared.clone();
        self.handle().block_on(async {
            let permit = shared.admit().await?;
            let (admitted, _ends) = shared.admitted(task, permit)?;
            self.shared
                .tasks
                .track_future(shared.clone().drive(admitted))
                .await
        })
    }

    /// Submits a task, waiting while the queue is full.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidTask`] for settings that cannot be;
    /// [`ErrorKind::ShutDown`].
    pub async fn submit(&self, task: Task) -> Result<TaskHandle, Error> {
        let permit = self.shared.admit().await?;
        self.start(task, permit)
    }

    /// [`Runner::submit`] for code that is not asynchronous.
    ///
    /// # Errors
    ///
    /// As [`Runner::submit`]; [`ErrorKind::InvalidTask`] in asynchronous code.
    pub fn submit_blocking(&self, task: Task) -> Result<TaskHandle, Error> {
        self.must_not_be_async()?;
        let permit = self.handle().block_on(self.shared.admit())?;
        self.start(task, permit)
    }

    /// Submits a task if there is room in the queue.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] when there is none; else as
    /// [`Runner::submit`].
    pub fn try_submit(&self, task: Task) -> Result<TaskHandle, Error> {
        let permit =
            self.shared
                .admission
                .clone()
                .try_acquire_owned()
                .map_err(|error| match error {
                    tokio::sync::TryAcquireError::NoPermits => Error::overloaded(),
                    tokio::sync::TryAcquireError::Closed => Error::shut_down(),
                })?;
        self.start(task, permit)
    }

    /// Takes no more tasks, waits for those it has and until their streams are
    /// read, and ends.
    pub async fn shutdown(self) {
        self.shared.admission.close();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// [`Runner::shutdown`] for code that is not asynchronous.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidTask`] in asynchronous code.
    pub fn shutdown_blocking(self) -> Result<(), Error> {
        self.must_not_be_async()?;
        let handle = self.handle().clone();
        handle.block_on(self.shutdown());
        Ok(())
    }

    /// [`Runner::shutdown`] that waits no longer than `time`: then it kills the
    /// tasks that are left, queued ones included, and returns how many they were.
    pub async fn shutdown_within(self, time: Duration) -> usize {
        let shared = self.shared.clone();
        shared.admission.close();
        shared.tasks.close();
        if tokio::time::timeout(time, shared.tasks.wait())
            .await
            .is_ok()
        {
            return 0;
        }
        let left = shared.tasks.len();
        shared.kill_all.cancel();
        let _ = tokio::time::timeout(DROP_WAIT, shared.tasks.wait()).await;
        left
    }

    /// [`Runner::shutdown_within`] for code that is not asynchronous.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidTask`] in asynchronous code.
    pub fn shutdown_within_blocking(self, time: Duration) -> Result<usize, Error> {
        self.must_not_be_async()?;
        let handle = self.handle().clone();
        Ok(handle.block_on(self.shutdown_within(time)))
    }

    fn start(&self, task: Task, permit: OwnedSemaphorePermit) -> Result<TaskHandle, Error> {
        let (admitted, ends) = self.shared.admitted(task, permit)?;
        let id = admitted.job.task_id;
        let kill = admitted.stop.wished.clone();
        let cancel = admitted.job.cancel.clone();
        let shared = self.shared.clone();
        let join = self
            .shared
            .tasks
            .spawn_on(shared.drive(admitted), self.handle());
        Ok(TaskHandle::new(
            id,
            join,
            kill,
            cancel,
            ends.stdout,
            ends.stderr,
            ends.progress,
        ))
    }

    fn must_not_be_async(&self) -> Result<(), Error> {
        if Handle::try_current().is_ok() {
            return Err(Error::new(
                ErrorKind::InvalidTask,
                "a blocking call in asynchronous code: use the asynchronous one",
            ));
        }
        Ok(())
    }

    fn handle(&self) -> &Handle {
        match &self.runtime {
            Some(runtime) => runtime.handle(),
            None => unreachable!("only drop takes the runtime"),
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.shared.admission.close();
        self.shared.tasks.close();
        self.shared.kill_all.cancel();
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        // Waiting is not allowed on a thread that drives other futures; one of
        // its own may.
        let wait = move |shared: &Shared| {
            runtime.block_on(async {
                let _ = tokio::time::timeout(DROP_WAIT, shared.tasks.wait()).await;
            });
            shared.executor.close();
            runtime.shutdown_timeout(THREADS_WAIT);
        };
        if Handle::try_current().is_ok() {
            std::thread::scope(|scope| {
                scope.spawn(|| wait(&self.shared));
            });
        } else {
            wait(&self.shared);
        }
    }
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner")
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn prepare(&self, artifact: Artifact) -> Result<Artifact, Error> {
        self.executor.prepare(&artifact, self.config.metered)?;
        Ok(artifact)
    }

    async fn admit(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.admission
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Error::shut_down())
    }

    /// Validates a task, and stamps its id and deadline, once.
    fn admitted(
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
                "the port is of another runner's channel",
            ));
        }
        spec.validate()?;
        validate_tasks(&tasks)?;
        spec.child_data = child_data(&tasks, &spec.limits);
        let submitted = Instant::now();
        let (stdout, capture_out, stream_out) = sink(stdout, &spec);
        let (stderr, capture_err, stream_err) = sink(stderr, &spec);
        let (progress, watched) = watch::channel(Progress::default());
        let deadline = spec
            .limits
            .timeout
            .and_then(|timeout| submitted.checked_add(timeout));
        let cancel = CancellationToken::new();
        let kill = self.kill_all.child_token();
        let heritage = Heritage {
            limits: spec.limits.clone(),
            deadline,
            cancel: cancel.clone(),
            kill: kill.clone(),
            grace,
            stderr: stderr.clone(),
        };
        let stop = Stop {
            wished: CancellationToken::new(),
            ask: cancel.clone(),
            end: kill.clone(),
            grace,
        };
        let children = Children::of_submitted(&self.starter, tasks, heritage);
        let regions = Maker::new(self.executor.ledger().clone(), spec.limits.max_memory);
        let admitted = Admitted {
            submitted,
            retries,
            stop,
            job: Job {
                task_id: self.starter.next_id.fetch_add(1, Ordering::Relaxed),
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
        let mut place: Place = Box::pin(self.places.clone().acquire_owned());
        // The semaphore keeps the order in which it was first asked.
        let mut cx = Context::from_waker(Waker::noop());
        match place.as_mut().poll(&mut cx) {
            Poll::Ready(had) => Box::pin(std::future::ready(had)),
            Poll::Pending => place,
        }
    }

    /// Takes an admitted task to its report.
    async fn drive(self: Arc<Self>, admitted: Admitted) -> Result<Report, Error> {
        let Admitted {
            job,
            submitted,
            retries,
            stop,
            capture_out,
            capture_err,
            place,
            _permit,
        } = admitted;
        let spec = job.spec.clone();
        let task_id = job.task_id;
        let services = job.services.clone();
        let ran = self.execute(job, retries, place, submitted, &stop).await;
        services.end().await;
        let Ran {
            queue,
            attempt,
            executed,
        } = ran?;
        let stdout = capture_out.map(|sink| sink.take()).unwrap_or_default();
        let stderr = capture_err.map(|sink| sink.take()).unwrap_or_default();
        let total = submitted.elapsed();
        let Executed {
            fate,
            overhead,
            worker_pid,
            usage,
            jail,
            start: start_method,
            notes,
        } = executed;
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
        Ok(Report {
            task_id,
            name: spec.name.clone(),
            attempt,
            mode: self.config.mode,
            outcome,
            stats: Stats {
                queue,
                start: overhead.saturating_add(fate.start),
                run: fate.run,
                total,
                cpu: fate.cpu,
                peak_memory_bytes: fate.peak_memory,
                fuel: fate.fuel,
                memory_growth_refused: fate.growth_refused,
                worker_pid,
                usage,
                start_method,
                children: services.children_started(),
            },
            denied: fate.denied,
            jail_mode,
            jail,
            notes,
            stdout,
            stderr,
        })
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
        let expired = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let mut ended = std::pin::pin!(async {
            tokio::select! {
                biased;
                () = kill.cancelled() => Ending::Cancelled,
                () = stop.wished.cancelled() => Ending::Cancelled,
                () = expired => Ending::LimitExceeded(Limit::Deadline),
            }
        });
        let _place = tokio::select! {
            biased;
            place = place => place.map_err(|_| Error::shut_down())?,
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
                notes.push(format!("no new attempt: {obstacle}"));
                break;
            }
            let crashed = format!("attempt {attempt} crashed: {crash}");
            let pause = retry.pause();
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

fn check_lock(name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Error::new(
            ErrorKind::InvalidTask,
            "a lock has a name of 1 to 256 bytes",
        ));
    }
    Ok(())
}

fn lock_guard(held: Result<Option<Hold>, ()>) -> Result<Option<LockGuard>, Error> {
    let held = held.map_err(|()| too_many_locks())?;
    Ok(held.map(LockGuard::new))
}

fn too_many_locks() -> Error {
    Error::new(
        ErrorKind::System,
        "the runner has as many locks as it may have",
    )
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
        Stdio::Null => (Sink::null(spec.limits.output_budget(false)), None, None),
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
