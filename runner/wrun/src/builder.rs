//! The settings of a runner, each with its default and its cost.

use crate::process_options::ProcessOptions;
use crate::runner::Runner;
use std::path::PathBuf;
use std::time::Duration;
use wrun_types::compile_budget::CompileBudget;
use wrun_types::config::{Cache, Config, Jail, Mode, Preemption};
use wrun_types::error::{Error, ErrorKind};

/// Settings of a [`Runner`]; see [`Runner::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until build is called"]
pub struct Builder {
    mode: Mode,
    preemption: Preemption,
    cache: Cache,
    max_running: Option<usize>,
    max_queued: usize,
    region_memory: Option<u64>,
    max_children: Option<usize>,
    worker_threads: Option<usize>,
    process: ProcessOptions,
    max_module_size: u64,
    metered: bool,
    code_for: Option<Mode>,
    compile_budget: CompileBudget,
    http_authorities: Vec<u8>,
    #[cfg(feature = "test-hooks")]
    absent: Vec<wrun_types::jail_report::Layer>,
}

impl Runner {
    /// A builder with the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            mode: Mode::default(),
            preemption: Preemption::default(),
            cache: Cache::Off,
            max_running: None,
            max_queued: 1024,
            region_memory: None,
            max_children: None,
            worker_threads: None,
            process: ProcessOptions::default(),
            max_module_size: Builder::MODULE_SIZE_DEFAULT,
            metered: false,
            code_for: None,
            compile_budget: CompileBudget::default(),
            http_authorities: Vec::new(),
            #[cfg(feature = "test-hooks")]
            absent: Vec::new(),
        }
    }
}

impl Builder {
    /// The default cap on a task file: 256 MiB.
    pub const MODULE_SIZE_DEFAULT: u64 = 256 << 20;

    /// The default of [`Builder::compile_timeout`] for a task file of this size in bytes: 6
    /// s for each MiB, rounded up, but at least one minute and at most 30 minutes.
    pub fn default_compile_timeout(module_size: u64) -> Duration {
        CompileBudget::default_time(module_size)
    }

    /// The default of [`Builder::compile_memory`] for a task file of this size in bytes: 64
    /// times its size, but at least 2 GiB and at most 16 GiB.
    pub fn default_compile_memory(module_size: u64) -> u64 {
        CompileBudget::default_memory(module_size)
    }

    /// Where tasks run. Default: [`Mode::Process`], in which [`Builder::build`] raises this
    /// program's soft limit on descriptors to the hard one, at most to 65,536: tasks may
    /// have half of it, so that they cannot use up those of the runner.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// How thread mode gets away from a guest that computes. Default: [`Preemption::Epoch`].
    /// Process mode does not use it: there no guest's code has checks.
    ///
    /// With [`Preemption::Signal`] this program handles `SIGURG`. A handler that it has for
    /// that signal is called for all others than the runner's. Calls of host functions that
    /// wait in the kernel can be interrupted (`EINTR`). The runner starts a thread for each
    /// guest that computes at the same time, at most [`Builder::max_running`] and
    /// [`Builder::max_children`], which ends 10 s after it was last needed.
    pub fn preemption(mut self, preemption: Preemption) -> Self {
        self.preemption = preemption;
        self
    }

    /// Where compiled code is kept between runs. Default: nowhere; every [`Runner::load`]
    /// compiles, which takes milliseconds to seconds.
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }

    /// Maximum of tasks that run at the same time. Default: 512 in thread mode, four times
    /// the processors in process mode.
    ///
    /// In thread mode each takes a slot of the memory pool (address space, not memory) and
    /// about five mappings, so the kernel's `vm.max_map_count` bounds it: 11,467 with the
    /// usual 65,530. A larger number is reduced to that.
    pub fn max_running(mut self, tasks: usize) -> Self {
        self.max_running = Some(tasks);
        self
    }

    /// Maximum of tasks that wait behind the running ones. Beyond it, [`Runner::submit`]
    /// waits and [`Runner::try_submit`] returns [`ErrorKind::Overloaded`]. Default: 1024.
    pub fn max_queued(mut self, tasks: usize) -> Self {
        self.max_queued = tasks;
        self
    }

    /// Maximum of bytes in all regions together, those of tasks and those of the embedder
    /// ([`Runner::region`]). A region counts in whole pages, from when it is made until its
    /// last holder is gone. Beyond this, making one is refused (`limit`). Default: half of
    /// the machine's memory. A runner has at most 4,096 regions; in thread mode, where each
    /// is a descriptor of this process, at most half as many as its limit on descriptors.
    pub fn region_memory(mut self, bytes: u64) -> Self {
        self.region_memory = Some(bytes);
        self
    }

    /// Maximum of child tasks that run at the same time, of all submitted tasks together,
    /// in addition to those that [`Builder::max_running`] counts: a task that waits for its
    /// children keeps its permit. Beyond it, `tasks.spawn` is refused (`limit`). Default:
    /// 256 in thread mode, 64 in process mode, where each takes about six descriptors of
    /// this process, whose limit is often 1,024.
    ///
    /// In thread mode they take slots and mappings as submitted tasks do, from the same
    /// total; the rest after the submitted tasks is the maximum.
    pub fn max_children(mut self, tasks: usize) -> Self {
        self.max_children = Some(tasks);
        self
    }

    /// Operating-system threads of the runner: they run guests in thread mode, and serve
    /// workers in process mode. Default: one per processor in thread mode, one per four
    /// processors in process mode.
    pub fn worker_threads(mut self, threads: usize) -> Self {
        self.worker_threads = Some(threads);
        self
    }

    /// Settings of process mode. Settings that `options` does not have are unchanged.
    pub fn process(mut self, options: ProcessOptions) -> Self {
        self.process.add(options);
        self
    }

    /// The program that [`ProcessOptions::worker`] named.
    #[cfg(feature = "measure")]
    pub(crate) fn named_worker(&self) -> Result<Option<PathBuf>, Error> {
        self.process.worker.clone().map(worker_path).transpose()
    }

    /// Maximum size of a task file in bytes. Default: [`Builder::MODULE_SIZE_DEFAULT`].
    pub fn max_module_size(mut self, bytes: u64) -> Self {
        self.max_module_size = bytes;
        self
    }

    /// Whether [`Runner::load`] compiles for tasks with a fuel limit, rather than for those
    /// without. The other kind is compiled for the first task that needs it. Default: no.
    pub fn metered(mut self, metered: bool) -> Self {
        self.metered = metered;
        self
    }

    /// The mode whose code [`Runner::load`] makes, for what only compiles. Default: its own.
    #[doc(hidden)]
    pub fn code_for(mut self, mode: Mode) -> Self {
        self.code_for = Some(mode);
        self
    }

    /// How long compiling one task may take. Beyond it, loading fails with
    /// [`ErrorKind::LoadLimit`]. Default: [`Builder::default_compile_timeout`] of the
    /// task file's size.
    ///
    /// A compilation cannot be interrupted, only its process can be killed. Process mode
    /// compiles in a child, and so does thread mode if this or [`Builder::compile_memory`]
    /// is set and there is a worker program ([`worker_hook`](crate::worker_hook),
    /// [`ProcessOptions::worker`]); otherwise thread mode compiles in this process. Then
    /// only the wait ends: the compilation continues to its end on a separate thread, and
    /// its result is dropped. As many run at a time as there are processors, including
    /// abandoned ones.
    pub fn compile_timeout(mut self, time: Duration) -> Self {
        self.compile_budget.time = Some(time);
        self
    }

    /// Memory that compiling one task may take, in bytes. Beyond it, loading fails with
    /// [`ErrorKind::LoadLimit`]. Default: [`Builder::default_compile_memory`] of the task
    /// file's size.
    ///
    /// It limits the writable mappings of a child process, which can be a third larger than
    /// the memory it uses. If thread mode compiles in this process (see
    /// [`Builder::compile_timeout`]), there is no limit.
    pub fn compile_memory(mut self, bytes: u64) -> Self {
        self.compile_budget.memory = Some(bytes);
        self
    }

    /// Certificates of authorities, in PEM, that `https` servers of tasks' requests
    /// ([`Task::allow_http`](crate::Task::allow_http)) may have theirs from, beside those on
    /// Mozilla's list. Default: none. [`Builder::build`] fails with
    /// [`ErrorKind::InvalidTask`] if it has no certificate, or one that cannot be read.
    #[cfg(feature = "http")]
    pub fn http_authorities(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.http_authorities = pem.into();
        self
    }

    /// For wrun's own tests: these layers of the jail are treated as if the kernel did not
    /// support them.
    #[cfg(feature = "test-hooks")]
    #[doc(hidden)]
    pub fn absent_layers(mut self, layers: Vec<wrun_types::jail_report::Layer>) -> Self {
        self.absent = layers;
        self
    }

    /// Makes the runner and starts its threads.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoWorker`] in process mode without a worker program;
    /// [`ErrorKind::Jail`] for an [`identity`](ProcessOptions::identity) or
    /// [`users`](ProcessOptions::users) that cannot be set; [`ErrorKind::System`] if
    /// threads cannot be started.
    pub fn build(self) -> Result<Runner, Error> {
        // Before anything is opened. If there is no `/dev/null`, they stay closed.
        let _ = wrun_sys::fill_standard_streams();
        let ProcessOptions {
            worker,
            jail,
            identity,
            users,
            start,
            spares,
            reuse,
            idle_timeout,
        } = self.process;
        let jail = jail.unwrap_or_default();
        if self.mode == Mode::Process && (identity.is_some() || users.is_some()) {
            may_change_identity(jail)?;
        }
        if let Some(range) = &users
            && (range.is_empty() || range.contains(&0) || range.contains(&u32::MAX))
        {
            let (first, last) = (range.start(), range.end());
            let why = format!("users {first} to {last}: expected a range within 1 to 4294967294");
            return Err(Error::new(ErrorKind::Jail, why));
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let max_running = self.max_running.unwrap_or(match self.mode {
            Mode::Thread => 512,
            Mode::Process => 4 * cores,
        });
        // Serving the workers takes a small part of what they take.
        let threads = match self.mode {
            Mode::Thread => cores,
            Mode::Process => cores.div_ceil(4),
        };
        let ceiling = match self.mode {
            Mode::Thread => wrun_sandbox::max_pool_slots(),
            Mode::Process => 1 << 20,
        };
        let max_running = max_running.clamp(1, ceiling);
        let max_children = self.max_children.unwrap_or(match self.mode {
            Mode::Thread => 256,
            Mode::Process => 64,
        });
        let config = Config {
            mode: self.mode,
            preemption: self.preemption,
            cache: self.cache,
            max_running,
            max_queued: self.max_queued.min(1 << 24),
            region_memory: self.region_memory.unwrap_or_else(half_of_memory),
            max_children: max_children.min(ceiling - max_running),
            worker_threads: self.worker_threads.unwrap_or(threads).clamp(1, 1024),
            worker: worker.map(worker_path).transpose()?,
            max_module_size: self.max_module_size,
            metered: self.metered,
            code_for: self.code_for.unwrap_or(self.mode),
            jail,
            identity,
            users,
            start: start.unwrap_or_default(),
            spares: spares.unwrap_or(ProcessOptions::SPARES_DEFAULT),
            reuse: reuse.unwrap_or(1).max(1),
            idle_timeout: idle_timeout.unwrap_or(ProcessOptions::IDLE_TIMEOUT_DEFAULT),
            compile_budget: self.compile_budget,
            http_authorities: self.http_authorities,
            #[cfg(feature = "test-hooks")]
            absent: self.absent,
        };
        Runner::new(config)
    }
}

fn half_of_memory() -> u64 {
    let machine = rustix::system::sysinfo();
    #[expect(clippy::useless_conversion, reason = "its size differs by machine")]
    let units = u64::from(machine.totalram);
    units.saturating_mul(machine.mem_unit.into()) / 2
}

fn may_change_identity(jail: Jail) -> Result<(), Error> {
    let why = if jail == Jail::Off {
        "workers change their user only in a jail, and it is off"
    } else if !rustix::process::geteuid().is_root() {
        "only root may give workers another user"
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Jail, why))
}

/// The path of the worker program, valid from any directory.
fn worker_path(program: PathBuf) -> Result<PathBuf, Error> {
    std::path::absolute(&program).map_err(|error| {
        let program = program.display();
        Error::new(
            ErrorKind::NoWorker,
            format!("cannot start the worker {program}: {error}"),
        )
    })
}
