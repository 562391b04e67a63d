//! The command line of `wrun map`.

use super::grant_args::Grants;
use super::limit_args::CompilingArgs;
use super::log::LogArgs;
use super::nats_args::NatsArgs;
use super::process::{PoolArgs, WallArgs};
use super::values::{duration, one_of, size, some_size, whole};
use clap::{Args, ValueEnum, ValueHint};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wrun::{Limits, Mode, Preemption, Task};
use wrun_fleet::Token;
use wrun_map::{FailPolicy, Reader};

pub(super) const MAP_EXAMPLES: &str = "\
Examples:
  wrun map count.wasm texts/                    each file below a directory, as JSON lines
  wrun map --lines words.txt hash.wasm          each line of a file
  wrun map --output-dir small resize.wasm 'photos/*.png' -- 320
  wrun map --jsonl rows.jsonl --field text tag.wasm
  wrun map --split 1MiB --format bytes count.wasm big.txt
  wrun map --journal j --resume --output out.jsonl --lines words.txt hash.wasm
  wrun map --status j                           how far it is
  wrun map --on nats://queue:4222 --lines words.txt hash.wasm    on the workers of a fleet

Each input is a task of its own, with the same limits and grants, and becomes its input: the
argument of `run`, or stdin. If an argument has a place for it, it becomes that instead: {} the
input or path, {.} without its extension, {/} its last part, {/.} that without extension, {//} its
directory, {#} its number from 1.

Ctrl-C or SIGTERM lets the tasks that run finish; a second one ends them.

Exit status: 0 all inputs completed; 1 some did not; 3 ended early because of --fail;
2 usage, or the journal was made for something else; 125 wrun failed (a full disk, a damaged
journal); 126 not a task; 127 no such file; 130, 143 interrupted.";

const FLEET: &str = "Fleet";
const INPUTS: &str = "Inputs";
const OUTPUTS: &str = "Outputs";
const JOURNAL: &str = "Journal";

/// What the output has for each input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// A line of JSON
    Records,
    /// The output of the task, if it completed
    Bytes,
}

/// How a task gets its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InputAs {
    /// As its input, or its stdin
    Input,
    /// In its arguments alone
    Arguments,
}

/// `wrun map`.
#[derive(Args, Debug)]
pub(crate) struct MapArgs {
    /// Where tasks run: `process` or `thread`
    #[arg(long, value_name = "MODE", default_value = "process", value_parser = one_of::<Mode>(&["process", "thread"]))]
    pub(crate) mode: Mode,

    /// How a task that computes is interrupted in thread mode: `epoch` (by checks in its code,
    /// which slow it down) or `signal` (by SIGURG; a task that computes gets a thread).
    /// Process mode needs no checks
    #[arg(long, value_name = "HOW", default_value = "epoch", value_parser = one_of::<Preemption>(&["epoch", "signal"]))]
    pub(crate) preempt: Preemption,

    /// Run tasks on the workers of this fleet: nats://HOST:PORT, or tls://HOST:PORT
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url, help_heading = FLEET, conflicts_with_all = ["dir", "env", "allow_tcp", "allow_http", "max_total_memory"])]
    pub(crate) on: Option<String>,

    /// The class of the tasks
    #[arg(long, value_name = "CLASS", default_value = "normal", requires = "on", help_heading = FLEET)]
    pub(crate) class: Token,

    /// The tenant of the tasks
    #[arg(long, value_name = "TENANT", default_value = "default", requires = "on", help_heading = FLEET)]
    pub(crate) tenant: Token,

    /// Ask for this grant of the operators of the workers
    #[arg(long, value_name = "NAME", requires = "on", help_heading = FLEET)]
    pub(crate) grant: Vec<String>,

    #[command(flatten)]
    pub(crate) connection: NatsArgs,

    /// Run N tasks at the same time [default: the processors that wrun may use; with --on, 1024
    /// that are queued or run]
    #[arg(long, short, value_name = "N", value_parser = whole::<u32>(1..=4096))]
    pub(crate) jobs: Option<u32>,

    /// Run only as many tasks at the same time as fit into this, each counted with its whole
    /// --max-memory
    #[arg(long, value_name = "SIZE", value_parser = some_size)]
    pub(crate) max_total_memory: Option<u64>,

    /// Run an input up to N more times if its process died, and for no other reason
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<u32>(0..=Task::MAX_RETRIES.into()))]
    pub(crate) retries: u32,

    /// End the batch when inputs fail: `fast` at the first, ending what runs; `never`; more than
    /// N; or more than N% of those that ended, once 20 have
    #[arg(long, value_name = "WHEN", default_value = "never", value_parser = str::parse::<FailPolicy>)]
    pub(crate) fail: FailPolicy,

    /// Print what would run, one line of JSON for each input, and run nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Read paths of inputs from FILE, one in each line; `-` is stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = INPUTS)]
    pub(crate) files_from: Option<PathBuf>,

    /// Lines of --files-from and --lines end with a NUL byte
    #[arg(short = '0', long, help_heading = INPUTS)]
    pub(crate) null: bool,

    /// Each line of FILE is an input, without its end; `-` is stdin. Repeat for more files
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = INPUTS, conflicts_with_all = ["jsonl", "csv", "split", "files_from", "INPUTS"])]
    pub(crate) lines: Vec<PathBuf>,

    /// Each line of FILE is an input in JSON; `-` is stdin. With --field, that field is the input,
    /// and the record repeats the rest as `row`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = INPUTS, conflicts_with_all = ["csv", "split", "files_from", "INPUTS"])]
    pub(crate) jsonl: Vec<PathBuf>,

    /// Each row of FILE, in CSV with a row of names first, is an input: as a JSON object, or with
    /// --field that column; `-` is stdin
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = INPUTS, conflicts_with_all = ["split", "files_from", "INPUTS"])]
    pub(crate) csv: Vec<PathBuf>,

    /// The field of --jsonl (a key, or a JSON pointer such as /a/b), or the column of --csv
    #[arg(long, value_name = "NAME", help_heading = INPUTS)]
    pub(crate) field: Option<String>,

    /// What separates the fields of --csv
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = delimiter, help_heading = INPUTS)]
    pub(crate) delimiter: u8,

    /// Split each INPUT into pieces of this size that end at line ends; only a longer line makes a
    /// larger piece
    #[arg(long, value_name = "SIZE", value_parser = some_size, help_heading = INPUTS, conflicts_with = "files_from")]
    pub(crate) split: Option<u64>,

    /// Limit a line, a row or a piece; a longer one has a record that says so
    #[arg(long, value_name = "SIZE", default_value_t = Reader::MAX_RECORD, hide_default_value = true, value_parser = some_size, help_heading = INPUTS)]
    pub(crate) max_record: u64,

    /// How a task gets its input [default: arguments if one of them has a place for it]
    #[arg(long, value_name = "HOW", value_enum, help_heading = INPUTS)]
    pub(crate) input_as: Option<InputAs>,

    /// Write to FILE, as inputs end; `-` is stdout [default: stdout]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUTS)]
    pub(crate) output: Option<PathBuf>,

    /// Write the output of each task to a file of its own in DIR. Records are then written only
    /// with --output or --format
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = OUTPUTS)]
    pub(crate) output_dir: Option<PathBuf>,

    /// The names of the files in --output-dir [default: {} for files, which keeps their
    /// directories, and {#} for others]
    #[arg(long, value_name = "TEMPLATE", requires = "output_dir", help_heading = OUTPUTS)]
    pub(crate) output_name: Option<String>,

    /// What the output has for each input [default: records]
    #[arg(long, value_name = "FORMAT", value_enum, help_heading = OUTPUTS)]
    pub(crate) format: Option<OutputFormat>,

    /// Leave out of records what differs from run to run: times and attempts
    #[arg(long, help_heading = OUTPUTS)]
    pub(crate) no_stats: bool,

    /// Write results as tasks end, and not in the order of the inputs
    #[arg(long, help_heading = OUTPUTS)]
    pub(crate) unordered: bool,

    /// Keep in FILE what is done, to go on after a crash; requires --output or --output-dir
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = JOURNAL)]
    pub(crate) journal: Option<PathBuf>,

    /// Go on where the journal ends, or begin if there is none
    #[arg(long, requires = "journal", help_heading = JOURNAL)]
    pub(crate) resume: bool,

    /// Go on although the task, its arguments, grants or limits, or the inputs have changed
    #[arg(long, requires = "resume", help_heading = JOURNAL)]
    pub(crate) force: bool,

    /// Have results on the disk before the journal, and the journal at each commit: nothing is lost
    /// with the power, either
    #[arg(long, requires = "journal", help_heading = JOURNAL)]
    pub(crate) sync: bool,

    /// Print how far the batch with this journal is, also while it runs
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = JOURNAL, conflicts_with_all = ["journal", "TASK"])]
    pub(crate) status: Option<PathBuf>,

    /// Print outcomes by kind, times, and the slowest and largest inputs to stderr at the end
    #[arg(long)]
    pub(crate) summary: bool,

    /// Write what ran when to FILE, for Perfetto (ui.perfetto.dev) or chrome://tracing
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) trace: Option<PathBuf>,

    /// Print only errors to stderr: no progress, no failed inputs
    #[arg(long, short, conflicts_with = "summary")]
    pub(crate) quiet: bool,

    /// Do not show progress on stderr
    #[arg(long)]
    pub(crate) no_progress: bool,

    /// End a task after this time: 500ms, 5s, 2min; a number alone is seconds
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// End a task after N units of fuel, about one per instruction
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..=u64::MAX))]
    pub(crate) fuel: Option<u64>,

    /// Limit linear memory, the sum of all memories of a task; a single memory has at most 4GiB, or
    /// 64GiB with 64-bit addresses [default: 512MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_memory: Option<u64>,

    /// Limit the output of a task, stdout and stderr each [default: 16MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_output: Option<u64>,

    /// Limit the input of a task [default: unlimited for a command, 64MiB for a task that exports
    /// `run`]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_input: Option<u64>,

    /// Limit the child tasks that run at the same time, of each task: 0 to 4096 [default: 64]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(0..=Limits::MAX_TASKS.into()))]
    pub(crate) max_tasks: Option<u32>,

    /// Limit the levels of child tasks below a task: 0 to 64 [default: 8]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(0..=Limits::MAX_DEPTH.into()))]
    pub(crate) max_depth: Option<u32>,

    #[command(flatten)]
    pub(crate) grants: Grants,

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
    pub(crate) walls: WallArgs,

    #[command(flatten)]
    pub(crate) pool: PoolArgs,

    /// The task: a component, a core module, WAT text or an artifact
    #[arg(id = "TASK", value_name = "TASK", value_hint = ValueHint::FilePath, required_unless_present = "status")]
    pub(crate) task: Option<PathBuf>,

    /// Inputs: files, directories with all below them in sorted order, patterns such as '*.png'
    #[arg(id = "INPUTS", value_name = "INPUTS", value_hint = ValueHint::AnyPath)]
    pub(crate) inputs: Vec<PathBuf>,

    /// Arguments of the task, after `--`
    #[arg(value_name = "ARGS", last = true)]
    pub(crate) args: Vec<OsString>,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] if *byte != b'"' && *byte != b'\n' && *byte != b'\r' => Ok(*byte),
        b"\\t" => Ok(b'\t'),
        _ => Err("expected one ASCII character, or \\t for a tab".into()),
    }
}

impl MapArgs {
    /// The file for the stream; `None` for stdout.
    pub(super) fn output(&self) -> Option<&Path> {
        self.output
            .as_deref()
            .filter(|path| *path != Path::new("-"))
    }

    /// Files with inputs, or with their names.
    pub(super) fn sources(&self) -> impl Iterator<Item = &Path> {
        let lists = [&self.lines, &self.jsonl, &self.csv].into_iter().flatten();
        lists
            .chain(&self.files_from)
            .chain(&self.inputs)
            .map(PathBuf::as_path)
    }

    /// The limits of each task.
    pub(super) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.timeout = self.timeout;
        limits.fuel = self.fuel;
        limits.max_memory = self.max_memory.unwrap_or(limits.max_memory);
        limits.max_input = self.max_input;
        limits.max_output = Some(self.max_output.unwrap_or(Limits::CAPTURE_DEFAULT));
        limits.max_tasks = self.max_tasks.unwrap_or(limits.max_tasks);
        limits.max_depth = self.max_depth.unwrap_or(limits.max_depth);
        let total = limits.max_total_memory.max(limits.max_memory);
        limits.max_total_memory = self.max_total_memory.map_or(total, |most| most.min(total));
        limits
    }
}
