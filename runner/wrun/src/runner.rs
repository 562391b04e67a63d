//! The runner for embedders: its calls, and the threads that drive its [`Core`].
//!
//! Invariant: dropping the runner ends all tasks and leaves no process and no descriptor,
//! and no thread except, in thread mode, one that is compiling, which ends after that.

mod ending;
mod shared;
mod threads;

use crate::admission::{Admission, InFlight};
use crate::batch::Batch;
use crate::core::Core;
use crate::driving::Driving;
use crate::handle::{TaskHandle, must_not_be_async};
use crate::in_place::run_here;
use crate::task::{Stdio, Task};
use bytes::Bytes;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use threads::{OTHER_THREADS, runtime};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tracing::{Instrument, Span};
use wrun_sandbox::deadline;
use wrun_sandbox::{Artifact, Progress};
use wrun_sys::direct::Direct;
use wrun_sys::shortage;
use wrun_sys::{self, NoPipeSignal, Unpoisoned as _};
use wrun_types::config::{Config, Mode, Preemption};
use wrun_types::error::{Error, ErrorKind};
use wrun_types::report::Report;

/// How long dropping a runner waits for tasks that were killed.
const DROP_WAIT: Duration = Duration::from_secs(5);

/// Runs tasks, in one mode; see the [crate's tour](crate).
///
/// Dropping it kills what still runs and waits until it is gone.
///
/// It belongs to the process that made it. In a fork of that process, which has none of its
/// threads, every call returns [`ErrorKind::ShutDown`], and dropping it does nothing: make
/// another one there.
pub struct Runner {
    pub(crate) core: Arc<Core>,
    runtime: Option<Runtime>,
    /// Broken pipes would end this process.
    quiet_pipes: bool,
    /// What one blocking call leaves for the next.
    direct: Mutex<Option<Direct>>,
}

impl Runner {
    pub(crate) fn new(config: Config) -> Result<Self, Error> {
        wrun_sys::survive_file_size_signal();
        let quiet_pipes = wrun_sys::dies_of_broken_pipes();
        let computing = match (config.mode, config.preemption) {
            (Mode::Thread, Preemption::Signal) => {
                config.max_running.saturating_add(config.max_children)
            }
            _ => 0,
        };
        let threads =
            shortage::room_for_threads(config.worker_threads, OTHER_THREADS).map_err(|error| {
                let hint = shortage::hint(&error);
                Error::new(
                    ErrorKind::System,
                    format!("there is too little memory for threads: {error}{hint}"),
                )
            })?;
        // The runtime last: it must not be dropped by a caller that may not block.
        let core = Arc::new(Core::new(config)?);
        Ok(Runner {
            core,
            runtime: Some(runtime(threads, computing, quiet_pipes)?),
            quiet_pipes,
            direct: Mutex::default(),
        })
    }

    /// Where this runner's tasks run.
    pub fn mode(&self) -> Mode {
        self.core.config.mode
    }

    /// Loads a task file: recognised, checked, compiled unless cached. Compiling continues
    /// to its end if the future is dropped, but in a child not beyond the runner.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], or [`ErrorKind::NotLoadable`] with what is wrong with the
    /// bytes; [`ErrorKind::LoadLimit`] if compiling takes longer than
    /// [`Builder::compile_timeout`](crate::Builder::compile_timeout) or more than
    /// [`Builder::compile_memory`](crate::Builder::compile_memory). In process mode, which
    /// compiles in a child, also [`ErrorKind::NoWorker`] if there is no worker program; in
    /// thread mode [`ErrorKind::Overloaded`] if all processors are occupied by compilations
    /// that exceeded their time.
    pub async fn load(&self, path: impl AsRef<Path>) -> Result<Artifact, Error> {
        let path = path.as_ref().to_owned();
        self.elsewhere(move |core| core.load_file(&path, false))
            .await
    }

    /// [`Runner::load`] for code that is not asynchronous. The calling thread does the
    /// work, for milliseconds to seconds; in asynchronous code nothing else runs on it
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Runner::load`].
    pub fn blocking_load(&self, path: impl AsRef<Path>) -> Result<Artifact, Error> {
        self.core.load_file(path.as_ref(), false)
    }

    /// Loads a task from memory, under a name.
    ///
    /// # Errors
    ///
    /// As [`Runner::load`].
    pub async fn load_bytes(&self, name: &str, bytes: impl Into<Bytes>) -> Result<Artifact, Error> {
        let (name, bytes) = (name.to_owned(), bytes.into());
        self.elsewhere(move |core| core.load_bytes(&name, bytes))
            .await
    }

    /// [`Runner::load_bytes`] for code that is not asynchronous; as
    /// [`Runner::blocking_load`].
    ///
    /// # Errors
    ///
    /// As [`Runner::load`].
    pub fn blocking_load_bytes(
        &self,
        name: &str,
        bytes: impl Into<Bytes>,
    ) -> Result<Artifact, Error> {
        self.core.load_bytes(name, bytes.into())
    }

    /// Loads a task file that may also be an artifact of `wrun compile`.
    ///
    /// An artifact is native code that no sandbox checks: only load what you compiled
    /// yourself.
    ///
    /// # Errors
    ///
    /// As [`Runner::load`]; [`ErrorKind::NotLoadable`] for an artifact that is damaged, or
    /// was compiled by another version or for another kind of processor.
    pub async fn load_trusted(&self, path: impl AsRef<Path>) -> Result<Artifact, Error> {
        let path = path.as_ref().to_owned();
        self.elsewhere(move |core| core.load_file(&path, true))
            .await
    }

    /// [`Runner::load_trusted`] for code that is not asynchronous; as
    /// [`Runner::blocking_load`].
    ///
    /// # Errors
    ///
    /// As [`Runner::load_trusted`].
    pub fn blocking_load_trusted(&self, path: impl AsRef<Path>) -> Result<Artifact, Error> {
        self.core.load_file(path.as_ref(), true)
    }

    /// Runs long work on a thread of the runner for blocking calls.
    async fn elsewhere<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Core) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.core.is_of_this_process()?;
        let core = self.core.clone();
        let span = Span::current();
        self.handle()
            .spawn_blocking(move || span.in_scope(|| work(&core)))
            .await
            .map_err(|_| Error::shut_down())?
    }

    /// Compiles an artifact for tasks with a limit on fuel (`metered`) or for those without, unless
    /// it is compiled for them already. Without this, the first such task waits for it where
    /// [`Builder::metered`](crate::Builder::metered) is the other kind.
    ///
    /// # Errors
    ///
    /// As [`Runner::load`].
    pub async fn prepare(&self, artifact: &Artifact, metered: bool) -> Result<(), Error> {
        if artifact.prepared(metered).is_some() {
            return Ok(());
        }
        let artifact = artifact.clone();
        self.elsewhere(move |core| core.executor.prepare(&artifact, metered).map(drop))
            .await
    }

    /// How many task files this runner is compiling now, including those that it waits for
    /// because another process compiles the same file.
    pub fn compiling(&self) -> usize {
        self.core.loader.compiling()
    }

    /// Whether a task can observe cancellation ([`TaskHandle::cancel`]): it imports
    /// `context`, or another interface of wrun that reports it. Other tasks are killed
    /// without a [grace](Task::grace) period. For a task that this runner loaded.
    pub fn observes_cancellation(&self, artifact: &Artifact) -> bool {
        let metered = self.core.config.metered;
        let runnable = artifact.prepared(metered);
        runnable.is_some_and(|runnable| runnable.observes_cancellation())
    }

    /// The compiled artifact of a task, as `wrun compile` writes it: native code, for this
    /// version of wrun on this kind of processor. Compiles it if necessary.
    ///
    /// It holds the code for both modes, which is not the same: tasks that share threads check
    /// whether it is others' turn. [`Runner::compile_for`] takes half the time and space.
    ///
    /// # Errors
    ///
    /// As [`Runner::load`].
    pub async fn compile(&self, artifact: &Artifact) -> Result<Vec<u8>, Error> {
        let artifact = artifact.clone();
        self.elsewhere(move |core| core.code_of_both(&artifact))
            .await
    }

    /// [`Runner::compile`] for one mode. A runner of process mode also runs code for thread
    /// mode, which takes more processor time; a runner of thread mode refuses the other with
    /// [`ErrorKind::ModeMismatch`], unless it preempts by signals ([`Builder::preemption`]).
    ///
    /// [`Builder::preemption`]: crate::Builder::preemption
    ///
    /// # Errors
    ///
    /// As [`Runner::load`].
    pub async fn compile_for(&self, artifact: &Artifact, mode: Mode) -> Result<Vec<u8>, Error> {
        let artifact = artifact.clone();
        self.elsewhere(move |core| core.code_bytes(&artifact, mode))
            .await
    }

    /// [`Runner::compile_for`] for code that is not asynchronous; as
    /// [`Runner::blocking_load`].
    ///
    /// # Errors
    ///
    /// As [`Runner::load`].
    pub fn blocking_compile_for(&self, artifact: &Artifact, mode: Mode) -> Result<Vec<u8>, Error> {
        self.core.code_bytes(artifact, mode)
    }

    /// [`Runner::compile`] for code that is not asynchronous; as
    /// [`Runner::blocking_load`].
    ///
    /// # Errors
    ///
    /// As [`Runner::load`].
    pub fn blocking_compile(&self, artifact: &Artifact) -> Result<Vec<u8>, Error> {
        self.core.code_of_both(artifact)
    }

    /// Runs one task: submits it and waits for its report. Dropping the future ends the
    /// task, as dropping its handle does.
    ///
    /// # Errors
    ///
    /// As [`Runner::submit`] and [`TaskHandle::report`]; [`ErrorKind::InvalidTask`] for a
    /// task whose output is to be streamed, which needs [`Runner::submit`].
    pub async fn run(&self, task: Task) -> Result<Report, Error> {
        is_not_streamed(&task)?;
        if !self.is_here() {
            return self.submit(task).await?.report().await;
        }
        run_here(self.core.clone(), task).await
    }

    /// Runs many tasks, `at_once` of them at the same time, with the least effort for each: they
    /// are driven by as many tasks of [`Runner::runtime`], each of which takes the next when it is
    /// done. Each task has a key, by which its report is told; reports come as tasks end.
    ///
    /// At most `room` tasks are taken whose report was not taken; beyond `at_once` and
    /// [`Builder::max_running`](crate::Builder::max_running) they wait, and their timeouts
    /// begin when they begin. Both numbers are at least 1. Dropping it ends the tasks, as
    /// dropping their handles does. See [`Batch`] for an example.
    ///
    /// # Errors
    ///
    /// Instead of a report: as [`Runner::run`].
    pub fn batch<K: Send + 'static>(
        &self,
        at_once: usize,
        room: usize,
    ) -> Batch<(K, Task), (K, Result<Report, Error>)> {
        let core = self.core.clone();
        Batch::new(self.handle(), at_once, room, move |(key, task)| {
            let core = core.clone();
            async move {
                let run = async {
                    is_not_streamed(&task)?;
                    run_here(core, task).await
                };
                (key, run.await)
            }
        })
    }

    /// The runtime whose threads drive this runner's tasks.
    ///
    /// Code that runs many small tasks costs least there: [`Runner::run`] then drives a task in
    /// the place of its caller, and no thread has to be woken. Such code must not block, as
    /// nothing that shares a thread with tasks may. It ends with the runner.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use wrun::{Mode, Runner, Task};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let runner = Arc::new(Runner::builder().mode(Mode::Thread).build()?);
    /// let echo = runner.blocking_load("../../guest-tasks/echo/echo.wat")?;
    /// let (sender, reports) = std::sync::mpsc::channel();
    /// let there = runner.clone();
    /// runner.runtime().spawn(async move {
    ///     for number in 0..100 {
    ///         let task = Task::new(&echo).input(format!("{number}"));
    ///         if sender.send(there.run(task).await).is_err() {
    ///             break;
    ///         }
    ///     }
    /// });
    /// assert_eq!(reports.recv()??.stdout, "0");
    /// assert_eq!(reports.iter().count(), 99);
    /// # Ok(())
    /// # }
    /// ```
    pub fn runtime(&self) -> Handle {
        self.handle().clone()
    }

    /// Whether the caller is on the runner's own runtime.
    fn is_here(&self) -> bool {
        Handle::try_current().is_ok_and(|here| here.id() == self.handle().id())
    }

    /// [`Runner::run`] for code that is not asynchronous.
    ///
    /// The calling thread does the work of a thread of the runner: a short task needs no
    /// switch of threads.
    ///
    /// # Errors
    ///
    /// As [`Runner::run`]; [`ErrorKind::BlockingInAsync`] in asynchronous code.
    pub fn blocking_run(&self, task: Task) -> Result<Report, Error> {
        must_not_be_async("run")?;
        is_not_streamed(&task)?;
        self.core.is_of_this_process()?;
        let core = self.core.clone();
        let _quiet = self.quiet_pipes.then(NoPipeSignal::new);
        let running = std::pin::pin!(async {
            let in_flight = core.admit().await?;
            let (mut admitted, _ends) = Core::admitted(task, in_flight, None)?;
            // Nobody has a handle of it.
            admitted.launch.job.alone = true;
            let span = admitted.launch.span.clone();
            // What is around it should not move it.
            std::pin::pin!(Core::drive(admitted)).instrument(span).await
        });
        // The pointer: tokio moves what it gets several times.
        // Without a descriptor left it takes the longer way.
        let kept = || self.direct.lock().unpoisoned().take();
        let direct = match self.core.config.mode {
            Mode::Process => kept().or_else(|| Direct::new().ok()),
            Mode::Thread => None,
        };
        let Some(direct) = direct else {
            return self.handle().block_on(running);
        };
        let report = self
            .handle()
            .block_on(std::pin::pin!(direct.wait_for(running)));
        *self.direct.lock().unpoisoned() = Some(direct);
        report
    }

    /// Checks the settings of a task, as submitting it does, and does nothing else: for many
    /// tasks with the same settings, which are to fail before the first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidTask`] and [`ErrorKind::OtherRunner`], as [`Runner::submit`].
    pub fn validate(&self, mut task: Task) -> Result<(), Error> {
        self.core.is_of_this_process()?;
        self.core.validate(&mut task)
    }

    /// Submits a task, waiting while the queue is full.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidTask`] for invalid settings; [`ErrorKind::OtherRunner`] for an
    /// artifact or a port of another runner; [`ErrorKind::ShutDown`].
    pub async fn submit(&self, task: Task) -> Result<TaskHandle, Error> {
        let in_flight = self.core.clone().admit().await?;
        self.start(task, in_flight, false)
    }

    /// [`Runner::submit`] for code that is not asynchronous.
    ///
    /// # Errors
    ///
    /// As [`Runner::submit`]; [`ErrorKind::BlockingInAsync`] in asynchronous code.
    pub fn blocking_submit(&self, task: Task) -> Result<TaskHandle, Error> {
        must_not_be_async("submit")?;
        self.core.is_of_this_process()?;
        let in_flight = self.handle().block_on(self.core.clone().admit())?;
        self.start(task, in_flight, false)
    }

    /// Submits a task if there is room in the queue.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Overloaded`] if there is no room; otherwise as [`Runner::submit`].
    pub fn try_submit(&self, task: Task) -> Result<TaskHandle, Error> {
        self.core.is_of_this_process()?;
        let in_flight = Admission::try_admit(self.core.clone())?;
        self.start(task, in_flight, false)
    }

    /// [`Runner::try_submit`] for code on [`Runner::runtime`] that waits for the task at once, with
    /// less effort: the task is driven where [`TaskHandle::response`] or [`TaskHandle::report`] is
    /// waited for, and no thread has to be woken. It does nothing before or between such waits.
    /// Once its response was returned, the runtime goes on with it, as it does with the end of a
    /// task whose handle is dropped.
    ///
    /// Elsewhere this is [`Runner::try_submit`].
    ///
    /// # Errors
    ///
    /// As [`Runner::try_submit`].
    pub fn try_submit_here(&self, task: Task) -> Result<TaskHandle, Error> {
        self.core.is_of_this_process()?;
        let in_flight = Admission::try_admit(self.core.clone())?;
        self.start(task, in_flight, self.is_here())
    }

    /// Accepts no more tasks, waits until all have ended and their streams are read, and
    /// ends.
    pub async fn shutdown(self) {
        if !self.core.made_in.is_current() {
            return;
        }
        self.core.admission.closed_and_empty().await;
    }

    /// [`Runner::shutdown`] for code that is not asynchronous.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BlockingInAsync`] in asynchronous code.
    pub fn blocking_shutdown(self) -> Result<(), Error> {
        must_not_be_async("shutdown")?;
        self.core.is_of_this_process()?;
        let handle = self.handle().clone();
        handle.block_on(self.shutdown());
        Ok(())
    }

    /// [`Runner::shutdown`] with a timeout: after `time` it kills the remaining tasks,
    /// including queued ones, and returns their number.
    pub async fn shutdown_within(self, time: Duration) -> usize {
        if !self.core.made_in.is_current() {
            return 0;
        }
        let core = self.core.clone();
        let ended = core.admission.closed_and_empty();
        if deadline::timeout(time, ended).await.is_ok() {
            return 0;
        }
        let left = core.admission.count();
        core.kill_all.cancel();
        let ended = core.admission.closed_and_empty();
        let _ = deadline::timeout(DROP_WAIT, ended).await;
        left
    }

    /// [`Runner::shutdown_within`] for code that is not asynchronous.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BlockingInAsync`] in asynchronous code.
    pub fn blocking_shutdown_within(self, time: Duration) -> Result<usize, Error> {
        must_not_be_async("shutdown_within")?;
        self.core.is_of_this_process()?;
        let handle = self.handle().clone();
        Ok(handle.block_on(self.shutdown_within(time)))
    }

    fn start(&self, task: Task, in_flight: InFlight, here: bool) -> Result<TaskHandle, Error> {
        let (progress, watched) = watch::channel(Progress::default());
        let tell = Arc::new(move |value| {
            progress.send_replace(value);
        });
        let (admitted, ends) = Core::admitted(task, in_flight, Some(tell))?;
        let id = admitted.launch.job.task_id;
        let span = admitted.launch.span.clone();
        let kill = admitted.launch.stop.requested.clone();
        let cancel = admitted.launch.job.cancel.clone();
        let driving = Core::drive(admitted).instrument(span);
        let driving = match here {
            true => Driving::here(driving, kill.clone(), self.handle()),
            false => Driving::apart(driving, self.handle()),
        };
        Ok(TaskHandle::new(id, driving, [kill, cancel], ends, watched))
    }

    fn handle(&self) -> &Handle {
        match &self.runtime {
            Some(runtime) => runtime.handle(),
            None => unreachable!("only drop takes the runtime"),
        }
    }
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner")
            .field("config", &self.core.config)
            .finish_non_exhaustive()
    }
}

fn is_not_streamed(task: &Task) -> Result<(), Error> {
    if [task.stdout, task.stderr].contains(&Stdio::Stream) {
        return Err(Error::new(
            ErrorKind::InvalidTask,
            "run cannot stream output: use submit",
        ));
    }
    Ok(())
}
