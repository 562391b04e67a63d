//! `wrun run`: from options to a task, and from its report to an exit code.

use super::args::{RunArgs, TaskFile};
use super::input::input;
use super::output::{Copied, Output, copy_stderr};
use super::progress::{Line, gone};
use super::result_to::ResultTo;
use super::signals::{Signals, Stop, Time, Wish, over};
use super::{Failure, exit, text};
use crate::{
    Artifact, Cache, Limit, Limits, Outcome, Report, Runner, Stdio, Task, TaskGrant, TaskHandle,
};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long output that is on its way may take after a signal.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Loading may take as long as the task, and at least this.
const LOADING: Duration = Duration::from_secs(10);

pub(super) fn run(args: RunArgs) -> Result<u8, Failure> {
    let builder = Runner::builder()
        .mode(args.mode)
        .max_queued(0)
        .max_children(args.max_tasks.unwrap_or(Limits::default().max_tasks) as usize)
        .metered(args.fuel.is_some())
        .cache(if args.no_cache {
            Cache::Off
        } else {
            Cache::User
        });
    let runner = args.process.apply(args.mode, builder)?.build()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(system)?;
    runtime.block_on(run_on(runner, &args))
}

fn system(error: io::Error) -> Failure {
    let hint = crate::shortage::hint(&error);
    Failure::new(
        exit::RUNNER,
        format!("cannot make an event loop: {error}{hint}"),
    )
}

async fn run_on(runner: Runner, args: &RunArgs) -> Result<u8, Failure> {
    let mut signals = Signals::catch().map_err(system)?;
    let Some((path, task_args)) = args.command.split_first() else {
        return Err(Failure::new(exit::USAGE, "no task was named"));
    };
    let path = Path::new(path);
    let task_args = strings(task_args)?;
    let (input_path, output_path) = (args.input.as_deref(), args.output.as_deref());
    // Before anything is loaded: a file that cannot be written is no reason to
    // compile for seconds.
    let children = args.grants.task.iter().map(|task| Some(&*task.file));
    let mut others = vec![Some(path), input_path];
    others.extend(children);
    let output = Output::open(output_path, args.timeout, &others)?;
    others.push(output_path);
    args.grants.check()?;
    let report_to = ResultTo::open("--report", args.report.as_deref(), &others)?;
    let began = Instant::now();
    let artifact = match load(&runner, args, path, &mut signals).await {
        Ok(artifact) => artifact,
        Err((failure, limit)) => {
            if let Some(limit) = limit {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let report = Report::not_loaded(name, args.mode, limit, began.elapsed());
                report_to.write_text(report.to_json(), args.timeout)?;
            }
            return Err(failure);
        }
    };
    let mut granted = Vec::new();
    for TaskFile { name, file } in &args.grants.task {
        match load(&runner, args, file, &mut signals).await {
            Ok(artifact) => {
                // Its parent kills it, and no signal.
                granted.push(TaskGrant::new(name, &artifact).grace(Task::GRACE));
            }
            Err((Failure { code, message }, _)) => {
                let message = format!("--task {name}={}: {message}", file.display());
                return Err(Failure::new(code, message));
            }
        }
    }
    let is_command = artifact.shape().is_command();
    let mut task = Task::new(&artifact)
        .args(task_args)
        .limits(limits(args, is_command))
        .input(input(args, is_command)?)
        .retries(args.process.retries)
        // Signals say whether it has time.
        .grace(Duration::ZERO)
        .stdout(Stdio::Stream)
        .stderr(match output.is_stderrs() {
            true => Stdio::Stdout,
            false => Stdio::Stream,
        });
    for grant in &args.grants.dir {
        task = task.dir(grant.clone());
    }
    for grant in granted {
        task = task.allow_task(grant);
    }
    for grant in &args.grants.allow_tcp {
        task = task.allow_tcp(grant.clone());
    }
    for (key, value) in args.grants.env.iter().cloned() {
        task = task.env(key, value);
    }
    let mut handle = runner.submit(task).await?;
    let line = Line::new(artifact.name(), !args.no_progress);
    let copied = output.copy_stdout(handle.stdout(), handle.killer(), line.clone())?;
    let copied_stderr = copy_stderr(handle.stderr(), line.clone())?;
    // A task that cannot hear has no use for time.
    let grace = match runner.observes_cancellation(&artifact) {
        true => args.grace,
        false => Duration::ZERO,
    };
    let mut stop = Stop::new(signals, grace);
    let (shown, gone) = gone();
    let ended = {
        let showing = line.follow(handle.progress_watch(), shown);
        let mut waiting = std::pin::pin!(wait(handle, copied, copied_stderr, &mut stop));
        tokio::select! {
            biased;
            ended = &mut waiting => ended,
            () = showing => waiting.await,
        }
    };
    gone.wait();
    let report = ended.result?;
    // Ends workers before anything is said.
    drop(runner);
    report_to.write_text(report.to_json(), args.timeout)?;
    if let Delivery::Broken(error) = ended.delivery {
        return Err(Output::failed(args.output.as_deref(), &error));
    }
    let ended_by_itself = matches!(report.outcome, Outcome::Completed(_) | Outcome::Exited(_));
    let untouched = match ended_by_itself && !matches!(ended.delivery, Delivery::Abandoned) {
        true => output.keep().map(|()| None)?,
        false => output.untouched().map(|path| path.display().to_string()),
    };
    if args.stats {
        text::say(&text::stats(&report));
    } else if stop.code() == Some(exit::OUT_OF_TIME) && report.outcome == Outcome::Cancelled {
        text::complain("the task was ended: wrun has used up its processor time (ulimit -t)");
    } else if let Some(why) = text::explain(&report) {
        text::complain(&why);
    }
    if let Some(path) = untouched {
        text::complain(&format!("{path} was not written: the output is not whole"));
    }
    match (ended.delivery, stop.code()) {
        (Delivery::Abandoned, Some(code)) => Ok(code),
        (_, Some(code)) if matches!(report.outcome, Outcome::Cancelled) => Ok(code),
        _ => Ok(exit::of_outcome(&report.outcome)),
    }
}

/// Loads the task, as long as that may take; or why there is none, and the limit
/// that was exceeded.
async fn load(
    runner: &Runner,
    args: &RunArgs,
    path: &Path,
    signals: &mut Signals,
) -> Result<Artifact, (Failure, Option<Limit>)> {
    let loading = async {
        if args.allow_precompiled {
            runner.load_trusted_async(path).await
        } else {
            runner.load_async(path).await
        }
    };
    let allowed = args.timeout.map(|timeout| timeout.max(LOADING));
    tokio::select! {
        loaded = loading => loaded.map_err(|error| {
            let limit = error.limit();
            (error.into(), limit)
        }),
        code = signals.next() => {
            Err((Failure::new(code, "interrupted while loading the task"), None))
        }
        () = over(allowed.map(Time::new)) => {
            let message = "loading the task took longer than --timeout allows";
            Err((Failure::new(exit::DEADLINE, message), Some(Limit::CompileTime)))
        }
    }
}

/// WebAssembly's strings are UTF-8.
pub(super) fn strings(args: &[OsString]) -> Result<Vec<String>, Failure> {
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
    limits.max_tasks = args.max_tasks.unwrap_or(limits.max_tasks);
    limits.max_depth = args.max_depth.unwrap_or(limits.max_depth);
    limits.max_total_memory = args.max_total_memory.unwrap_or(limits.max_total_memory);
    limits.max_output = match args.max_output {
        None if !is_command => Some(Limits::CAPTURE_DEFAULT),
        other => other,
    };
    limits
}

/// How a task and its output ended.
struct Ended {
    result: Result<Report, crate::Error>,
    delivery: Delivery,
}

/// What became of the output.
enum Delivery {
    Whole,
    Broken(io::Error),
    /// A signal came, and whoever reads takes no more.
    Abandoned,
}

/// Waits for the outcome and until the output is written. When the end is wished,
/// the task is killed, and a reader that stalls is waited for no longer.
async fn wait(handle: TaskHandle, stdout: Copied, stderr: Copied, stop: &mut Stop) -> Ended {
    let killer = handle.killer();
    let canceller = handle.canceller();
    let mut outcome = std::pin::pin!(handle.outcome());
    let mut ended = false;
    let result = loop {
        tokio::select! {
            result = &mut outcome => break result,
            wish = stop.next(), if !ended => match wish {
                Wish::Ask => canceller.cancel(),
                Wish::End => {
                    ended = true;
                    killer.kill();
                }
            },
        }
    };
    let mut copying = std::pin::pin!(async {
        let (stdout, _) = tokio::join!(stdout, stderr);
        match stdout {
            Ok(Err(error)) => Delivery::Broken(error),
            _ => Delivery::Whole,
        }
    });
    while !ended {
        tokio::select! {
            delivery = &mut copying => return Ended { result, delivery },
            wish = stop.next() => ended = matches!(wish, Wish::End),
        }
    }
    let delivery = tokio::time::timeout(LAST_WORDS, copying)
        .await
        .unwrap_or(Delivery::Abandoned);
    Ended { result, delivery }
}
