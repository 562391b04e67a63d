//! `wrun map`: from options to a batch, and from its end to an exit code.

use super::destination::{Destination, LatePipe, cannot_write, resolved};
use super::grant_args::TaskFile;
use super::in_use::InUse;
use super::loading::{Loading, compiles_each_time};
use super::map_args::{InputAs, MapArgs, OutputFormat};
use super::map_fleet;
use super::map_report;
use super::map_run::{Batch, Ended, collect};
use super::run::strings;
use super::signals::Signals;
use super::{Failure, exit, stdio, stdout_failed, text};
use std::fs;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wrun::{Artifact, Cache, Limits, Runner, Task, TaskGrant};
use wrun_map::{
    Collector, Error, Failures, Folder, Format, Identity, Journal, Local, Map, Meter, Opening,
    Pass, Place, Plan, Pumped, Reader, Source, Status, Stream, Template, Trace,
};

/// Tasks that wait for one that ends, so that none waits for the next to be submitted.
const AHEAD: usize = 64;

pub(super) fn map(args: MapArgs) -> Result<u8, Failure> {
    if let Some(path) = &args.status {
        let status = Status::read(path).map_err(failure)?;
        return super::print(map_report::status(&status).as_bytes());
    }
    check(&args)?;
    let jobs = jobs(&args)?;
    let builder = Runner::builder()
        .mode(args.mode)
        .preemption(args.preempt)
        .max_running(jobs)
        .max_queued(jobs + AHEAD)
        .max_children(args.max_tasks.unwrap_or(Limits::default().max_tasks) as usize)
        .metered(args.fuel.is_some())
        .cache(match args.no_cache {
            true => Cache::Off,
            false => Cache::User,
        });
    let builder = builder.http_authorities(args.grants.http_authorities(args.timeout)?);
    args.walls.check(args.mode)?;
    let process = args.pool.apply(args.walls.options()?);
    let builder = args.compiling.apply(builder).process(process);
    let runner = builder
        .build()
        .map_err(|error| args.grants.failure(error))?;
    super::event_loop()?.block_on(map_on(Arc::new(runner), &args, jobs))
}

/// What options cannot say by themselves.
fn check(args: &MapArgs) -> Result<(), Failure> {
    let usage = |message: &str| Err(Failure::new(exit::USAGE, message));
    args.grants.children.check()?;
    if args.split.is_some() && args.inputs.is_empty() {
        return usage("--split needs INPUTS: the files to split");
    }
    if args.sources().next().is_none() {
        return usage("no inputs: expected INPUTS, --files-from, --lines, --jsonl or --csv");
    }
    if args
        .sources()
        .filter(|path| *path == Path::new("-"))
        .count()
        > 1
    {
        return usage("stdin can be read only once");
    }
    if args.field.is_some() && args.jsonl.is_empty() && args.csv.is_empty() {
        return usage("--field needs --jsonl or --csv");
    }
    if let Some(journal) = args.journal.as_deref().filter(|_| !args.dry_run) {
        if args.output().is_none() && (args.output_dir.is_none() || args.output.is_some()) {
            return usage(
                "--journal needs --output FILE or --output-dir DIR: what was printed to stdout \
                 cannot be taken back when the batch goes on",
            );
        }
        if args.output_dir.is_some() && args.format.is_some() && args.output().is_none() {
            return usage("--format with --journal needs --output FILE");
        }
        if !args.resume && journal.symlink_metadata().is_ok() {
            let journal = journal.display();
            let message = format!(
                "--journal {journal} exists: --resume goes on with it; to start again, remove it"
            );
            return Err(Failure::new(exit::USAGE, message));
        }
    }
    Ok(())
}

/// How many tasks run at the same time.
fn jobs(args: &MapArgs) -> Result<usize, Failure> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let jobs = args.jobs.map_or(processors, |jobs| jobs as usize);
    let Some(total) = args.max_total_memory else {
        return Ok(jobs);
    };
    let limits = args.limits();
    // With its children a task may have more.
    let each = match args.grants.children.task.is_empty() {
        true => limits.max_memory,
        false => limits.max_total_memory,
    };
    match usize::try_from(total / each.max(1)).unwrap_or(usize::MAX) {
        0 => {
            let [total, each] = [total, each].map(text::memory);
            let message = format!(
                "--max-total-memory ({total}) must not be less than --max-memory ({each}): no task \
                 could run"
            );
            Err(Failure::new(exit::USAGE, message))
        }
        fit => Ok(jobs.min(fit)),
    }
}

async fn map_on(runner: Arc<Runner>, args: &MapArgs, jobs: usize) -> Result<u8, Failure> {
    let mut signals = Signals::catch().map_err(super::no_event_loop)?;
    let path = args.task.as_deref().unwrap_or(Path::new(""));
    let plan = plan(args)?;
    check_results(args, path)?;
    let loading = Loading {
        runner: &runner,
        trusted: args.allow_precompiled,
        shown: !args.quiet && !args.no_progress,
        timeout: args.timeout,
        compiling: args.compiling,
    };
    let artifact = loading.load(path, &mut signals).await;
    let artifact = artifact.map_err(|it| it.failure)?;
    if artifact.shape().is_http() {
        return Err(super::run::answers_http(path));
    }
    let mut granted = Vec::new();
    for TaskFile { name, file } in &args.grants.children.task {
        let task = loading.load(file, &mut signals).await;
        let task = task.map_err(|it| it.failure)?;
        granted.push((name.clone(), task));
    }
    if !args.quiet
        && let Some(why) = compiles_each_time(std::slice::from_ref(&artifact))
    {
        text::complain(&why);
    }
    let task = task(args, &artifact, &granted);
    runner.validate(task())?;
    if args.dry_run {
        return dry_run(args, &plan);
    }
    let (meter, inputs) = inputs(args)?;
    let opening = Opening {
        resume: args.resume,
        force: args.force,
        sync: args.sync,
    };
    let mut journal = match &args.journal {
        None => None,
        Some(path) => {
            let identity = identity(args, &artifact, &granted, &plan);
            Some(Journal::open(path, &identity, opening).map_err(failure)?)
        }
    };
    let stream = stream(args, journal.as_mut())?;
    let run = BatchRun {
        args,
        plan,
        journal,
        stream,
        meter,
        inputs,
        name: artifact.name().to_owned(),
    };
    if args.on.is_none() {
        return run.on(Local::new(runner, task), jobs, &mut signals).await;
    }
    let is_kept = run.journal.is_some();
    let place = map_fleet::place(args, path, &artifact, run.journal.as_ref()).await?;
    let cancel = place.canceller();
    let jobs = args.jobs.map_or(map_fleet::IN_FLIGHT, |jobs| jobs as usize);
    let code = run.on(place, jobs, &mut signals).await;
    // Those of a journal go on, and are found when the batch does.
    if !is_kept {
        cancel.await;
    }
    code
}

/// A batch that is ready to run somewhere.
struct BatchRun<'a> {
    args: &'a MapArgs,
    plan: Plan,
    journal: Option<Journal>,
    stream: Option<(Stream, Format)>,
    meter: Arc<Meter>,
    inputs: Pumped,
    name: String,
}

impl BatchRun<'_> {
    async fn on<P: Place>(
        self,
        place: P,
        jobs: usize,
        signals: &mut Signals,
    ) -> Result<u8, Failure> {
        let args = self.args;
        let (mut ended, mut failed) = (0, 0);
        let is_local = args.on.is_none();
        let mut map = Map::new(place, self.plan)
            .in_flight(jobs)
            .ahead(if is_local { AHEAD } else { 0 })
            .window(jobs.max(Map::<P>::WINDOW))
            .ordered(!args.unordered)
            .names(args.output_dir.is_some())
            .retries(if is_local { args.retries } else { 0 });
        if let Some(journal) = &self.journal {
            (ended, failed) = journal.counts();
            map = map.journalled(journal.resume().map_err(failure)?);
        }
        let failures = Arc::new(Failures::new(args.fail, ended, failed));
        let mut collector = Collector::new(failures.clone());
        if let Some((stream, format)) = self.stream {
            collector = collector.stream(stream, format);
        }
        if let Some(folder) = folder(args, self.journal.as_ref())? {
            collector = collector.folder(folder);
        }
        if let Some(path) = &args.trace {
            let trace = Trace::create(path, &self.name).map_err(failure)?;
            collector = collector.trace(trace);
        }
        if let Some(journal) = self.journal {
            collector = collector.journal(journal, args.sync);
        }
        let batch = Batch::new(args, failures.clone(), self.meter);
        let records = map.run(self.inputs);
        let ended = collect(records, collector, batch, signals).await?;
        end(args, &failures, ended)
    }
}

/// Prints what the batch was like, and gives its exit code.
fn end(args: &MapArgs, failures: &Failures, ended: Ended) -> Result<u8, Failure> {
    if args.summary
        && let Some(summary) = &ended.summary
    {
        text::say(&map_report::summary(summary, ended.elapsed));
    }
    let (all, failed) = (failures.ended(), failures.failed());
    let rest = match &args.journal {
        Some(_) => "the same command with --resume goes on",
        None => "with --journal FILE a batch can go on",
    };
    if let Some(error) = ended.error {
        let mut failure = failure(error);
        // It waited for a reader of the pipe when the signal came.
        if let (Some(code), Some(true)) = (ended.interrupted, args.output().map(is_pipe)) {
            failure.code = code;
        }
        if args.journal.is_some() && failure.code == exit::RUNNER {
            failure.message += &format!("; {all} inputs had ended: {rest}");
        }
        return Err(failure);
    }
    if let Some(code) = ended.interrupted {
        text::complain(&format!("interrupted after {all} inputs: {rest}"));
        return Ok(code);
    }
    if ended.is_halted {
        text::complain(&format!(
            "ended early because {failed} of {all} inputs failed (--fail): {rest}"
        ));
        return Ok(exit::ENDED_EARLY);
    }
    if all == 0 && !args.quiet {
        text::complain("there were no inputs");
    }
    if failed > 0 && !args.quiet {
        text::complain(&format!("{failed} of {all} inputs did not complete"));
    }
    Ok(if failed > 0 { exit::FAILED } else { 0 })
}

fn plan(args: &MapArgs) -> Result<Plan, Failure> {
    let plan = Plan::new().args(strings(&args.args)?);
    Ok(match args.input_as {
        None => plan,
        Some(InputAs::Input) => plan.pass(Pass::Input),
        Some(InputAs::Arguments) => plan.pass(Pass::Arguments),
    })
}

/// Makes the task of each input.
fn task(
    args: &MapArgs,
    artifact: &Artifact,
    granted: &[(String, Artifact)],
) -> impl Fn() -> Task + Send + Sync + use<> {
    let (artifact, limits) = (artifact.clone(), args.limits());
    let grants = granted.iter();
    let grants = grants.map(|(name, task)| TaskGrant::new(name, task).grace(Task::GRACE));
    let grants: Vec<_> = grants.collect();
    let (dirs, env) = (args.grants.dir.clone(), args.grants.env.clone());
    let (tcp, http) = (
        args.grants.allow_tcp.clone(),
        args.grants.allow_http.clone(),
    );
    move || {
        let mut task = Task::new(&artifact).limits(limits.clone());
        for grant in &dirs {
            task = task.dir(grant.clone());
        }
        for grant in &grants {
            task = task.allow_task(grant.clone());
        }
        for grant in &tcp {
            task = task.allow_tcp(grant.clone());
        }
        for grant in &http {
            task = task.allow_http(grant.clone());
        }
        for (key, value) in &env {
            task = task.env(key, value);
        }
        task
    }
}

fn source(args: &MapArgs) -> Source {
    let field = args.field.clone();
    if !args.lines.is_empty() {
        return Source::Lines(args.lines.clone());
    }
    if !args.jsonl.is_empty() {
        let files = args.jsonl.clone();
        return Source::JsonLines { files, field };
    }
    if !args.csv.is_empty() {
        return Source::Rows {
            files: args.csv.clone(),
            field,
            delimiter: args.delimiter,
        };
    }
    if let Some(size) = args.split {
        let files = args.inputs.clone();
        return Source::Split { files, size };
    }
    Source::Files {
        paths: args.inputs.clone(),
        list: args.files_from.clone(),
        results: results(args),
    }
}

/// Where results go, and what lies beside the journal.
fn results(args: &MapArgs) -> Vec<PathBuf> {
    let mut results: Vec<PathBuf> = [
        args.output(),
        args.output_dir.as_deref(),
        args.trace.as_deref(),
    ]
    .into_iter()
    .flatten()
    .map(Path::to_owned)
    .collect();
    if let Some(journal) = &args.journal {
        for end in ["", "-wal", "-shm"] {
            let mut name = journal.clone().into_os_string();
            name.push(end);
            results.push(name.into());
        }
    }
    results
}

fn reader(args: &MapArgs) -> Reader {
    Reader {
        end: if args.null { 0 } else { b'\n' },
        max_record: args.max_record,
    }
}

fn inputs(args: &MapArgs) -> Result<(Arc<Meter>, Pumped), Failure> {
    let (source, reader) = (source(args), reader(args));
    let pumped = Pumped::start(move |reading| source.open(reader, reading)).map_err(failure)?;
    Ok((pumped.meter().clone(), pumped))
}

/// What the journal must have been made for.
fn identity(
    args: &MapArgs,
    artifact: &Artifact,
    granted: &[(String, Artifact)],
    plan: &Plan,
) -> Identity {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let tasks: Vec<_> = granted
        .iter()
        .map(|(name, task)| (name, task.digest()))
        .collect();
    let Limits {
        timeout,
        fuel,
        max_memory,
        max_output,
        max_input,
        max_tasks,
        max_depth,
        max_total_memory,
        ..
    } = args.limits();
    let grants = &args.grants;
    Identity {
        task: artifact.digest(),
        arguments: plan.describe(),
        inputs: format!("{} {:?}", source(args).describe(), reader(args)),
        // Without names of a fleet's grants it is the same wherever the batch runs.
        grants: format!(
            "{:?} {:?} {:?} {:?} {tasks:?}{}",
            grants.dir,
            grants.env,
            grants.allow_tcp,
            grants.allow_http,
            args.grant
                .iter()
                .fold(String::new(), |all, name| all + " " + name)
        ),
        limits: format!(
            "{timeout:?} {fuel:?} {max_memory} {max_output:?} {max_input:?} {max_tasks} \
             {max_depth} {max_total_memory}"
        ),
        output: format!(
            "{:?} {:?} {:?} {:?} {} {}",
            args.output().map(absolute),
            args.output_dir.as_deref().map(absolute),
            args.output_name,
            args.format,
            args.no_stats,
            args.unordered
        ),
    }
}

/// The place for records or bytes; none where nothing wants them.
fn stream(
    args: &MapArgs,
    journal: Option<&mut Journal>,
) -> Result<Option<(Stream, Format)>, Failure> {
    if args.output_dir.is_some() && args.output.is_none() && args.format.is_none() {
        return Ok(None);
    }
    let format = match args.format.unwrap_or(OutputFormat::Records) {
        OutputFormat::Bytes => Format::Bytes,
        OutputFormat::Records => Format::Records {
            stats: !args.no_stats,
        },
    };
    let stream = match (args.output(), journal) {
        (None, _) if wrun_sys::was_stdout_closed() => {
            return Err(stdout_failed(&rustix::io::Errno::BADF.into()));
        }
        (None, _) => Stream::to("-", stdio::stdout()),
        (Some(path), None) if is_pipe(path) => {
            let pipe = Destination::open("--output", path, &InUse::new(std::iter::empty()))?;
            let opener = pipe.opener().map_err(|error| cannot_write(path, &error))?;
            Stream::to(path, LatePipe::Unopened(opener))
        }
        (Some(path), None) => Stream::create(path).map_err(failure)?,
        (Some(path), Some(journal)) => {
            let length = Stream::length_of(path).map_err(failure)?;
            if length < journal.output() {
                let lost = journal.roll_back(length).map_err(failure)?;
                text::complain(&format!(
                    "{} is shorter than the journal says: {lost} inputs are repeated",
                    path.display()
                ));
            }
            Stream::resume(path, journal.output()).map_err(failure)?
        }
    };
    Ok(Some((stream, format)))
}

fn is_pipe(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

fn folder(args: &MapArgs, journal: Option<&Journal>) -> Result<Option<Folder>, Failure> {
    let Some(path) = &args.output_dir else {
        return Ok(None);
    };
    let is_files = matches!(source(args), Source::Files { .. });
    let default = if is_files { "{}" } else { "{#}" };
    let template = Template::new(args.output_name.as_deref().unwrap_or(default));
    let pid = std::process::id().to_string();
    let id = journal.map_or(&*pid, Journal::id);
    let folder = Folder::open(path, template, id).map_err(failure)?;
    let results = results(args);
    let used = args
        .sources()
        .chain(args.grants.files())
        .chain(args.task.as_deref());
    let used = used.chain(results.iter().map(PathBuf::as_path));
    let used = used.filter(|it| Some(*it) != args.output_dir.as_deref());
    Ok(Some(folder.sync(args.sync).keep_off(used)))
}

/// Refuses results over what is read, and over each other.
fn check_results(args: &MapArgs, task: &Path) -> Result<(), Failure> {
    let mut in_use = InUse::new(args.grants.files().chain([task]));
    for path in args.sources() {
        in_use.add_input(path);
    }
    for (option, path) in [
        ("--output", args.output()),
        ("--journal", args.journal.as_deref()),
        ("--trace", args.trace.as_deref()),
    ] {
        let Some(path) = path else {
            continue;
        };
        let wrong = |error: io::Error| cannot_write(path, &error);
        let target = resolved(path).map_err(wrong)?;
        let metadata = fs::metadata(path).ok();
        if let Some(other) = in_use.find(metadata.as_ref(), &target) {
            let message = format!("{option} {} would overwrite {other}", path.display());
            return Err(Failure::new(exit::USAGE, message));
        }
        in_use.add(Some(path));
    }
    match args.output() {
        None if args.output_dir.is_none() => in_use.check_stdout(),
        _ => Ok(()),
    }
}

fn dry_run(args: &MapArgs, plan: &Plan) -> Result<u8, Failure> {
    let inputs = source(args).open(reader(args), wrun_map::Reading::default());
    let mut failed = 0;
    for (index, input) in (0..).zip(inputs) {
        if let Some(code) = super::signals::arrived() {
            return Ok(code);
        }
        let input = input.map_err(failure)?;
        let order = plan.order(index, &input);
        failed += u64::from(order.is_err());
        let line = match order {
            Ok(order) => serde_json::json!({
                "index": index, "name": input.name, "args": order.args,
                "input_bytes": order.payload.len(),
            }),
            Err(why) => serde_json::json!({
                "index": index, "name": input.name, "error": why.to_string(),
            }),
        };
        super::print(format!("{line}\n").as_bytes())?;
    }
    Ok(if failed > 0 { exit::FAILED } else { 0 })
}

/// The exit code and the message of an error.
pub(super) fn failure(error: Error) -> Failure {
    let code = match &error {
        Error::Write { path, source } if path == Path::new("-") => return stdout_failed(source),
        Error::Changed { .. } | Error::InputsChanged => {
            let message = format!("{error}; --force goes on all the same");
            return Failure::new(exit::USAGE, message);
        }
        Error::Source { .. } | Error::Format { .. } | Error::Output { .. } => exit::USAGE,
        Error::Runner(error) => exit::of_error(error),
        _ => exit::RUNNER,
    };
    Failure::new(code, error.to_string())
}
