//! The settings of processes, each with its default and its cost.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use wrun_types::config::{Jail, Start};

/// Settings of [process mode](crate::Mode::Process), for
/// [`Builder::process`](crate::Builder::process). In thread mode they only concern the
/// child that compiles, if there is one
/// ([`Builder::compile_timeout`](crate::Builder::compile_timeout)).
///
/// ```no_run
/// use wrun::{Jail, ProcessOptions, Runner};
///
/// # fn main() -> Result<(), wrun::Error> {
/// let options = ProcessOptions::default().worker("/usr/bin/wrun").jail(Jail::BestEffort);
/// let runner = Runner::builder().process(options).build()?;
/// # drop(runner);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "options do nothing until a builder has them"]
pub struct ProcessOptions {
    pub(crate) worker: Option<PathBuf>,
    pub(crate) jail: Option<Jail>,
    pub(crate) identity: Option<(u32, u32)>,
    pub(crate) users: Option<RangeInclusive<u32>>,
    pub(crate) start: Option<Start>,
    pub(crate) spares: Option<usize>,
    pub(crate) reuse: Option<u32>,
    pub(crate) idle_timeout: Option<Duration>,
}

impl ProcessOptions {
    /// The default of [`ProcessOptions::spares`].
    pub const SPARES_DEFAULT: usize = 1;
    /// The default of [`ProcessOptions::idle_timeout`]: 60 seconds.
    pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

    /// The worker program, `wrun` or one whose `main` calls
    /// [`worker_hook`](crate::worker_hook). Default: this program.
    pub fn worker(mut self, program: impl Into<PathBuf>) -> Self {
        self.worker = Some(program.into());
        self
    }

    /// Whether the kernel's walls around each worker are required. Default:
    /// [`Jail::Strict`], in which a task does not run if a required wall cannot be set up:
    /// [`ErrorKind::Jail`](crate::ErrorKind::Jail).
    pub fn jail(mut self, jail: Jail) -> Self {
        self.jail = Some(jail);
        self
    }

    /// The user and group of workers, by number. Only root can set another than its own,
    /// and not with [`Jail::Off`]. Default: this process's own; as root, see
    /// [`ProcessOptions::users`].
    ///
    /// The kernel counts much by user, such as descriptors in flight: workers with the same
    /// user can use up those of each other.
    pub fn identity(mut self, uid: u32, gid: u32) -> Self {
        self.identity = Some((uid, gid));
        self
    }

    /// As root: the users, by number, of which each started program gets a different one,
    /// with the group of the same number: a zygote with its workers, a separate worker, a
    /// compiler. Numbers that another runner uses are left out while there are others. Only
    /// root can set it, not with [`Jail::Off`], and [`ProcessOptions::identity`] takes
    /// precedence. It must not contain 0.
    ///
    /// Default: 2013265920 to 2013331455 (`0x78000000` to `0x7800ffff`) without those that
    /// `/etc/passwd` and `/etc/subuid` name. Granted directories are then id-mapped mounts
    /// on which root's files belong to the worker; if those are not available, workers of
    /// tasks with directories are root, and the report has a note. With a range that is set
    /// here, directories are accessed with the rights of its users. In a user namespace
    /// that does not have the number, the overflow user (usually `nobody`) is used.
    pub fn users(mut self, range: RangeInclusive<u32>) -> Self {
        self.users = Some(range);
        self
    }

    /// How workers are started. Default: [`Start::Fork`], which keeps one more process per
    /// artifact in use, the zygote.
    pub fn start(mut self, start: Start) -> Self {
        self.start = Some(start);
        self
    }

    /// Workers that are started ahead of demand, for each artifact in use. Each costs a
    /// process and saves a task the time of starting one. A task whose limits differ from
    /// those of the previous task has a worker started for it. Default: 1.
    pub fn spares(mut self, workers: usize) -> Self {
        self.spares = Some(workers);
        self
    }

    /// How many tasks a worker runs, one after another, each in a separate sandbox.
    /// Default: 1, a fresh process for each task.
    ///
    /// More saves starting processes and weakens the walls: a task that breaks out of its
    /// sandbox can affect the worker's later tasks. A worker that was granted a directory
    /// or an address gets no other task. Zero is treated as 1.
    pub fn reuse(mut self, tasks_per_worker: u32) -> Self {
        self.reuse = Some(tasks_per_worker);
        self
    }

    /// Zygote and spares of an artifact that no task used for this long end; the next task
    /// starts them again. Default: 60 s.
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.idle_timeout = Some(time);
        self
    }

    /// Overrides its settings with those that `others` has.
    pub(crate) fn add(&mut self, others: ProcessOptions) {
        let ProcessOptions {
            worker,
            jail,
            identity,
            users,
            start,
            spares,
            reuse,
            idle_timeout,
        } = others;
        self.worker = worker.or(self.worker.take());
        self.jail = jail.or(self.jail);
        self.identity = identity.or(self.identity);
        self.users = users.or(self.users.take());
        self.start = start.or(self.start);
        self.spares = spares.or(self.spares);
        self.reuse = reuse.or(self.reuse);
        self.idle_timeout = idle_timeout.or(self.idle_timeout);
    }
}
