//! The worker program: what a binary's hidden entry does after it was started by a runner,
//! up to the point where it forks or serves.
//!
//! Sends its greeting, takes its start order, sets up its walls, maps the artifact. The
//! jail is set up before any guest code runs. Invariant: it outlives neither its runner nor
//! its last task.

use super::begin::{check_alone, go_inside, settle};
use super::channel::{self, Inbox};
use super::roles::{COMPILE_ARG, WORKER_ARG, WorkerRole};
use super::{compile_main, program, task_main, zygote_main};
use crate::jail::{self, Early, JailError};
use crate::wire::{ControlOrder, ControlSays, Hello};
use std::fs::File;
use std::io::{self, Write};
use wasmtime::Engine;
use wrun_sandbox::deadline;
use wrun_sandbox::{self, Allocation, Checks, Code, Kind, PrepareError, Prepared};
use wrun_sys::{self, Alone, Seen};

/// The work of `wrun::worker_hook`, in a program that can also have these roles.
#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "a worker has no main to return to"
)]
pub fn hook(others: &[WorkerRole]) {
    if !is_worker() {
        program::hook();
        return;
    }
    let mut args = std::env::args_os().skip(2);
    let parent = args
        .next()
        .and_then(|arg| arg.to_str().and_then(|arg| arg.parse::<i32>().ok()));
    wrun_sys::start_afresh();
    report_panics();
    let role = args.next();
    let work = |parent| match role.as_ref().and_then(|role| role.to_str()) {
        None => work(parent),
        Some(COMPILE_ARG) => compile_main::work(parent),
        Some(role) => match others.iter().find(|it| it.name == role) {
            Some(other) => (other.work)(parent),
            None => Err(io::Error::other(format!("unknown role {role:?}"))),
        },
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

/// Whether this process was started as a worker. Without a copy of its arguments, which would be in
/// the memory of a fork ([`early_worker`](super::early_worker)).
fn is_worker() -> bool {
    wrun_sys::any_argument(|index, arg| index == 1 && arg == WORKER_ARG.as_bytes()).unwrap_or_else(
        || {
            let first = std::env::args_os().nth(1);
            first.is_some_and(|arg| arg == WORKER_ARG)
        },
    )
}

/// From now on a panic is one line on stderr.
pub(super) fn report_panics() {
    std::panic::set_hook(Box::new(say_panic));
}

/// A worker's message before a panic ends it: one line, to the stderr that its runner
/// reads. Replaces a hook that the program has set for itself.
fn say_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let what = panic.payload_as_str().unwrap_or("no message");
    let line = match panic.location() {
        Some(at) => format!("panicked at {at}: {what}\n"),
        None => format!("panicked: {what}\n"),
    };
    let _ = io::stderr().write_all(line.as_bytes());
}

/// What a worker can set up before it has its order.
pub(super) struct Ahead {
    namespaces: Early,
    /// Of the kind that most tasks need.
    engine: Option<(Kind, Engine)>,
}

impl Ahead {
    pub(super) fn new(namespaces: Early) -> Self {
        let kind = Kind {
            checks: Checks {
                metered: false,
                epochs: false,
            },
            wide: false,
        };
        // Its error comes again when it is needed.
        let engine = wrun_sandbox::single_threaded_runtime(kind, Allocation::OnDemand).ok();
        Ahead {
            namespaces,
            engine: engine.map(|engine| (kind, engine)),
        }
    }
}

fn work(parent: i32) -> io::Result<()> {
    settle(parent)?;
    check_alone()?;
    serve(None::<fn() -> Ahead>)
}

/// The work of a process that was forked to be a worker, and that has its streams.
pub(super) fn work_ahead(ahead: impl FnOnce() -> Ahead) -> io::Result<()> {
    serve(Some(ahead))
}

fn serve(ahead: Option<impl FnOnce() -> Ahead>) -> io::Result<()> {
    // With a jail and without one.
    wrun_sys::ignore_file_size_signal()?;
    let control = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    // This program's stdin is not read; like its stdout it becomes the null device.
    rustix::stdio::dup2_stdin(rustix::stdio::stdout())?;
    channel::send_bytes(&control, &Hello::encode(), &[])?;
    let (early, engine) = match ahead.map(|ahead| ahead()) {
        Some(Ahead { namespaces, engine }) => (Some(namespaces), engine),
        None => (None, None),
    };
    let mut inbox = Inbox::default();
    let order = loop {
        match inbox.next::<ControlOrder>().map_err(io::Error::other)? {
            Some(ControlOrder::Start(order)) => break *order,
            Some(ControlOrder::Fork { .. }) => {
                return Err(io::Error::other("a fork order came before the start order"));
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
        let _ = wrun_sys::map_own_code(&alone, &File::from(image), of);
    }
    if let Some(clock) = descriptors.next() {
        deadline::follow(Seen::map(clock)?);
    }
    let say = |says: &ControlSays| channel::send(&control, says, &[]);
    let begun = jail::begin_after(order.plan.clone(), early);
    let walls = match go_inside(begun, &|pid| say(&ControlSays::Moved(pid)))? {
        Ok(walls) => walls,
        Err(error) => return say(&refusal_of(error)),
    };
    let prepared = match load(code.into(), engine, order.tasks) {
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
            // Pages touched here for the first time need not be touched first by every child.
            let warm = task_main::warm_up_alone(&prepared).ok().flatten();
            say(&ControlSays::Ready(report))?;
            zygote_main::serve(zygote_main::Zygote {
                alone,
                control,
                inbox,
                sigchld,
                prepared,
                sealed,
                tasks: order.tasks,
                warm,
            })
        }
        None => {
            // The result does not matter; the real order meets the same errors.
            let warm = match order.spare {
                Some(_) => task_main::warm_up_alone(&prepared).ok().flatten(),
                None => None,
            };
            say(&ControlSays::Ready(report))?;
            task_main::serve(&prepared, &sealed, control, order.tasks, order.spare, warm)
        }
    }
}

fn refusal_of(error: JailError) -> ControlSays {
    match error {
        JailError::Missing(layer) => ControlSays::NoJail(layer),
        other => ControlSays::JailFailed(other.to_string()),
    }
}

fn load(code: File, made: Option<(Kind, Engine)>, tasks: u32) -> Result<Prepared, ControlSays> {
    let refused = |error: &dyn std::fmt::Display| {
        ControlSays::Refused(format!("the worker cannot load the task: {error}"))
    };
    let code = Code::from_sealed(code).map_err(|error| refused(&error))?;
    let kind = code.meta.kind();
    // Memory that is kept for the next task costs less than new memory. Without it the task runs,
    // too.
    if tasks > 1
        && code.meta.fits_a_pool()
        && let Ok(engine) = wrun_sandbox::single_threaded_runtime(kind, POOL)
        && let Ok(prepared) = Prepared::new(&engine, &code, None)
    {
        return Ok(prepared);
    }
    let engine = match made {
        Some((its, engine)) if its == kind => engine,
        _ => wrun_sandbox::single_threaded_runtime(kind, Allocation::OnDemand)
            .map_err(|error| refused(&error))?,
    };
    Prepared::new(&engine, &code, None).map_err(|error| match error {
        PrepareError::Code(error) => ControlSays::Stale(error.to_string()),
        // With the message of thread mode.
        error @ PrepareError::Link(_) => ControlSays::Refused(error.to_string()),
    })
}

/// For a process of many tasks: the one that runs, and the one that was made before.
const POOL: Allocation = Allocation::Pool { slots: 2 };
