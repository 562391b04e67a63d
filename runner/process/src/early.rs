//! A worker that is forked before its program has threads, and before it knows its task.
//!
//! It needs no second start of the program, whose relocations are half of what a small task
//! costs, and it sets itself up while the program reads its options and loads the task. At most
//! one waits. Invariants: it is forked before this program has read anything, so that it has
//! nothing of it but the arguments and the environment, which it erases first; it serves one
//! order of a worker, with the walls that it was made for, or is ended. See
//! `docs/adr/0044`.

use super::begin::settle_fork;
use super::child::{ProcessSlot, Started, bury};
use super::error::ProcessError;
use super::program;
use super::roles::WORKER_ARG;
use super::spawn::{Launched, send_start};
use super::stderr::StderrCapture;
use super::suspend;
use super::worker_main::{self, Ahead};
use super::zygote_main::EndsHere;
use crate::jail::Early;
use crate::wire::StartOrder;
use rustix::process::{getegid, geteuid};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use wrun_sandbox::Code;
use wrun_sys::{Process, Shown, Side, Unpoisoned};
use wrun_types::config::Jail;

/// Variables of the dynamic loader and of libc: what they do to a program is in its memory before
/// `main`, and workers have nothing of it.
const OF_THE_LOADER: [&[u8]; 3] = [b"LD_", b"GLIBC_TUNABLES=", b"MALLOC_"];

static WAITING: Mutex<Option<Waiting>> = Mutex::new(None);

/// The process, and this program's ends of its streams.
pub(super) struct Waiting {
    /// This program: a fork of it has a copy, and the worker is not its child.
    parent: Process,
    pid: i32,
    control: Option<UnixStream>,
    stderr: Option<StderrCapture>,
}

/// Ends the process if no task has taken it.
impl Drop for Waiting {
    fn drop(&mut self) {
        if self.control.take().is_some() && self.parent.is_current() {
            bury(self.pid);
        }
    }
}

/// A worker that [`early_worker`] may have forked. Dropping this ends it if no task uses it by
/// then.
#[derive(Debug)]
#[must_use = "dropping it ends the worker"]
pub struct EarlyWorker(());

impl Drop for EarlyWorker {
    fn drop(&mut self) {
        let waiting = waiting().take();
        drop(waiting);
    }
}

/// Forks a worker of process mode now, for the first task of a program that runs one: it gets
/// ready while the program reads its options and loads the task, and the program is not started
/// a second time. That halves what a small task costs.
///
/// Call it in `main`, right after [`worker_hook`](../wrun/fn.worker_hook.html), if the program is about
/// to run a task in process mode with [`Start::Exec`](wrun_types::config::Start), a jail, and no
/// granted addresses; the worker is ended unused otherwise, and the program is started as without
/// this. So it is where it cannot be forked: the program has threads, the system refuses the
/// namespaces, the environment has variables of the dynamic loader (`LD_…`).
///
/// **The price.** The worker has the same random addresses as the program that forked it: code that
/// takes over the worker knows where things lie in the program. It has a copy of the program's
/// memory as of this call, but for the arguments and the environment, which it erases: call it before
/// the program reads anything that a task must not see. Do not use it in a program that serves
/// tasks of many owners; zygotes and all later workers are started as usual.
pub fn early_worker() -> EarlyWorker {
    if let Ok(forked) = fork() {
        *waiting() = Some(forked);
    }
    EarlyWorker(())
}

fn waiting() -> MutexGuard<'static, Option<Waiting>> {
    WAITING.lock().unpoisoned()
}

/// Whether one waits that this worker program's tasks may use.
pub(super) fn is_waiting(worker: &Path) -> bool {
    let is_ours = |it: &Waiting| it.parent.is_current();
    program::is_own(worker) && waiting().as_ref().is_some_and(is_ours)
}

fn fork() -> io::Result<Waiting> {
    let refused = |why| Err(io::Error::other(why));
    if !program::is_hooked() {
        return refused("this program cannot be a worker");
    }
    let of_the_loader = |variable: &[u8]| OF_THE_LOADER.iter().any(|it| variable.starts_with(it));
    if wrun_sys::any_variable(of_the_loader) != Some(false) {
        return refused("the environment is in this process's memory");
    }
    // They would be replaced in the fork otherwise.
    wrun_sys::fill_standard_streams()?;
    let (control, its_control) = UnixStream::pair()?;
    let (stderr, its_stderr) = StderrCapture::pipe()?;
    let null = wrun_sys::null()?;
    let number = std::process::id();
    let ids = (geteuid().as_raw(), getegid().as_raw());
    // Root enters a user namespace when it is no longer root.
    let user = ids.0 != 0;
    match wrun_sys::fork_inside(user)? {
        Side::Sibling => {
            let _end = EndsHere;
            drop((control, stderr));
            let streams = [its_control.into(), null, its_stderr];
            worker(streams, number, user.then_some(ids))
        }
        Side::Caller(pid) => Ok(Waiting {
            parent: Process::current(),
            pid: pid.as_raw_nonzero().get(),
            control: Some(control),
            stderr: Some(stderr),
        }),
    }
}

/// In the fork.
fn worker(streams: [OwnedFd; 3], parent: u32, ids: Option<(u32, u32)>) -> ! {
    worker_main::report_panics();
    let worked = settle_fork(streams, || {
        let parent = parent.to_string();
        wrun_sys::rename_process(&["wrun-worker", WORKER_ARG, &parent]);
    })
    .and_then(|()| worker_main::work_ahead(|| Ahead::new(Early::enter(ids))));
    if let Err(error) = worked {
        let _ = writeln!(io::stderr(), "wrun worker: {error}");
        wrun_sys::exit_now(125)
    }
    wrun_sys::exit_now(0)
}

/// Whether the waiting worker can be what an order says: it has entered namespaces already, and
/// no network is among them.
fn fits(order: &StartOrder) -> bool {
    #[cfg(any(test, feature = "test-hooks"))]
    if !order.plan.absent.is_empty() {
        return false;
    }
    !order.zygote && order.plan.mode != Jail::Off && !order.plan.grants.tcp
}

/// The waiting worker, if it fits this order; it is ended if it does not.
pub(super) fn take(worker: &Path, order: &StartOrder) -> Option<Waiting> {
    let taken = is_waiting(worker).then(|| waiting().take());
    taken.flatten().filter(|_| fits(order))
}

impl Waiting {
    /// Gives it its order.
    pub(super) fn launch(
        mut self,
        order: StartOrder,
        slot: ProcessSlot,
        code: &Code,
        clock: Option<&Shown>,
    ) -> Result<Launched, ProcessError> {
        let gone = || ProcessError::System {
            what: "cannot use the worker that waits",
            source: io::ErrorKind::NotConnected.into(),
        };
        let stderr = self.stderr.take().ok_or_else(gone)?;
        let control = self.control.take().ok_or_else(gone)?;
        let started = Started::new(suspend::adopt(self.pid), slot);
        let started = started.map_err(|source| ProcessError::System {
            what: "cannot watch a worker",
            source,
        })?;
        send_start(&control, order, None, clock, code)?;
        Ok(Launched {
            started,
            control,
            stderr,
        })
    }
}
