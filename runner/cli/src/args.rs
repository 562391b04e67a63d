//! The command line: what clap parses and `--help` prints.

use super::fleet_args::{FLEET_EXAMPLES, FleetArgs, WORKER_EXAMPLES, WorkerArgs};
use super::grant_args::Grants;
use super::limit_args::{ChildArgs, CompilingArgs};
use super::log::LogArgs;
use super::map_args::{MAP_EXAMPLES, MapArgs};
use super::process::{ProcessArgs, WallArgs};
use super::serve_args::{SERVE_EXAMPLES, ServeArgs};
use super::terminal::Terminal;
use super::values::{duration, grace, one_of, size, whole};
use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use http::Request;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wrun::{Builder, Limits, Mode, Preemption};
use wrun_compare::{Comparison, Fault, Measure};

pub(super) const EXAMPLES: &str = "\
Examples:
  wrun hello.wasm                         run a task in a process of its own
  wrun --mode thread hello.wasm           run it on a thread of this process
  wrun resize.wasm 640 < in.png > out.png a command: stdin, arguments, stdout
  wrun --dir photos::/in:ro --timeout 5s index.wasm /in
  wrun --task part=part.wasm whole.wasm   a task that may start another task
  wrun --report - --output /dev/null task.wasm < input
  wrun inspect task.wasm                  describe a task file

A task can use only what is granted: by default no directory, no environment
variable, no socket and no other task.

SIGTERM cancels the task and ends it after --grace, or at once if it does not observe
cancellation; Ctrl-C ends it at once. Ctrl-Z suspends wrun and its workers until fg or
bg; the time does not count against --timeout.

Exit status: 0 completed; a command's own code; 1 the task failed; 2 usage;
124 timed out; 125 wrun failed; 126 not a task; 127 no such file; 130 interrupted;
134 trap; 137 another limit; 143 terminated; 128+n the worker died of signal n.
Where codes collide, --report tells them apart.

WRUN_CACHE_DIR is the directory for compiled code
[default: $XDG_CACHE_HOME/wrun, or ~/.cache/wrun]. WRUN_LOG is the default of --log.";

pub(super) const COMPARE_EXAMPLES: &str = "\
Examples:
  wrun compare resize.wasm --input in.png 640   a table of costs and isolation
  wrun compare --html compared.html task.wasm   a page to send to a colleague
  wrun compare --json - --only warm task.wasm   one row, with all its numbers
  wrun compare --only isolation task.wasm       which faults each mode contains
  wrun compare --request 'GET /x?y=2' api.wasm  an HTTP handler

The task also runs in thread mode and, for the floors, in a process without a
jail: compare only tasks that you would run in thread mode. Each run gets the same
input and grants; files that a run leaves in a granted directory are there for the next.

Exit status: 0 compared; 1 the task cannot be compared (the message says why);
2 usage; 125 wrun failed; 126 not a task; 127 no such file; 130 interrupted (the
results so far are printed).";

/// Runs WebAssembly tasks in separate processes or on threads.
#[derive(Debug, Parser)]
#[command(
    name = "wrun",
    version,
    about,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a task (`wrun TASK` is short for `wrun run TASK`)
    #[command(after_help = EXAMPLES)]
    Run(Box<RunArgs>),
    /// Describe a task file: shape, imports, exports, memory, required grants
    Inspect(InspectArgs),
    /// Compile a task ahead of time
    // It has no mode.
    #[command(mut_arg("compile_memory", |arg| arg.help(
        "Limit the memory to compile the task [default: 64 times the size of its file, at least \
         2GiB, at most 16GiB]"
    )))]
    Compile(Box<CompileArgs>),
    /// Measure a task in both modes, side by side: cost and isolation
    #[command(after_help = COMPARE_EXAMPLES)]
    Compare(Box<CompareArgs>),
    /// Serve an HTTP component: each request is a task
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Run a task over many inputs: files, lines, rows; with a journal to go on from
    // It has tasks, and no app.
    #[command(
        after_help = MAP_EXAMPLES,
        mut_arg("start", |arg| arg.help(
            "How to start worker processes: `exec` (start the program for each) or `fork` (from a \
             process that has the task loaded)"
        )),
        mut_arg("spares", |arg| arg.help(
            "Keep N worker processes ready for the next inputs"
        ))
    )]
    Map(Box<MapArgs>),
    /// Run tasks of a fleet, queued in NATS JetStream
    // It has tasks, and no app.
    #[command(
        after_help = WORKER_EXAMPLES,
        mut_arg("start", |arg| arg.help(
            "How to start worker processes: `exec` (start the program for each) or `fork` (from a \
             process that has the task loaded)"
        )),
        mut_arg("spares", |arg| arg.help("Keep N worker processes ready for the next tasks"))
    )]
    Worker(Box<WorkerArgs>),
    /// Submit tasks to a fleet, look at it, cancel
    #[command(after_help = FLEET_EXAMPLES)]
    Fleet(Box<FleetArgs>),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page of wrun, or of one of its commands
    Man {
        /// The command
        #[arg(value_name = "COMMAND", value_parser = ["run", "inspect", "compile", "compare", "map", "serve", "worker", "fleet", "completions", "man"])]
        command: Option<String>,
    },
}

impl Command {
    /// Whether it starts processes, which must stop together with it.
    pub(super) fn has_workers(&self) -> bool {
        matches!(
            self,
            Command::Run(_)
                | Command::Compile(_)
                | Command::Compare(_)
                | Command::Map(_)
                | Command::Serve(_)
                | Command::Worker(_)
        )
    }
}

/// `wrun run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Where the task runs: `process` or `thread`
    #[arg(long, value_name = "MODE", default_value = "process", value_parser = one_of::<Mode>(&["process", "thread"]))]
    pub(crate) mode: Mode,

    /// How a task that computes is interrupted in thread mode: `epoch` (by checks in its code,
    /// which slow it down) or `signal` (by SIGURG; a task that computes gets a thread).
    /// Process mode needs no checks
    #[arg(long, value_name = "HOW", default_value = "epoch", value_parser = one_of::<Preemption>(&["epoch", "signal"]))]
    pub(crate) preempt: Preemption,

    /// Read the task's input from FILE; `-` is stdin [default: stdin, or no input if stdin
    /// is a terminal and the task is not a command]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) input: Option<PathBuf>,

    /// Write the output to FILE; `-` is stdout [default: stdout]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,

    /// Write a JSON report to FILE; `-` is stdout, which then requires --output FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) report: Option<PathBuf>,

    /// Print the outcome, the cost and denied accesses to stderr
    #[arg(long)]
    pub(crate) stats: bool,

    /// Do not show progress (compiling, or what the task reports) on stderr when stderr is a
    /// terminal
    #[arg(long)]
    pub(crate) no_progress: bool,

    /// What output may do to a terminal. `safe`: set colours, edit the current line, hide
    /// the cursor; other control sequences are shown as text. `raw`: everything
    #[arg(long, value_name = "HOW", default_value = "safe", value_parser = one_of::<Terminal>(&["safe", "raw"]))]
    pub(crate) terminal: Terminal,

    /// Print only errors to stderr: no progress, no hints about missing grants, no notes
    /// about a missing cache or a worker that runs as root
    #[arg(long, short, conflicts_with = "stats")]
    pub(crate) quiet: bool,

    /// End the task after this time: 500ms, 5s, 2min; a number alone is seconds. Loading it
    /// may take as long again, at least 10s, or as long as --compile-timeout allows
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// How long the task may take to stop after SIGTERM. A task that does not observe
    /// cancellation, such as a command, is ended at once; so is any task after a second
    /// SIGTERM or after Ctrl-C
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = grace)]
    pub(crate) grace: Duration,

    /// End the task after N units of fuel, about one per instruction
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..=u64::MAX))]
    pub(crate) fuel: Option<u64>,

    /// Limit linear memory, the sum of all memories of the task; a single memory has at most
    /// 4GiB, or 64GiB with 64-bit addresses [default: 512MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_memory: Option<u64>,

    /// Limit the output, stdout and stderr each [default: unlimited for a command, 16MiB for
    /// a task that exports `run`]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_output: Option<u64>,

    /// Limit the input [default: unlimited for a command, 64MiB for a task that exports
    /// `run`]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_input: Option<u64>,

    #[command(flatten)]
    pub(crate) grants: Grants,

    #[command(flatten)]
    pub(crate) children: ChildArgs,

    #[command(flatten)]
    pub(crate) compiling: CompilingArgs,

    /// Accept an artifact of `wrun compile`: native code, which cannot be verified
    #[arg(long)]
    pub(crate) allow_precompiled: bool,

    /// Do not read or write the cache of compiled code
    #[arg(long)]
    pub(crate) no_cache: bool,

    #[command(flatten)]
    pub(crate) log: LogArgs,

    #[command(flatten)]
    pub(crate) process: ProcessArgs,

    /// The task (a component, a core module, WAT text or an artifact) and its
    /// arguments
    // One list, so that everything after the task belongs to the task, including options.
    #[arg(
        id = "TASK",
        value_names = ["TASK", "ARGS"],
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        value_hint = ValueHint::CommandWithArguments
    )]
    pub(crate) command: Vec<OsString>,
}

impl RunArgs {
    /// The limits of the task, which is a command or exports `run`.
    pub(crate) fn limits(&self, is_command: bool) -> Limits {
        let mut limits = Limits::default();
        limits.timeout = self.timeout;
        limits.fuel = self.fuel;
        limits.max_memory = self.max_memory.unwrap_or(limits.max_memory);
        limits.max_input = self.max_input;
        self.children.apply(&mut limits);
        limits.max_output = match self.max_output {
            None if !is_command => Some(Limits::CAPTURE_DEFAULT),
            other => other,
        };
        limits
    }
}

/// `wrun inspect`.
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// The task file
    #[arg(value_name = "TASK", value_hint = ValueHint::FilePath)]
    pub(crate) task: PathBuf,
}

/// `wrun compile`.
#[derive(Args, Debug)]
pub(crate) struct CompileArgs {
    /// Write the artifact to FILE; `-` is stdout
    #[arg(short, long, value_name = "ARTIFACT", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,

    /// Compile for one mode, which takes half the time and space [default: both]
    #[arg(long, value_name = "MODE", value_parser = one_of::<Mode>(&["process", "thread"]))]
    pub(crate) mode: Option<Mode>,

    /// Compile with fuel counting, for runs with --fuel
    #[arg(long)]
    pub(crate) metered: bool,

    #[command(flatten)]
    pub(crate) compiling: CompilingArgs,

    /// Do not show progress on stderr when stderr is a terminal
    #[arg(short, long)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) log: LogArgs,

    /// The task file
    #[arg(value_name = "TASK", value_hint = ValueHint::FilePath)]
    pub(crate) task: PathBuf,
}

/// `wrun compare`.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// Read the input of each run from FILE; `-` is stdin [default: no input]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) input: Option<PathBuf>,

    /// The request that each run of an HTTP handler answers: a method and a path or URL. Its body
    /// is --input [default: GET /]
    #[arg(long, value_name = "METHOD PATH", value_parser = request)]
    pub(crate) request: Option<Request<()>>,

    /// Measure each row N times, in turns with the others; fewer if the time does not
    /// suffice
    #[arg(
        long,
        value_name = "N",
        default_value_t = Comparison::ROUNDS,
        value_parser = whole::<u32>(1..=Comparison::MAX_ROUNDS.into())
    )]
    pub(crate) runs: u32,

    /// Approximate time for measuring; injecting faults takes some seconds more
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) budget: Duration,

    /// Measure only `cost`, `isolation` or the row with this name in the JSON; repeat for
    /// more
    #[arg(long, value_name = "NAME", value_parser = only)]
    pub(crate) only: Vec<Only>,

    /// Write all measurements as JSON; `-` is stdout, instead of the table
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) json: Option<PathBuf>,

    /// Write a self-contained HTML page; `-` is stdout, instead of the table
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) html: Option<PathBuf>,

    /// Do not show progress on stderr when stderr is a terminal
    #[arg(short, long, visible_alias = "no-progress")]
    pub(crate) quiet: bool,

    /// Fail if a single run takes longer: 500ms, 5s, 2min
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,

    /// Limit linear memory, the sum of all memories of the task; a single memory has at most
    /// 4GiB, or 64GiB with 64-bit addresses [default: 512MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_memory: Option<u64>,

    #[command(flatten)]
    pub(crate) compiling: CompilingArgs,

    #[command(flatten)]
    pub(crate) grants: Grants,

    #[command(flatten)]
    pub(crate) log: LogArgs,

    #[command(flatten)]
    pub(crate) walls: WallArgs,

    /// The task: a component, a core module or WAT text
    #[arg(value_name = "TASK", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,

    /// Arguments of the task, after `--` if they look like options
    #[arg(value_name = "ARGS")]
    pub(crate) args: Vec<OsString>,
}

/// A request, written `METHOD PATH` or `PATH`, or with a URL.
fn request(text: &str) -> Result<Request<()>, String> {
    let expected = |_| "expected a method and a path or URL, such as `GET /`".to_owned();
    let (method, target) = text.trim().split_once(' ').unwrap_or(("GET", text.trim()));
    let target = match target.trim() {
        path if path.starts_with('/') => format!("http://localhost{path}"),
        url if url.starts_with("http://") || url.starts_with("https://") => url.to_owned(),
        _ => return Err(expected(())),
    };
    let request = Request::builder().method(method).uri(target).body(());
    request.map_err(|_| expected(()))
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Only {
    Cost,
    Isolation,
    Measure(Measure),
    Fault(Fault),
}

fn only(text: &str) -> Result<Only, String> {
    let measure = || Measure::ALL.into_iter().find(|it| it.name() == text);
    let fault = || Fault::ALL.into_iter().find(|it| it.name() == text);
    match text {
        "cost" => Ok(Only::Cost),
        "isolation" => Ok(Only::Isolation),
        _ => measure()
            .map(Only::Measure)
            .or_else(|| fault().map(Only::Fault))
            .ok_or_else(|| {
                let names = Measure::ALL.iter().map(|it| it.name());
                let names = names.chain(Fault::ALL.iter().map(|it| it.name()));
                let names: Vec<_> = names.collect();
                format!("there are cost, isolation, {}", names.join(", "))
            }),
    }
}

impl RunArgs {
    /// The file for the output; `None` for stdout.
    pub(super) fn output(&self) -> Option<&Path> {
        self.output
            .as_deref()
            .filter(|path| *path != Path::new("-"))
    }

    /// Maximum size of task files.
    pub(crate) const MAX_MODULE: u64 = Builder::MODULE_SIZE_DEFAULT;
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_may_be_left_out_and_task_arguments_are_the_tasks() {
        let cli = Cli::parse_from(["wrun", "--mode", "thread", "a.wasm", "--help", "-x"]);
        assert!(cli.command.is_none());
        assert_eq!(cli.run.command, ["a.wasm", "--help", "-x"]);
        assert!(Cli::try_parse_from(["wrun", "--no-such-option", "a.wasm"]).is_err());
        let cli = Cli::parse_from(["wrun", "run", "a.wasm", "run"]);
        assert!(matches!(cli.command, Some(Command::Run(run)) if run.command == ["a.wasm", "run"]));
    }

    /// They are run by integration tests, too, which change their addresses.
    #[test]
    fn every_example_is_understood() {
        for examples in [EXAMPLES, COMPARE_EXAMPLES, MAP_EXAMPLES, SERVE_EXAMPLES] {
            let lines = examples.lines().skip(1).take_while(|line| !line.is_empty());
            for line in lines {
                let line = line.trim();
                let line = line.split_once("  ").map_or(line, |(example, _)| example);
                let line = line.split(['<', '>']).next().unwrap_or_default();
                // Quotes of a shell hold two words together.
                let mut words = Vec::new();
                for (at, part) in line.split('\'').enumerate() {
                    match at % 2 {
                        0 => words.extend(part.split_whitespace()),
                        _ => words.push(part),
                    }
                }
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("{line}: {error}");
                }
            }
        }
    }

    #[test]
    fn requests_of_handlers() {
        let parse = |text: &str| {
            let request = request(text).ok()?;
            Some(format!("{} {}", request.method(), request.uri()))
        };
        for (text, expected) in [
            ("/", "GET http://localhost/"),
            ("GET /a?b=c", "GET http://localhost/a?b=c"),
            ("PUT https://b.example/x", "PUT https://b.example/x"),
        ] {
            assert_eq!(parse(text).as_deref(), Some(expected));
        }
        for bad in ["", "GET", "GET x", "G\u{e9}T /", "GET / x", "/ x"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
