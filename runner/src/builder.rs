//! A runner's settings as an embedder makes them: each with its default and its
//! price.

use crate::config::{Cache, Config, Mode};
use crate::error::{Error, ErrorKind};
use crate::runner::Runner;
use crate::sandbox;
use std::path::PathBuf;

/// Settings of a [`Runner`]; see [`Runner::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until build is called"]
pub struct Builder {
    mode: Mode,
    cache: Cache,
    max_running: Option<usize>,
    max_queued: usize,
    worker_threads: Option<usize>,
    idle_workers: usize,
    worker: Option<PathBuf>,
    max_module_size: u64,
    metered: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            mode: Mode::default(),
            cache: Cache::Off,
            max_running: None,
            max_queued: 1024,
            worker_threads: None,
            idle_workers: 1,
            worker: None,
            max_module_size: Builder::MODULE_SIZE_DEFAULT,
            metered: false,
        }
    }
}

impl Builder {
    /// The default cap on a task file: 256 MiB.
    pub const MODULE_SIZE_DEFAULT: u64 = 256 << 20;

    /// Where tasks run. Default: [`Mode::Process`].
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Where compiled code is kept between runs. Default: nowhere; every
    /// [`Runner::load`] compiles, which takes from milliseconds to seconds.
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }

    /// Tasks that run at the same time. Default: 512 in thread mode, four times
    /// the processors in process mode.
    ///
    /// In thread mode each takes a slot of the memory pool (address space, not
    /// memory) and about five mappings, so the kernel's `vm.max_map_count`
    /// bounds it: 11,467 with the usual 65,530. A larger number is cut to that.
    pub fn max_running(mut self, tasks: usize) -> Self {
        self.max_running = Some(tasks);
        self
    }

    /// Tasks that wait behind the running ones. Beyond it,
    /// [`Runner::submit`] waits and [`Runner::try_submit`] says
    /// [`ErrorKind::Overloaded`]. Default: 1024.
    pub fn max_queued(mut self, tasks: usize) -> Self {
        self.max_queued = tasks;
        self
    }

    /// Operating-system threads of the runner: what computes in thread mode.
    /// Default: one per processor.
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.worker_threads = Some(threads);
        self
    }

    /// Process mode: workers that are started ahead of demand, for each artifact
    /// in use. Each costs a process of some megabytes and saves a task the
    /// milliseconds of starting one. Default: 1.
    pub fn idle_workers(mut self, workers: usize) -> Self {
        self.idle_workers = workers;
        self
    }

    /// Process mode: the program that workers are, `wrun` or one whose `main`
    /// calls [`worker_hook`](crate::worker_hook). Default: this program.
    pub fn worker(mut self, program: impl Into<PathBuf>) -> Self {
        self.worker = Some(program.into());
        self
    }

    /// Cap on a task file in bytes. Default: [`Builder::MODULE_SIZE_DEFAULT`].
    pub fn max_module_size(mut self, bytes: u64) -> Self {
        self.max_module_size = bytes;
        self
    }

    /// Whether [`Runner::load`] compiles for tasks with a fuel limit, rather
    /// than for those without. The other kind is compiled when the first such
    /// task comes. Default: no.
    pub fn metered(mut self, metered: bool) -> Self {
        self.metered = metered;
        self
    }

    /// Makes the runner and starts its threads.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoWorker`] in process mode without a worker program;
    /// [`ErrorKind::System`] when threads cannot be started.
    pub fn build(self) -> Result<Runner, Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let max_running = self.max_running.unwrap_or(match self.mode {
            Mode::Thread => 512,
            Mode::Process => 4 * cores,
        });
        let ceiling = match self.mode {
            Mode::Thread => sandbox::max_pool_slots(),
            Mode::Process => 1 << 20,
        };
        let config = Config {
            mode: self.mode,
            cache: self.cache,
            max_running: max_running.clamp(1, ceiling),
            max_queued: self.max_queued.min(1 << 24),
            worker_threads: self.worker_threads.unwrap_or(cores).clamp(1, 1024),
            idle_workers: self.idle_workers,
            worker: self.worker.map(worker_path).transpose()?,
            max_module_size: self.max_module_size,
            metered: self.metered,
        };
        Runner::new(config)
    }
}

/// Where the worker program is, seen from any directory.
fn worker_path(program: PathBuf) -> Result<PathBuf, Error> {
    std::path::absolute(&program).map_err(|error| {
        let program = program.display();
        Error::new(
            ErrorKind::NoWorker,
            format!("cannot start the worker {program}: {error}"),
        )
    })
}
