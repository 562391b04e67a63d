//! `wrun run`: from options to a task, and from its report to an exit code.

use super::args::RunArgs;
use super::grant_args::TaskFile;
use super::in_use::InUse;
use super::input::input;
use super::loading::{Loading, NotLoaded, compiles_each_time};
use super::output::{Copied, Output, OutputTail, copy_stderr};
use super::progress::{Line, gone};
use super::result_to::ResultTo;
use super::signals::{Signals, Stop, StopAction};
use super::terminal::{Terminal, terminals, variables};
use super::{Failure, exit, text};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};
use wrun::{Cache, Limits, Outcome, Report, Runner, Stdio, Task, TaskGrant, TaskHandle};

/// How long output may take to be written after a signal.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

pub(super) fn run(args: RunArgs) -> Result<u8, Failure> {
    let builder = Runner::builder()
        .mode(args.mode)
        .preemption(args.preempt)
        .max_queued(0)
        .max_children(
            args.children
                .max_tasks
                .unwrap_or(Limits::default().max_tasks) as usize,
        )
        .metered(args.fuel.is_some())
        .cache(if args.no_cache {
            Cache::Off
        } else {
            Cache::User
        });
    let builder = builder.http_authorities(args.grants.http_authorities(args.timeout)?);
    let builder = args.compiling.apply(builder);
    let builder = args.process.apply(args.mode, builder)?;
    let runner = builder
        .build()
        .map_err(|error| args.grants.failure(error))?;
    super::event_loop()?.block_on(run_on(runner, &args))
}

async fn run_on(runner: Runner, args: &RunArgs) -> Result<u8, Failure> {
    let mut signals = Signals::catch().map_err(super::no_event_loop)?;
    let Some((path, task_args)) = args.command.split_first() else {
        return Err(Failure::new(exit::USAGE, "no task was named"));
    };
    let path = Path::new(path);
    let task_args = strings(task_args)?;
    let output_path = args.output();
    // Before anything is loaded: an unwritable file must not cost seconds of compiling.
    let mut in_use = InUse::new(args.grants.files().chain([path]));
    in_use.add_input(args.input.as_deref().unwrap_or(Path::new("-")));
    let output = Output::open(output_path, args.timeout, &in_use)?;
    in_use.add(output_path);
    args.grants.children.check()?;
    args.children.check(args.max_memory)?;
    let report_to = ResultTo::open("--report", args.report.as_deref(), &in_use)?;
    if report_to.is_stdout() && output.is_stdout() {
        let message = "the report and the task's output cannot both go to stdout: use \
                       --output FILE or --report FILE";
        return Err(Failure::new(exit::USAGE, message));
    }
    let began = Instant::now();
    let shown = !args.quiet && !args.no_progress;
    let loading = Loading {
        runner: &runner,
        trusted: args.allow_precompiled,
        shown,
        timeout: args.timeout,
        compiling: args.compiling,
    };
    let artifact = match loading.load(path, &mut signals).await {
        Ok(artifact) => artifact,
        Err(NotLoaded { failure, limit }) => {
            if let Some((limit, value)) = limit {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let mut report = Report::not_loaded(name, args.mode, limit, began.elapsed());
                report.limit_value = value;
                report_to.write_text(report.to_json(), args.timeout)?;
            }
            return Err(failure);
        }
    };
    let mut loaded = vec![artifact.clone()];
    let mut granted = Vec::new();
    for TaskFile { name, file } in &args.grants.children.task {
        match loading.load(file, &mut signals).await {
            Ok(artifact) => {
                // Its parent kills it, not a signal.
                granted.push(TaskGrant::new(name, &artifact).grace(Task::GRACE));
                loaded.push(artifact);
            }
            Err(NotLoaded { failure, .. }) => {
                let Failure { code, message } = failure;
                let named = format!("{}: ", file.display());
                let message = message.strip_prefix(&named).unwrap_or(&message);
                let message = format!("--task {name}={}: {message}", file.display());
                return Err(Failure::new(code, message));
            }
        }
    }
    if !args.quiet
        && !args.stats
        && let Some(why) = compiles_each_time(&loaded)
    {
        text::complain(&why);
    }
    if artifact.shape().is_http() {
        return Err(answers_http(path));
    }
    let is_command = artifact.shape().is_command();
    let mut task = Task::new(&artifact)
        .args(task_args)
        .limits(args.limits(is_command))
        .input(input(args, is_command)?)
        .retries(args.process.retries)
        // Signals decide about its grace period.
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
    for grant in &args.grants.allow_http {
        task = task.allow_http(grant.clone());
    }
    let terminal = args.terminal;
    let from_file = args.input.as_deref().is_some_and(|it| it != Path::new("-"));
    let terminals = terminals(is_command && !from_file, args.output().is_none());
    task = task.terminals(terminals);
    for (key, value) in variables(terminal, terminals) {
        task = task.env(key, value);
    }
    for (key, value) in args.grants.env.iter().cloned() {
        task = task.env(key, value);
    }
    let mut handle = runner.submit(task).await?;
    // If a task may use all control sequences, the position of our line is unknown.
    let has_line = shown && terminal == Terminal::Safe;
    let line = Line::new(artifact.name(), has_line);
    let tail = OutputTail::default();
    // If both go to the same place, both come as stdout.
    let printed = output.is_stderrs().then(|| tail.clone());
    // First: if there is no thread for one of the two, nothing is on stdout.
    let copied_stderr = copy_stderr(handle.take_stderr(), line.clone(), terminal, tail.clone())?;
    let copied = output.copy_stdout(
        handle.take_stdout(),
        handle.killer(),
        line.clone(),
        terminal,
        printed,
    )?;
    // A task that cannot observe cancellation needs no grace period.
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
    // Ends workers before anything is printed.
    drop(runner);
    report_to.write_text(report.to_json(), args.timeout)?;
    if let Delivery::Broken(error) = ended.delivery {
        return Err(Output::failed(args.output(), &error));
    }
    let ended_by_itself = matches!(report.outcome, Outcome::Completed(_) | Outcome::Exited(_));
    let left = match ended_by_itself && !matches!(ended.delivery, Delivery::Abandoned) {
        true => output.keep().map(|()| None)?,
        false => output.left(),
    };
    let tail = (!args.quiet).then(|| tail.text());
    if !args.stats
        && !args.quiet
        && let Some(note) = text::as_root(&report)
    {
        text::complain(&note);
    }
    if args.stats {
        text::say(&text::stats(&report));
    } else if stop.code() == Some(exit::OUT_OF_TIME) && report.outcome == Outcome::Cancelled {
        text::complain("the task was ended: wrun has used up its processor time (ulimit -t)");
    } else if let Some(why) = text::explain(&report, tail.as_deref()) {
        text::complain(&why);
    }
    if let Some(left) = left {
        text::complain(&left);
    }
    match (ended.delivery, stop.code()) {
        (Delivery::Abandoned, Some(code)) => Ok(code),
        (_, Some(code)) if matches!(report.outcome, Outcome::Cancelled) => Ok(code),
        _ => Ok(exit::of_outcome(&report.outcome)),
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

/// How a task and its output ended.
struct Ended {
    result: Result<Report, wrun::Error>,
    delivery: Delivery,
}

/// The result of the output.
enum Delivery {
    Whole,
    Broken(io::Error),
    /// A signal arrived, and the reader accepts no more.
    Abandoned,
}

/// Waits for the outcome and until the output is written. On a signal that kills, the task
/// is killed, and a stalled reader is not waited for any more.
async fn wait(mut handle: TaskHandle, stdout: Copied, stderr: Copied, stop: &mut Stop) -> Ended {
    let killer = handle.killer();
    let canceller = handle.canceller();
    let mut outcome = std::pin::pin!(handle.report());
    let mut ended = false;
    let result = loop {
        tokio::select! {
            result = &mut outcome => break result,
            action = stop.next(), if !ended => match action {
                StopAction::Cancel => canceller.cancel(),
                StopAction::Kill => {
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
            action = stop.next() => ended = matches!(action, StopAction::Kill),
        }
    }
    let delivery = tokio::time::timeout(LAST_OUTPUT, copying)
        .await
        .unwrap_or(Delivery::Abandoned);
    Ended { result, delivery }
}

pub(super) fn answers_http(path: &Path) -> Failure {
    let path = path.display();
    let message =
        format!("{path}: the component answers HTTP requests: serve it with `wrun serve {path}`");
    Failure::new(exit::NOT_LOADABLE, message)
}
