//! The command line: what clap parses and `--help` prints.

use super::limit_args::{ChildArgs, CompilingArgs};
use super::log::LogArgs;
use super::process::{ProcessArgs, WallArgs};
use super::serve_args::{SERVE_EXAMPLES, ServeArgs};
use super::terminal::Terminal;
use super::values::{duration, grace, one_of, size, whole};
use super::{Failure, exit};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use http::Request;
use std::env::VarError;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wrun::{Builder, DirGrant, HttpGrant, Limits, Mode, TaskError, TaskGrant, TcpGrant};
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
    Compile(CompileArgs),
    /// Measure a task in both modes, side by side: cost and isolation
    #[command(after_help = COMPARE_EXAMPLES)]
    Compare(Box<CompareArgs>),
    /// Serve an HTTP component: each request is a task
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page of wrun, or of one of its commands
    Man {
        /// The command
        #[arg(value_name = "COMMAND", value_parser = ["run", "inspect", "compile", "compare", "serve", "completions", "man"])]
        command: Option<String>,
    },
}

impl Command {
    /// Whether it starts processes, which must stop together with it.
    pub(super) fn has_workers(&self) -> bool {
        matches!(
            self,
            Command::Run(_) | Command::Compile(_) | Command::Compare(_) | Command::Serve(_)
        )
    }
}

/// `wrun run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Where the task runs: `process` or `thread`
    #[arg(long, value_name = "MODE", default_value = "process", value_parser = one_of::<Mode>(&["process", "thread"]))]
    pub(crate) mode: Mode,

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

/// The grants of the task.
#[derive(Args, Debug)]
pub(crate) struct Grants {
    /// Grant a directory, optionally under another name or read-only (`:ro`; the default is
    /// `:rw`). If wrun is root and
    /// the owners of its files cannot be mapped to another user, the worker runs as root
    /// and a note says so; --uid avoids that
    #[arg(long, value_name = "HOST[::GUEST][:ro|:rw]", value_hint = ValueHint::DirPath, value_parser = OsStringValueParser::new().try_map(dir))]
    pub(crate) dir: Vec<DirGrant>,

    /// Set an environment variable of the task, or pass on the value of wrun's own
    #[arg(long, value_name = "K[=V]", value_parser = OsStringValueParser::new().try_map(variable))]
    pub(crate) env: Vec<(String, String)>,

    /// Grant TCP connections to this address
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) allow_tcp: Vec<TcpGrant>,

    /// Grant HTTP and HTTPS requests to this host (`*.DOMAIN`: all hosts below it); without a
    /// port, those to 80 and 443. The runner sends them
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) allow_http: Vec<HttpGrant>,

    /// Trust these certificate authorities, in PEM, for HTTPS requests of tasks, beside those
    /// on Mozilla's list
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) http_ca: Option<PathBuf>,

    /// Let the task and its child tasks start FILE under this name; repeat for more names
    #[arg(long, value_name = "NAME=FILE", value_hint = ValueHint::FilePath, value_parser = OsStringValueParser::new().try_map(|text| TaskFile::try_from(&*text)))]
    pub(crate) task: Vec<TaskFile>,
}

impl Grants {
    /// The certificate authorities for HTTP requests; none given is an empty list.
    pub(super) fn http_authorities(&self) -> Result<Vec<u8>, Failure> {
        /// Larger than every list in use.
        const MAX: u64 = 16 << 20;

        let Some(path) = &self.http_ca else {
            return Ok(Vec::new());
        };
        let mut pem = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX + 1).read_to_end(&mut pem));
        let failed = |why: &dyn std::fmt::Display| {
            let message = format!("--http-ca {}: {why}", path.display());
            Failure::new(exit::USAGE, message)
        };
        match read {
            Err(error) => Err(failed(&error)),
            Ok(len) if len as u64 > MAX => Err(failed(&"the file is larger than 16 MiB")),
            // An empty list would be none.
            Ok(0) => Err(failed(&"expected certificates in PEM: the file is empty")),
            Ok(_) => Ok(pem),
        }
    }

    /// Before anything is loaded: two tasks cannot have the same name.
    pub(super) fn check(&self) -> Result<(), Failure> {
        for (at, TaskFile { name, .. }) in self.task.iter().enumerate() {
            if self.task[..at].iter().any(|other| other.name == *name) {
                let message =
                    format!("--task {name} is given twice: expected a name for each task");
                return Err(Failure::new(exit::USAGE, message));
            }
        }
        Ok(())
    }
}

/// A directory to grant.
fn dir(text: OsString) -> Result<DirGrant, TaskError> {
    DirGrant::try_from(&*text)
}

/// A variable of the task with its value, which may be that of this process.
fn variable(text: OsString) -> Result<(String, String), String> {
    // WASI's strings are UTF-8.
    let Some(text) = text.to_str() else {
        return Err("a task's variables must be UTF-8".into());
    };
    if text.is_empty() || text.starts_with('=') {
        return Err("expected NAME=VALUE or NAME: there is no name".into());
    }
    if let Some((key, value)) = text.split_once('=') {
        return Ok((key.to_owned(), value.to_owned()));
    }
    match std::env::var(text) {
        Ok(value) => Ok((text.to_owned(), value)),
        Err(VarError::NotPresent) => Err(
            "there is no such variable in wrun's environment: expected NAME=VALUE, or the name \
                 of one that is set"
                .into(),
        ),
        Err(VarError::NotUnicode(_)) => {
            Err("its value in this process is not UTF-8, as a task's variables must be".into())
        }
    }
}

/// A task that the task may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskFile {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
}

impl TryFrom<&OsStr> for TaskFile {
    type Error = String;

    fn try_from(text: &OsStr) -> Result<Self, String> {
        let written = |wrong: &str| Err(format!("{wrong}: it is written NAME=FILE"));
        let bytes = text.as_bytes();
        let Some(at) = bytes.iter().position(|byte| *byte == b'=') else {
            return written("there is no `=`");
        };
        let (name, file) = (&bytes[..at], &bytes[at + 1..]);
        if name.is_empty() {
            return written("there is no name before the `=`");
        }
        if file.is_empty() {
            return written("there is no file after the `=`");
        }
        if name.len() > TaskGrant::MAX_NAME {
            return Err(format!("a name has up to {} bytes", TaskGrant::MAX_NAME));
        }
        let Ok(name) = std::str::from_utf8(name) else {
            return Err("the name must be UTF-8; the file's need not".into());
        };
        Ok(TaskFile {
            name: name.to_owned(),
            file: OsStr::from_bytes(file).into(),
        })
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

    #[test]
    fn tasks_to_start() {
        let parse = |text: &[u8]| TaskFile::try_from(OsStr::from_bytes(text));
        let parsed = parse(b"a=b=c.wasm");
        let (name, file) = ("a".to_owned(), "b=c.wasm".into());
        assert_eq!(parsed, Ok(TaskFile { name, file }));
        for (bad, why) in [
            ("", "no `=`"),
            ("a", "no `=`"),
            ("=", "no name"),
            ("=b.wasm", "no name"),
            ("a=", "no file"),
            (&format!("{}=b.wasm", "x".repeat(257)), "256 bytes"),
        ] {
            let told = parse(bad.as_bytes()).expect_err(bad);
            assert!(told.contains(why), "{bad}: {told}");
        }
        assert!(parse(b"\xff=b.wasm").is_err());
        let file = parse(b"a=\xff.wasm").expect("a file's name").file;
        assert_eq!(file.as_os_str().as_bytes(), b"\xff.wasm");
    }
}
