//! Job control: stops and continues this process and all that its runners have started as
//! one.
//!
//! A terminal's Ctrl-Z reaches the process group of a shell's job. Workers are in separate
//! groups, and would continue computing. Invariants: every started process is listed, from
//! its start until it is about to be reaped; while the process is suspended nothing is
//! started, and no process is mistaken for one that others stopped ([`round`]).

use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock, Weak};
use wrun_sandbox::deadline;
use wrun_sys::Unpoisoned;
use wrun_sys::shortage;
use wrun_sys::{self, Process, Program, Shown};
use wrun_types::error::{Error, ErrorKind};

/// A signal that stops a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopSignal {
    /// `SIGTSTP`: Ctrl-Z at a terminal.
    Terminal,
    /// `SIGTTIN`: a job in the background reads from its terminal.
    Input,
    /// `SIGTTOU`: a job in the background writes to its terminal.
    Output,
    /// `SIGSTOP`: whatever a process does with other signals.
    Always,
}

impl StopSignal {
    fn raw(self) -> i32 {
        match self {
            StopSignal::Terminal => libc::SIGTSTP,
            StopSignal::Input => libc::SIGTTIN,
            StopSignal::Output => libc::SIGTTOU,
            StopSignal::Always => libc::SIGSTOP,
        }
    }
}

/// Stops this process by a signal, together with every process that its runners started;
/// returns once it is continued (`SIGCONT`), together with them.
///
/// For programs with jobs: workers are in separate process groups, which a terminal's
/// Ctrl-Z does not reach. Catch `SIGTSTP`, `SIGTTIN` and `SIGTTOU`, unless the program was
/// started to ignore them, and call this on a thread that may block. It is the same in both
/// modes. A process that the kernel does not stop (one whose process group is orphaned, the
/// first of a container) continues at once.
///
/// The time while it is suspended does not count for the deadlines of tasks
/// ([`time_suspended`](wrun_sandbox::deadline::time_suspended)); it does for what guests
/// and hosts measure themselves. A `SIGSTOP` sent by others cannot be caught and stops this
/// process alone, and its time counts.
///
/// A `SIGCONT` that comes before this process is stopped has no effect; with
/// [`job_control`], which needs no handlers, none is lost.
pub fn suspend(signal: StopSignal) {
    suspend_by(|| wrun_sys::stop_by(signal.raw()));
}

/// From now on `SIGTSTP`, `SIGTTIN` and `SIGTTOU` [`suspend`] this process with its
/// workers, unless it was started to ignore them: by a thread that waits for them.
///
/// Call it before the program starts threads: `SIGTSTP` is blocked in this one and in those
/// that it starts, and stops the process alone if another thread does not block it. `wrun`
/// does so. Further calls have no effect.
///
/// # Errors
///
/// [`ErrorKind::System`] if a descriptor or a thread for it is not available; those signals
/// stop this process alone then.
pub fn job_control() -> Result<(), Error> {
    job_control_around(|| {}, || {})
}

/// As [`job_control`], and calls `before` when such a signal has arrived, before anything
/// is stopped, and `after` when all continues: for a program that has drawn something on
/// its terminal. Neither may wait for long: they are called by the thread that stops the
/// process. `SIGTTOU` is blocked in it, so that its output does not stop the process.
///
/// # Errors
///
/// As [`job_control`].
pub fn job_control_around(
    before: impl Fn() + Send + 'static,
    after: impl Fn() + Send + 'static,
) -> Result<(), Error> {
    static CONTROLLED: AtomicBool = AtomicBool::new(false);
    let refused = |error: io::Error| {
        let hint = shortage::hint(&error);
        let message = format!("cannot take part in job control: {error}{hint}");
        Error::new(ErrorKind::System, message)
    };
    if CONTROLLED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let Some(signals) = wrun_sys::JobSignals::hold().map_err(refused)? else {
        return Ok(());
    };
    let obeying = move || {
        signals.obey_here();
        loop {
            signals.wait();
            before();
            suspend_by(|| signals.obey());
            after();
        }
    };
    let thread = std::thread::Builder::new()
        .name("wrun-stop".into())
        .stack_size(64 << 10);
    thread.spawn(obeying).map(drop).map_err(|error| {
        wrun_sys::JobSignals::let_go();
        refused(error)
    })
}

/// Stops all started processes, and this one by calling `stop`, and continues all of them.
fn suspend_by(stop: impl FnOnce()) {
    let job = Job::current();
    let _one_at_a_time = lock(&job.suspending);
    let _nothing_starts = job.starting.write().unpoisoned();
    job.round.fetch_add(1, Ordering::SeqCst);
    job.show(deadline::stop_clock());
    job.tell(Signal::STOP);
    stop();
    job.show(deadline::start_clock());
    job.tell(Signal::CONT);
    job.round.fetch_add(1, Ordering::SeqCst);
}

/// All that one process has started. A fork of it has a copy, with processes that are not
/// its own and locks that may be held forever: it makes a new one.
struct Job {
    process: Process,
    suspending: Mutex<()>,
    /// Held for reading while a process is started.
    starting: RwLock<()>,
    /// Odd while the process is suspended.
    round: AtomicU64,
    listed: Mutex<Listed>,
    /// The job of a fork of this process.
    next: OnceLock<Box<Job>>,
}

#[derive(Default)]
struct Listed {
    groups: BTreeSet<i32>,
    clocks: Vec<Weak<Shown>>,
}

static FIRST: OnceLock<Job> = OnceLock::new();

impl Job {
    fn new() -> Self {
        Job {
            process: Process::current(),
            suspending: Mutex::default(),
            starting: RwLock::default(),
            round: AtomicU64::new(0),
            listed: Mutex::default(),
            next: OnceLock::new(),
        }
    }

    fn current() -> &'static Job {
        let mut job = FIRST.get_or_init(Job::new);
        while !job.process.is_current() {
            job = job.next.get_or_init(|| Box::new(Job::new()));
        }
        job
    }

    /// Publishes the clock to workers.
    fn show(&self, times: [u64; 2]) {
        for clock in lock(&self.listed).clocks.iter().filter_map(Weak::upgrade) {
            clock.store(times);
        }
    }

    fn tell(&self, signal: Signal) {
        for group in &lock(&self.listed).groups {
            // Other code may have reaped its processes: then the number is not valid.
            if wrun_sys::has_child_in(*group)
                && let Some(group) = Pid::from_raw(*group)
            {
                let _ = kill_process_group(group, signal);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unpoisoned()
}

/// A process group that is stopped with this process, until this is dropped: before its
/// last process is reaped.
#[derive(Debug)]
pub struct Member(i32);

impl Drop for Member {
    fn drop(&mut self) {
        lock(&Job::current().listed).groups.remove(&self.0);
    }
}

impl Member {
    /// The number of the group, and of the process that founded it.
    pub(super) fn group(&self) -> i32 {
        self.0
    }
}

/// Starts a program that founds a process group.
#[expect(clippy::disallowed_methods, reason = "what is started here is listed")]
pub fn start(program: &Program<'_>) -> io::Result<Member> {
    let job = Job::current();
    let _not_suspended = job.starting.read().unpoisoned();
    let group = wrun_sys::start(program)?;
    lock(&job.listed).groups.insert(group);
    Ok(Member(group))
}

/// Lists a process group whose only process was forked before this process had tasks.
pub(super) fn adopt(group: i32) -> Member {
    let job = Job::current();
    let _not_suspended = job.starting.read().unpoisoned();
    lock(&job.listed).groups.insert(group);
    Member(group)
}

/// A clock for workers, which is stopped while this process is suspended; `None` if the
/// system does not provide one: then the time while they are suspended counts.
pub(super) fn clock() -> Option<Arc<Shown>> {
    let clock = Arc::new(Shown::new().ok()?);
    let mut listed = lock(&Job::current().listed);
    listed.clocks.retain(|clock| clock.strong_count() > 0);
    listed.clocks.push(Arc::downgrade(&clock));
    clock.store(deadline::times());
    Some(clock)
}

/// Changes whenever this process is suspended and when it continues; `None` while it is
/// suspended. A process that stopped between two equal values was stopped by others.
pub(super) fn round() -> Option<u64> {
    let round = Job::current().round.load(Ordering::SeqCst);
    round.is_multiple_of(2).then_some(round)
}
