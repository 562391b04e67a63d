//! `wrun fleet`: what a submitter and an operator do.

use super::fleet_args::{FleetArgs, FleetCommand, SetupArgs, SubmitArgs};
use super::grant_args::TaskFile;
use super::nats_args::failure;
use super::run::strings;
use super::signals::Signals;
use super::worker::now_ms;
use super::{Failure, exit, print, text, traces};
use serde_json::json;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::Duration;
use wrun_fleet::{
    Answer, AnswerKind, Busy, Changes, DeadTask, Fleet, ModuleRef, Presence, QueueLimits, Status,
    StreamSettings, TaskId, TaskMessage,
};

/// How often `watch` looks.
const LOOK: Duration = Duration::from_secs(1);
/// The largest module that is submitted: as large as a worker takes by default.
const MAX_MODULE: u64 = 256 << 20;

/// Beside a hint that names the option that would grant what a task was refused.
const GRANTED_BY: &str = "on a fleet the operator of the workers grants that, under a name that \
                          --grant asks for";

pub(super) fn fleet(args: FleetArgs) -> Result<u8, Failure> {
    super::event_loop()?.block_on(async {
        let mut signals = Signals::catch().map_err(super::no_event_loop)?;
        tokio::select! {
            done = on_fleet(&args) => done,
            code = signals.next() => Ok(code),
        }
    })
}

async fn on_fleet(args: &FleetArgs) -> Result<u8, Failure> {
    let connect = args.connection.connect(args.nats.as_deref())?;
    // What is wrong with its files is said before it connects.
    let submit = match &args.command {
        FleetCommand::Submit(submit) => Some((submit, submit.module()?, submit.parts()?)),
        _ => None,
    };
    let mut limits = QueueLimits::default();
    if let FleetCommand::Setup(setup) = &args.command {
        limits.max_queued = setup.max_queued.unwrap_or(limits.max_queued);
        limits.keep = setup.keep.unwrap_or(limits.keep);
        limits.replicas = setup.replicas.unwrap_or(limits.replicas);
    }
    let told = |line: String| {
        // That it is connected goes without saying.
        if line != "connected to NATS" {
            text::complain(&line);
        }
    };
    let fleet = Fleet::connect(&connect, "wrun fleet", &limits, told).await;
    let fleet = fleet.map_err(failure)?.tracing(traces::of_submitter());
    if let Some((submit, module, parts)) = submit {
        return submitted(&fleet, submit, module, parts, args.json).await;
    }
    match &args.command {
        // It is done.
        FleetCommand::Submit(_) => Ok(0),
        FleetCommand::Status => {
            let status = fleet.status().await.map_err(failure)?;
            shown(args.json, &status, || status_text(&status))
        }
        FleetCommand::Watch => watch(&fleet, args.json).await,
        FleetCommand::Workers => {
            let workers = fleet.workers().await.map_err(failure)?;
            shown(args.json, &workers, || workers_text(&workers))
        }
        FleetCommand::Result { id, wait } => {
            let answer = match wait {
                true => Some(fleet.wait(id).await.map_err(failure)?),
                false => fleet.result(id).await.map_err(failure)?,
            };
            match answer {
                Some(answer) => answered(&fleet, &answer, args.json).await,
                None => {
                    text::complain(&format!("task {id} has no result yet"));
                    Ok(exit::FAILED)
                }
            }
        }
        FleetCommand::Cancel { id } => {
            if fleet.cancel(id).await.map_err(failure)? {
                return shown(args.json, &json!({"cancelled": id}), || {
                    format!("task {id} is cancelled\n")
                });
            }
            text::complain(&format!("task {id} has a result already, which stays"));
            Ok(exit::FAILED)
        }
        FleetCommand::Bury { id: None, .. } => {
            let dead = fleet.dead().await.map_err(failure)?;
            shown(args.json, &dead, || dead_text(&dead))
        }
        FleetCommand::Bury { id: Some(id), why } => {
            fleet.bury(id, why).await.map_err(failure)?;
            shown(args.json, &json!({"marked": id}), || {
                format!("task {id} will be buried by the worker that has it or takes it next\n")
            })
        }
        FleetCommand::Requeue { id, .. } => {
            let queued = fleet.requeue(id.as_ref()).await.map_err(failure)?;
            shown(args.json, &json!({"requeued": queued}), || {
                format!("{queued} tasks queued again\n")
            })
        }
        FleetCommand::Setup(setup) => {
            let streams = fleet.set_up(setup.changes()).await.map_err(failure)?;
            shown(args.json, &streams, || streams_text(&streams))
        }
        FleetCommand::Purge { what } => {
            let purged = fleet.purge(*what).await.map_err(failure)?;
            shown(args.json, &purged, || {
                format!("{} messages taken away\n", purged.messages)
            })
        }
    }
}

/// Prints a value as JSON, or as text.
fn shown(
    as_json: bool,
    value: &impl serde::Serialize,
    text: impl FnOnce() -> String,
) -> Result<u8, Failure> {
    if !as_json {
        return print(text::clean(&text()).as_bytes());
    }
    let json = serde_json::to_string(value);
    let json = json.map_err(|error| Failure::new(exit::RUNNER, error.to_string()))?;
    print(format!("{json}\n").as_bytes())
}

/// What a task runs: the bytes of a module, or the name of one that operators have defined.
enum Module {
    Bytes(Vec<u8>),
    Named(String),
}

impl SubmitArgs {
    /// Reads the module, and looks whether there is an input.
    fn module(&self) -> Result<Module, Failure> {
        if let Some(path) = self.input.as_deref().filter(|path| *path != Path::new("-")) {
            let found = std::fs::metadata(path).and_then(|metadata| match metadata.is_dir() {
                true => Err(io::ErrorKind::IsADirectory.into()),
                // Opening a pipe would be noticed by who writes it.
                false if metadata.is_file() => std::fs::File::open(path).map(drop),
                false => Ok(()),
            });
            found.map_err(|error| {
                let message = format!("--input: cannot read {}: {error}", path.display());
                Failure::new(exit::USAGE, message)
            })?;
        }
        match self.named {
            true => Ok(Module::Named(self.task.to_string_lossy().into_owned())),
            false => read_module(&self.task).map(Module::Bytes),
        }
    }

    /// Reads the modules of its child tasks.
    fn parts(&self) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        self.children.check()?;
        let parts = self.children.task.iter();
        let read = |TaskFile { name, file }: &TaskFile| Ok((name.clone(), read_module(file)?));
        parts.map(read).collect()
    }
}

impl SetupArgs {
    fn changes(&self) -> Changes {
        let mut changes = Changes::default();
        changes.max_queued = self.max_queued;
        changes.keep = self.keep;
        changes.replicas = self.replicas;
        changes
    }
}

async fn submitted(
    fleet: &Fleet,
    args: &SubmitArgs,
    module: Module,
    parts: Vec<(String, Vec<u8>)>,
    as_json: bool,
) -> Result<u8, Failure> {
    let module = stored(fleet, module).await?;
    let id = args.id.clone().unwrap_or_else(TaskId::random);
    let mut task = TaskMessage::new(id.clone(), module);
    if !args.named {
        let name = args.task.file_name().unwrap_or(args.task.as_os_str());
        task.name = Some(name.to_string_lossy().into_owned());
    }
    task.args = strings(&args.args)?;
    task.grants = args.grant.clone();
    for (name, bytes) in parts {
        task.tasks
            .insert(name, stored(fleet, Module::Bytes(bytes)).await?);
    }
    task.input = match &args.input {
        None => Default::default(),
        Some(path) if path == Path::new("-") => {
            let copied = tokio::task::spawn_blocking(copy_of_stdin).await;
            let copied = copied.unwrap_or_else(|error| Err(io::Error::other(error)));
            let copy = copied.map_err(|error| {
                Failure::new(exit::RUNNER, format!("cannot copy stdin: {error}"))
            })?;
            fleet.input_file(copy.path()).await.map_err(failure)?
        }
        Some(path) => fleet
            .input_file(path)
            .await
            .map_err(|error| match error.kind() {
                wrun_fleet::ErrorKind::Io => Failure::new(exit::USAGE, error.to_string()),
                _ => failure(error),
            })?,
    };
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    task.limits.timeout_ms = args.timeout.map(millis);
    task.limits.fuel = args.fuel;
    task.limits.max_memory = args.max_memory;
    task.limits.max_output = args.max_output;
    task.limits.max_tasks = args.max_tasks;
    task.limits.max_depth = args.max_depth;
    task.deadline_ms = args
        .deadline
        .map(|time| now_ms().saturating_add(millis(time)));
    task.retries = args.retries;
    task.max_lost = Some(args.max_lost);
    // If it was submitted before, that has the result.
    task.resubmitted = args.id.is_some();
    let told = |error: &wrun_fleet::Error| text::complain(&format!("{error}; trying again"));
    let lane = (&args.class, &args.tenant);
    fleet
        .submit_until(lane, &task, None, told)
        .await
        .map_err(failure)?;
    if !args.wait {
        return shown(as_json, &json!({"id": id}), || format!("{id}\n"));
    }
    let answer = fleet.wait(&id).await.map_err(failure)?;
    answered(fleet, &answer, as_json).await
}

/// Stores a module, if it is not one that has a name.
async fn stored(fleet: &Fleet, module: Module) -> Result<ModuleRef, Failure> {
    let (blake3, name) = match module {
        Module::Named(name) => (None, Some(name)),
        Module::Bytes(bytes) => (Some(fleet.put_module(&bytes).await.map_err(failure)?), None),
    };
    Ok(ModuleRef { blake3, name })
}

/// The bytes of a task file.
pub(super) fn read_module(path: &Path) -> Result<Vec<u8>, Failure> {
    let shown = path.display();
    let read = std::fs::metadata(path).and_then(|metadata| match metadata.len() <= MAX_MODULE {
        true => std::fs::read(path),
        false => Err(io::ErrorKind::FileTooLarge.into()),
    });
    read.map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => exit::NOT_FOUND,
            _ => exit::NOT_LOADABLE,
        };
        Failure::new(code, format!("cannot read {shown}: {error}"))
    })
}

fn copy_of_stdin() -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    io::copy(&mut io::stdin().lock(), &mut file)?;
    Ok(file)
}

/// Prints an answer, and gives the exit code of its outcome.
async fn answered(fleet: &Fleet, answer: &Answer, as_json: bool) -> Result<u8, Failure> {
    if as_json {
        shown(true, answer, String::new)?;
    }
    if answer.kind != AnswerKind::Report {
        if !as_json {
            text::complain(&answer.message());
        }
        return Ok(match answer.kind {
            AnswerKind::Expired => exit::DEADLINE,
            AnswerKind::Cancelled => exit::INTERRUPTED,
            AnswerKind::Refused => exit::NOT_LOADABLE,
            _ => exit::RUNNER,
        });
    }
    let report = fleet.report(answer).await.map_err(failure)?;
    if !as_json {
        print(&report.stdout)?;
        text::say(&text::clean(&String::from_utf8_lossy(&report.stderr)));
        let words = String::from_utf8_lossy(&report.stderr);
        if let Some(why) = text::explain(&report, Some(&words)) {
            text::complain(&why);
            if wrun_compare::hint(&report, &words, "").is_some() {
                text::complain(GRANTED_BY);
            }
        }
    }
    Ok(exit::of_outcome(&report.outcome))
}

async fn watch(fleet: &Fleet, as_json: bool) -> Result<u8, Failure> {
    let (clear, home) = match rustix::termios::isatty(io::stdout()) && !as_json {
        true => ("\x1b[J", "\x1b[H\x1b[2J"),
        false => ("", ""),
    };
    print(home.as_bytes())?;
    loop {
        match fleet.status().await {
            Ok(status) if as_json => drop(shown(true, &status, String::new)?),
            Ok(status) => {
                let home = if home.is_empty() { "" } else { "\x1b[H" };
                let lines = text::clean(&status_text(&status)).replace('\n', "\x1b[K\n");
                let lines = if home.is_empty() {
                    lines.replace("\x1b[K", "")
                } else {
                    lines
                };
                print(format!("{home}{lines}{clear}").as_bytes())?;
            }
            Err(error) if error.is_retryable() => text::complain(&error.to_string()),
            Err(error) => return Err(failure(error)),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn status_text(status: &Status) -> String {
    let mut text = format!(
        "{} queued, {} of them in flight, {} delivered again; {} results, {} buried\n",
        status.queued, status.in_flight, status.redelivered, status.results, status.dead
    );
    if status.strays > 0 {
        let _ = writeln!(
            text,
            "{} messages are on subjects that are not wrun.task.<class>.<tenant>: no worker takes them",
            status.strays
        );
    }
    if !status.lanes.is_empty() {
        let _ = writeln!(
            text,
            "\n{:<16} {:<32} {:>10} {:>10}",
            "CLASS", "TENANT", "QUEUED", "IN FLIGHT"
        );
        for lane in &status.lanes {
            let _ = writeln!(
                text,
                "{:<16} {:<32} {:>10} {:>10}",
                lane.class, lane.tenant, lane.queued, lane.in_flight
            );
        }
    }
    text.push('\n');
    text + &workers_text(&status.workers)
}

fn workers_text(workers: &[Presence]) -> String {
    if workers.is_empty() {
        return "no workers\n".into();
    }
    let mut text = format!(
        "{:<32} {:>9} {:>10} {:>6} {:>10} {:>7} {:<8} {:<11} {:<8} STATE\n",
        "WORKER", "RUNNING", "ANSWERED", "LATE", "GIVEN BACK", "BURIED", "MODE", "JAIL", "VERSION"
    );
    for worker in workers {
        let state = if worker.draining { "draining" } else { "" };
        let line = format!(
            "{:<32} {:>9} {:>10} {:>6} {:>10} {:>7} {:<8} {:<11} {:<8} {state}",
            worker.shown(),
            Busy(worker).to_string(),
            worker.answered,
            worker.late,
            worker.given_back,
            worker.buried,
            worker.mode,
            worker.jail,
            worker.version
        );
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn streams_text(streams: &[StreamSettings]) -> String {
    let mut text = format!(
        "{:<18} {:>12} {:>10} {:>14} {:>9} {:>8}\n",
        "STREAM", "MESSAGES", "SIZE", "OF A SUBJECT", "KEPT", "REPLICAS"
    );
    for stream in streams {
        let most = stream
            .max_of_subject
            .map_or("any".into(), |n| n.to_string());
        let kept = stream.keep_seconds.map_or("for ever".into(), |seconds| {
            humantime::format_duration(Duration::from_secs(seconds)).to_string()
        });
        let _ = writeln!(
            text,
            "{:<18} {:>12} {:>10} {:>14} {kept:>9} {:>8}",
            stream.stream,
            stream.messages,
            bytesize::ByteSize(stream.bytes).to_string(),
            most,
            stream.replicas
        );
    }
    text
}

fn dead_text(dead: &[DeadTask]) -> String {
    if dead.is_empty() {
        return "no buried tasks\n".into();
    }
    let mut text = String::new();
    for dead in dead {
        let id = dead.id.as_ref().map_or("(no id)", TaskId::as_str);
        let (class, tenant, deliveries) = (&dead.class, &dead.tenant, dead.deliveries);
        let why = dead.why.replace('\n', " ");
        let _ = writeln!(
            text,
            "{id}  {class}.{tenant}  delivered {deliveries} times  {why}"
        );
    }
    text
}
