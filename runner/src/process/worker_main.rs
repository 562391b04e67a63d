//! The worker program: what the hidden entry of a binary does after it was
//! started by a runner, up to the point where it forks or serves.
//!
//! Greets, takes its start order, goes behind its walls, maps the artifact. The
//! jail stands before anything of a guest runs. Invariant: it outlives neither its
//! runner nor its last task.

use super::channel::{self, Inbox};
use super::compile::COMPILE_ARG;
use super::floor_main::{self, FLOOR_ARG};
use super::sacrifice::SACRIFICE_ARG;
use super::{compile_main, sacrifice_main, task_main, zygote_main};
use crate::deadline;
use crate::jail::{self, JailError, Split, Walls};
use crate::sandbox::{self, Code, PrepareError, Prepared};
use crate::sys::{self, Alone, Seen};
use crate::wire::{ControlOrder, ControlSays, Hello};
use rustix::process::{Signal, getpid};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first argument that makes this program a worker.
pub(super) const WORKER_ARG: &str = "__wrun-worker";

static HOOKED: AtomicBool = AtomicBool::new(false);

/// Lets this program be its own worker in process mode: call it first thing in
/// `main`.
///
/// In a process that a runner started as a worker, this runs the worker and
/// ends the process. Anywhere else it returns at once. A program that cannot
/// call it names a worker program instead, with
/// [`Builder::worker`](crate::Builder::worker); `wrun` itself is one.
///
/// Workers are forked, so nothing may have started a thread before: not the runtime of
/// `#[tokio::main]` either, nor a constructor that runs before `main`. A worker has no
/// environment, none of this process's descriptors, and none of its signal handlers,
/// panic hooks or loggers.
///
/// ```
/// wrun::worker_hook();
/// // the program
/// ```
#[expect(clippy::exit, reason = "a worker has no main to return to")]
pub fn worker_hook() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_none_or(|arg| arg != WORKER_ARG) {
        HOOKED.store(true, Ordering::Relaxed);
        return;
    }
    let parent = args
        .next()
        .and_then(|arg| arg.to_str().and_then(|arg| arg.parse::<i32>().ok()));
    sys::start_afresh();
    std::panic::set_hook(Box::new(say_panic));
    let work = match args.next() {
        Some(role) if role == COMPILE_ARG => compile_main::work,
        Some(role) if role == FLOOR_ARG => floor_main::work,
        Some(role) if role == SACRIFICE_ARG => sacrifice_main::work,
        _ => work,
    };
    let code = match parent.map(work) {
        Some(Ok(())) => 0,
        Some(Err(error)) => {
            let _ = writeln!(io::stderr(), "wrun worker: {error}");
            125
        }
        None => {
            let _ = writeln!(io::stderr(), "{WORKER_ARG} is for wrun itself");
            2
        }
    };
    std::process::exit(code)
}

/// What a worker says before a panic ends it: in one line, to the stderr that its runner
/// reads. In the place of a hook that the program has set for itself.
fn say_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or("no message");
    let line = match panic.location() {
        Some(at) => format!("panicked at {at}: {what}\n"),
        None => format!("panicked: {what}\n"),
    };
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Whether this program can be its own worker.
pub(super) fn is_hooked() -> bool {
    HOOKED.load(Ordering::Relaxed)
}

fn work(parent: i32) -> io::Result<()> {
    settle(parent)?;
    check_alone()?;
    // Behind a jail and without one.
    sys::ignore_file_size_signal()?;
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    // Nobody reads this program's stdin; it is what stdout is: nothing.
    rustix::stdio::dup2_stdin(rustix::stdio::stdout())?;
    channel::send_bytes(&control, &Hello::encode(), &[])?;
    let mut inbox = Inbox::default();
    let order = loop {
        match inbox.next::<ControlOrder>().map_err(io::Error::other)? {
            Some(ControlOrder::Start(order)) => break *order,
            Some(ControlOrder::Fork { .. }) => {
                return Err(io::Error::other("not started and told to fork"));
            }
            None if inbox.receive(&control)? => {}
            None => return Err(io::Error::other("the runner is gone")),
        }
    };
    let count = 1 + usize::from(order.image.is_some()) + usize::from(order.clock);
    let mut descriptors = inbox.take(count)?.into_iter();
    let code = descriptors
        .next()
        .ok_or_else(|| io::Error::other("no artifact"))?;
    let image = order.image.and_then(|of| Some((of, descriptors.next()?)));
    if let (Some((of, image)), Some(alone)) = (image, Alone::look()) {
        // Without it the same code is there, on small pages.
        let _ = sys::map_own_code(&alone, &File::from(image), of);
    }
    if let Some(clock) = descriptors.next() {
        deadline::follow(Seen::map(clock)?);
    }
    let say = |says: &ControlSays| channel::send(&control, says, &[]);
    let begun = jail::begin(order.plan.clone());
    let walls = match go_inside(begun, &|pid| say(&ControlSays::Moved(pid)))? {
        Ok(walls) => walls,
        Err(error) => return say(&refusal_of(error)),
    };
    let prepared = match load(code.into()) {
        Ok(prepared) => prepared,
        Err(refusal) => return say(&refusal),
    };
    let Some(alone) = Alone::look() else {
        return Err(io::Error::other("there are threads"));
    };
    let sigchld = order.zygote.then(zygote_main::watch_children).transpose()?;
    let (sealed, report) = match walls.seal() {
        Ok(sealed) => sealed,
        Err(error) => return say(&refusal_of(error)),
    };
    match sigchld {
        Some(sigchld) => {
            // What is touched here for the first time is not for every child to
            // touch first.
            let ahead = task_main::rehearse_alone(&prepared).ok().flatten();
            say(&ControlSays::Ready(report))?;
            zygote_main::serve(zygote_main::Zygote {
                alone,
                control,
                inbox,
                sigchld,
                prepared,
                sealed,
                tasks: order.tasks,
                ahead,
            })
        }
        None => {
            // Nothing depends on it; the real order meets whatever is wrong.
            let ahead = match order.spare {
                Some(_) => task_main::rehearse_alone(&prepared).ok().flatten(),
                None => None,
            };
            say(&ControlSays::Ready(report))?;
            task_main::serve(&prepared, &sealed, control, order.tasks, order.spare, ahead)
        }
    }
}

/// Takes over a process that was started as a worker: ends with its parent, and has
/// nothing that came with it.
pub(super) fn settle(parent: i32) -> io::Result<()> {
    sys::close_inherited();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before that took effect.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Err(io::Error::other("the runner is gone"));
    }
    // What it takes to know processes is not to be had in a jail.
    let _ = sys::Process::current();
    Ok(())
}

/// Whether the program left it to us to start threads and runtimes.
///
/// # Errors
///
/// It did not: for whoever wrote it.
pub(super) fn check_alone() -> io::Result<()> {
    let too_late = |what: String| {
        io::Error::other(format!(
            "call wrun::worker_hook() first thing in main, before any thread or runtime \
             (#[tokio::main] starts one): {what}"
        ))
    };
    if tokio::runtime::Handle::try_current().is_ok() {
        return Err(too_late("it was called by asynchronous code".into()));
    }
    match Alone::look() {
        Some(_) => Ok(()),
        None => Err(too_late(format!("there is {}", threads()))),
    }
}

/// The names of this process's other threads, for people.
fn threads() -> String {
    let own = std::fs::read_link("/proc/self").unwrap_or_default();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let names: Vec<String> = tasks
        .flatten()
        .filter(|task| task.file_name() != own.as_os_str())
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .take(3)
        .collect();
    format!("the thread {}", names.join(", "))
}

/// Takes the first half of the jail, which may go on as another process: the one
/// that is left behind says where, and ends.
pub(super) fn go_inside(
    begun: Result<Walls, JailError>,
    say_moved: &dyn Fn(i32) -> io::Result<()>,
) -> io::Result<Result<Walls, JailError>> {
    // Tells the one inside that the runner knows where it is.
    let (mut told, telling) = io::pipe()?;
    let before = getpid();
    match begun.and_then(Walls::split) {
        Ok(Split::Outside { pid }) => {
            say_moved(pid)?;
            (&telling).write_all(&[1])?;
            sys::exit_now(0)
        }
        Ok(Split::Inside(walls)) => {
            drop(telling);
            if getpid() != before && told.read(&mut [0])? == 0 {
                return Err(io::Error::other("what started this died"));
            }
            Ok(Ok(walls))
        }
        Err(error) => Ok(Err(error)),
    }
}

fn refusal_of(error: JailError) -> ControlSays {
    match error {
        JailError::Missing(layer) => ControlSays::NoJail(layer),
        other => ControlSays::JailFailed(other.to_string()),
    }
}

fn load(code: File) -> Result<Prepared, ControlSays> {
    let refused = |error: &dyn std::fmt::Display| {
        ControlSays::Refused(format!("the worker cannot load the task: {error}"))
    };
    let code = Code::from_sealed(code).map_err(|error| refused(&error))?;
    let engine =
        sandbox::single_threaded_runtime(code.meta.kind()).map_err(|error| refused(&error))?;
    Prepared::new(&engine, &code).map_err(|error| match error {
        PrepareError::Code(error) => ControlSays::Stale(error.to_string()),
        // The words of thread mode.
        error @ PrepareError::Link(_) => ControlSays::Refused(error.to_string()),
    })
}
