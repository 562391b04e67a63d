//! `wrun compare`: from options to a comparison, and from its results to a table, JSON
//! and a page.

use super::args::{CompareArgs, Only};
use super::grant_args::TaskFile;
use super::in_use::InUse;
use super::read::read;
use super::result_to::ResultTo;
use super::signals::Signals;
use super::{Failure, exit, print, screen, stdio, table, text};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use wrun::{Error, Limits};
use wrun_compare::{Comparison, Fault, Measure, Results, Step, Verdict};

pub(super) fn compare(args: CompareArgs) -> Result<u8, Failure> {
    let task = &*args.file;
    args.grants.children.check()?;
    let mut in_use = InUse::new(args.grants.files().chain([task]));
    if let Some(input) = &args.input {
        in_use.add_input(input);
    }
    // The table, if nothing else goes there.
    in_use.check_stdout()?;
    let json = ResultTo::open("--json", args.json.as_deref(), &in_use)?;
    in_use.add(args.json.as_deref());
    let html = ResultTo::open("--html", args.html.as_deref(), &in_use)?;
    if json.is_stdout() && html.is_stdout() {
        let message = "--json - and --html - cannot both be stdout";
        return Err(Failure::new(exit::USAGE, message));
    }
    let granted = args.grants.children.task.iter().map(|task| &*task.file);
    for file in granted.chain([task]) {
        is_read_again(file)?;
    }
    let comparison = comparison(&args)?;
    let (compared, stopped) = watched(comparison, !args.quiet)?;
    let results = compared?;
    let on_stdout = json.is_stdout() || html.is_stdout();
    json.write_text(serde_json::json!(results), None)?;
    html.write_text(results.to_html(), None)?;
    if !on_stdout {
        print(text::clean(&table::table(&results)).as_bytes())?;
    }
    if let Some(code) = stopped {
        text::complain(match code {
            exit::OUT_OF_TIME => {
                "wrun has used up its processor time (ulimit -t): not everything was measured"
            }
            _ => "interrupted: not everything was measured",
        });
        return Ok(code);
    }
    Ok(match results.verdict {
        Verdict::Comparable => 0,
        _ => exit::FAILED,
    })
}

/// A task is loaded by each kind of runner, and a pipe has its content only once.
fn is_read_again(file: &Path) -> Result<(), Failure> {
    match std::fs::metadata(file) {
        Ok(it) if !it.is_file() && !it.is_dir() => {
            let file = file.display();
            let message = format!(
                "{file}: expected a regular file: a comparison reads its tasks several times; \
                 copy it to one"
            );
            Err(Failure::new(exit::USAGE, message))
        }
        // What else is wrong is said when it is loaded.
        _ => Ok(()),
    }
}

fn comparison(args: &CompareArgs) -> Result<Comparison, Failure> {
    let mut limits = Limits::default().timeout(args.timeout);
    limits.max_memory = args.max_memory.unwrap_or(limits.max_memory);
    limits.max_total_memory = limits.max_total_memory.max(limits.max_memory);
    let input = input(args.input.as_deref())?;
    let mut comparison = Comparison::new(&args.file)
        .args(super::run::strings(&args.args)?)
        .limits(limits)
        .rounds(args.runs)
        .budget(args.budget)
        .process(args.walls.options()?)
        .command(command());
    comparison = match &args.request {
        Some(request) => comparison.request(request.clone().map(|()| input.into())),
        None => comparison.input(input),
    };
    if let Some(time) = args.compiling.compile_timeout {
        comparison = comparison.compile_timeout(time);
    }
    if let Some(bytes) = args.compiling.compile_memory {
        comparison = comparison.compile_memory(bytes);
    }
    for (key, value) in args.grants.env.iter().cloned() {
        comparison = comparison.env(key, value);
    }
    for grant in &args.grants.dir {
        comparison = comparison.dir(grant.clone());
    }
    for grant in &args.grants.allow_tcp {
        comparison = comparison.allow_tcp(grant.clone());
    }
    for grant in &args.grants.allow_http {
        comparison = comparison.allow_http(grant.clone());
    }
    comparison = comparison.http_authorities(args.grants.http_authorities(None)?);
    for TaskFile { name, file } in &args.grants.children.task {
        comparison = comparison.task(name, file);
    }
    if !args.only.is_empty() {
        let wants = |it: Only| args.only.contains(&it);
        let measures = Measure::ALL.into_iter();
        let faults = Fault::ALL.into_iter();
        comparison = comparison
            .measures(measures.filter(|it| wants(Only::Cost) || wants(Only::Measure(*it))))
            .faults(faults.filter(|it| wants(Only::Isolation) || wants(Only::Fault(*it))));
    }
    Ok(comparison)
}

/// All of it: each run gets the same.
fn input(path: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let Some(path) = path else {
        return Ok(Vec::new());
    };
    let fail = |error: io::Error| {
        let message = format!("cannot read {}: {error}", path.display());
        Failure::new(exit::of_reading(&error), message)
    };
    let most = Limits::INPUT_DEFAULT;
    let bytes = match path == Path::new("-") {
        true => {
            let mut bytes = Vec::new();
            let read = stdio::stdin().take(most + 1).read_to_end(&mut bytes);
            read.map(|_| bytes)
        }
        false => read(path, most, None),
    };
    let bytes = bytes.map_err(fail)?;
    if bytes.len() as u64 > most {
        let message = format!("the input {} has more than 64 MiB", path.display());
        return Err(Failure::new(exit::USAGE, message));
    }
    Ok(bytes)
}

/// The typed options, without those for results and for the selection of rows.
fn command() -> Vec<String> {
    let mut words = vec!["wrun".to_owned(), "compare".to_owned()];
    let mut typed = std::env::args_os()
        .skip(2)
        .map(|word| word.to_string_lossy().into_owned());
    while let Some(word) = typed.next() {
        if word == "--" {
            break;
        }
        if !word.starts_with("--") || ["--quiet", "--no-progress"].contains(&&*word) {
            // The task, or an argument of it; or an option that does not affect the results.
            continue;
        }
        // All others have a value.
        let value = match word.contains('=') {
            true => None,
            false => typed.next(),
        };
        let is = |option: &str| word == option || word.starts_with(&format!("{option}="));
        let others = ["--json", "--html", "--only", "--log", "--log-format"];
        if !others.into_iter().any(is) {
            words.push(word);
            words.extend(value);
        }
    }
    words
}

type Compared = (Result<Results, Error>, Option<u8>);

/// Measures, shows progress, and ends early with an exit code if a signal arrives.
fn watched(comparison: Comparison, progress: bool) -> Result<Compared, Failure> {
    let system = |error: io::Error| Failure::new(exit::RUNNER, error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(system)?;
    runtime.block_on(async {
        let mut signals = Signals::catch().map_err(system)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (done, mut ended) = oneshot::channel();
        let stopped = stop.clone();
        std::thread::Builder::new()
            .name("wrun-compare".into())
            .spawn(move || {
                let line = (progress && io::stderr().is_terminal()).then(line);
                let results = comparison.run_watched(&mut |step| {
                    if let Some(line) = &line {
                        show(line, step);
                    }
                    match stopped.load(Ordering::Relaxed) {
                        true => ControlFlow::Break(()),
                        false => ControlFlow::Continue(()),
                    }
                });
                if let Some(line) = line {
                    line.finish_and_clear();
                }
                let _ = done.send(results);
            })
            .map_err(system)?;
        let mut code = None;
        loop {
            tokio::select! {
                results = &mut ended => {
                    let lost = |_| Failure::new(exit::RUNNER, "measuring ended without a result");
                    return Ok((results.map_err(lost)?, code));
                }
                signal = signals.next() => {
                    if code.is_some() {
                        text::complain("waiting for the run that is under way");
                    }
                    code.get_or_insert(signal);
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
    })
}

fn line() -> ProgressBar {
    let line = ProgressBar::with_draw_target(Some(1000), screen::draw_target(10));
    if let Ok(style) =
        ProgressStyle::with_template("comparing [{bar:30}] {percent} %, {elapsed}, {msg}")
    {
        line.set_style(style.progress_chars("=> "));
    }
    // A step can take long, such as compiling.
    line.enable_steady_tick(Duration::from_secs(1));
    line
}

fn show(line: &ProgressBar, step: Step<'_>) {
    line.set_position(step.done.into());
    if line.message() != step.what {
        line.set_message(step.what.to_owned());
    }
}
