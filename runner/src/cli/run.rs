//! `wrun run`: from options to a task, and from its report to an exit code.

use super::args::RunArgs;
use super::lazy::Lazy;
use super::output::{Copied, Output, copy_stderr};
use super::signals::Signals;
use super::{Failure, exit, text};
use crate::{Cache, Input, Limits, Outcome, Report, Runner, Stdio, Task, TaskHandle};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long output that is on its way may take after a signal.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Loading may take as long as the task, and at least this.
const LOADING: Duration = Duration::from_secs(10);

pub(super) fn run(args: RunArgs) -> Result<u8, Failure> {
    let runner = Runner::builder()
        .mode(args.mode)
        .max_running(1)
        .max_queued(0)
        .spares(0)
        .metered(args.fuel.is_some())
        .cache(if args.no_cache {
            Cache::Off
        } else {
            Cache::User
        })
        .build()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(system)?;
    runtime.block_on(run_on(runner, &args))
}

fn system(error: io::Error) -> Failure {
    Failure::new(exit::RUNNER, error.to_string())
}

async fn run_on(runner: Runner, args: &RunArgs) -> Result<u8, Failure> {
    let mut signals = Signals::catch().map_err(system)?;
    let Some((path, task_args)) = args.task.split_first() else {
        return Err(Failure::new(exit::USAGE, "no task was named"));
    };
    let path = PathBuf::from(path);
    let task_args = strings(task_args)?;
    // Before anything is loaded: a file that cannot be written is no reason to
    // compile for seconds.
    let output = Output::open(args.output.as_deref())?;
    let loading = async {
        if args.allow_precompiled {
            runner.load_trusted_async(&path).await
        } else {
            runner.load_async(&path).await
        }
    };
    let allowed = args.timeout.map(|timeout| timeout.max(LOADING));
    let artifact = tokio::select! {
        loaded = loading => loaded?,
        code = signals.next() => return Err(Failure::new(code, "interrupted while loading the task")),
        () = after(allowed) => {
            let message = "loading the task took longer than --timeout allows";
            return Err(Failure::new(exit::DEADLINE, message));
        }
    };
    output.begin(&path, args.input.as_deref())?;
    let is_command = artifact.shape().is_command();
    let mut task = Task::new(&artifact)
        .args(task_args)
        .limits(limits(args, is_command))
        .input(input(args, is_command)?)
        .stdout(Stdio::Stream)
        .stderr(Stdio::Stream);
    for grant in &args.dir {
        task = task.dir(grant.clone());
    }
    for grant in &args.allow_tcp {
        task = task.allow_tcp(grant.clone());
    }
    for variable in &args.env {
        task = match variable.split_once('=') {
            Some((key, value)) => task.env(key, value),
            None => match std::env::var(variable) {
                Ok(value) => task.env(variable, value),
                Err(_) => {
                    let message = format!("--env {variable}: this process has no such variable");
                    return Err(Failure::new(exit::USAGE, message));
                }
            },
        };
    }
    let mut handle = runner.submit(task).await?;
    let copied = output.copy_stdout(handle.stdout(), handle.killer())?;
    let copied_stderr = copy_stderr(handle.stderr())?;
    let ended = wait(handle, copied, copied_stderr, &mut signals).await;
    let report = ended.result?;
    // Ends workers before anything is said.
    drop(runner);
    write_report(args, &report)?;
    if let Delivery::Broken(error) = ended.delivery {
        return Err(Output::failed(args.output.as_deref(), &error));
    }
    if args.stats {
        let _ = io::stderr().write_all(text::stats(&report).as_bytes());
    } else if let Some(why) = text::explain(&report) {
        text::complain(&why);
    }
    match (ended.delivery, ended.signalled) {
        (Delivery::Abandoned, Some(code)) => Ok(code),
        (_, Some(code)) if matches!(report.outcome, Outcome::Cancelled) => Ok(code),
        _ => Ok(exit::of_outcome(&report.outcome)),
    }
}

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// WebAssembly's strings are UTF-8.
fn strings(args: &[OsString]) -> Result<Vec<String>, Failure> {
    args.iter()
        .map(|arg| {
            arg.to_str().map(str::to_owned).ok_or_else(|| {
                let message = format!("the argument {} is not UTF-8", arg.display());
                Failure::new(exit::USAGE, message)
            })
        })
        .collect()
}

fn limits(args: &RunArgs, is_command: bool) -> Limits {
    let mut limits = Limits::default();
    limits.timeout = args.timeout;
    limits.fuel = args.fuel;
    limits.max_memory = args.max_memory.unwrap_or(limits.max_memory);
    limits.max_input = args.max_input;
    limits.max_output = match args.max_output {
        None if !is_command => Some(Limits::CAPTURE_DEFAULT),
        other => other,
    };
    limits
}

fn input(args: &RunArgs, is_command: bool) -> Result<Input, Failure> {
    let stdin = io::stdin();
    match args.input.as_deref() {
        // A command reads what its user types; what `run` takes is read to the
        // end first, and nobody wants to be waited for without a word.
        None if stdin.is_terminal() && !is_command => Ok(Input::empty()),
        None => Ok(Input::reader(Lazy::new(Box::new(stdin)))),
        Some(path) if path == Path::new("-") => Ok(Input::reader(Lazy::new(Box::new(stdin)))),
        Some(path) => {
            let fail = |error: io::Error| {
                let path = path.display();
                Failure::new(exit::USAGE, format!("cannot read {path}: {error}"))
            };
            let file = File::open(path).map_err(fail)?;
            if file.metadata().map_err(fail)?.is_dir() {
                return Err(fail(io::ErrorKind::IsADirectory.into()));
            }
            Ok(Input::reader(Lazy::new(Box::new(file))))
        }
    }
}

/// How a task and its output ended.
struct Ended {
    result: Result<Report, crate::Error>,
    delivery: Delivery,
    /// The exit code of the signal that came.
    signalled: Option<u8>,
}

/// What became of the output.
enum Delivery {
    Whole,
    Broken(io::Error),
    /// A signal came, and whoever reads takes no more.
    Abandoned,
}

/// Waits for the outcome and until the output is written. A signal kills the
/// task, and nobody waits for a reader that stalls any longer.
async fn wait(handle: TaskHandle, stdout: Copied, stderr: Copied, signals: &mut Signals) -> Ended {
    let killer = handle.killer();
    let mut outcome = std::pin::pin!(handle.outcome());
    let (result, mut signalled) = tokio::select! {
        result = &mut outcome => (result, None),
        code = signals.next() => {
            killer.kill();
            (outcome.await, Some(code))
        }
    };
    let mut copying = std::pin::pin!(async {
        let (stdout, _) = tokio::join!(stdout, stderr);
        match stdout {
            Ok(Err(error)) => Delivery::Broken(error),
            _ => Delivery::Whole,
        }
    });
    if signalled.is_none() {
        tokio::select! {
            delivery = &mut copying => {
                return Ended { result, delivery, signalled };
            }
            code = signals.next() => signalled = Some(code),
        }
    }
    let delivery = tokio::time::timeout(LAST_WORDS, copying)
        .await
        .unwrap_or(Delivery::Abandoned);
    Ended {
        result,
        delivery,
        signalled,
    }
}

fn write_report(args: &RunArgs, report: &Report) -> Result<(), Failure> {
    let Some(path) = &args.report else {
        return Ok(());
    };
    let mut json = report.to_json().to_string();
    json.push('\n');
    if path == Path::new("-") {
        return super::print(json.as_bytes()).map(drop);
    }
    std::fs::write(path, json).map_err(|error| {
        let message = format!("cannot write {}: {error}", path.display());
        Failure::new(exit::RUNNER, message)
    })
}
