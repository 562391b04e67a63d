//! The command lines of `wrun worker` and `wrun fleet`.

use super::grant_args::TaskFiles;
use super::limit_args::CompilingArgs;
use super::log::LogArgs;
use super::nats_args::NatsArgs;
use super::process::{PoolArgs, WallArgs};
use super::values::{duration, grace, kept, one_of, size, some_size, whole};
use clap::{Args, Subcommand, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use wrun::{Limits, Mode, Preemption, Task};
use wrun_fleet::{TaskId, Token, Waste, Weights};

pub(super) const WORKER_EXAMPLES: &str = "\
Examples:
  wrun worker --nats nats://queue:4222                    run tasks of a fleet
  wrun worker --nats tls://queue:4222 --creds worker.creds --config worker.toml
  wrun worker --context production --mode thread --jobs 16

A task can use only what the file of --config grants under a name that the task asks for:

  [grants.photos]
  dirs = ['/srv/photos::/in:ro']
  http = ['api.example.org']
  tenants = ['studio']

  [modules]
  resize = 'resize.wasm'

  [limits]
  timeout-seconds = 600

SIGTERM or Ctrl-C drains: no new tasks, and those that do not end within --grace are given back
to the queue; a second one gives them back at once.

Exit status: 0 drained, and all tasks had ended; 130, 143 drained, and tasks were given back;
2 usage, or a wrong --config; 125 wrun failed, or NATS refused the connection.";

pub(super) const FLEET_EXAMPLES: &str = "\
Examples:
  wrun fleet --nats nats://queue:4222 submit --wait --input file hash.wasm
  wrun fleet submit --class high --tenant studio --grant photos resize.wasm -- 320
  wrun fleet result ID                          the result of a task, as its exit code says
  wrun fleet cancel ID                          also while it runs
  wrun fleet watch                              queue and workers, once a second
  wrun fleet bury                               tasks that were buried, and why
  wrun fleet requeue ID
  wrun fleet setup --keep 2days --replicas 3    settings of the queue on the server

NATS_URL is the default of --nats.

Exit status: 0 done; 1 there is no result yet, or the task was not cancelled because it has one;
2 usage; 125 wrun failed, or NATS refused the connection; 127 no such task or file;
submit --wait and result have the exit codes of wrun run.";

/// `wrun worker`.
#[derive(Args, Debug)]
pub(crate) struct WorkerArgs {
    /// Connect to this server: nats://HOST:PORT, or tls://HOST:PORT [default: NATS_URL]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url)]
    pub(crate) nats: Option<String>,

    /// Read grants, modules and limits from FILE, in TOML [default: nothing is granted]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,

    /// Where tasks run: `process` or `thread`
    #[arg(long, value_name = "MODE", default_value = "process", value_parser = one_of::<Mode>(&["process", "thread"]))]
    pub(crate) mode: Mode,

    /// How a task that computes is interrupted in thread mode: `epoch` (by checks in its code,
    /// which slow it down) or `signal` (by SIGURG; a task that computes gets a thread).
    /// Process mode needs no checks
    #[arg(long, value_name = "HOW", default_value = "epoch", value_parser = one_of::<Preemption>(&["epoch", "signal"]))]
    pub(crate) preempt: Preemption,

    /// Run N tasks at the same time [default: the processors that wrun may use]
    #[arg(long, short, value_name = "N", value_parser = whole::<u32>(1..=4096))]
    pub(crate) jobs: Option<u32>,

    /// The name of this worker in results and lists [default: the host and the process]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<TaskId>,

    /// How long tasks may take to end after SIGTERM, before they are given back to the queue
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = grace)]
    pub(crate) grace: Duration,

    /// After this time without a sign of life from the worker, another one runs its tasks. The
    /// worker that starts last decides for all
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) ack_wait: Duration,

    /// Maximum of tasks in flight of each class and tenant, on all workers together. The worker
    /// that starts last decides for all
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = whole::<u32>(1..=1_000_000))]
    pub(crate) max_in_flight: u32,

    /// How many tasks of each class are taken in turn, if all have tasks; of a class that is not
    /// named, 4
    #[arg(long, value_name = "CLASS=N,...", default_value = "high=16,normal=4,low=1", value_parser = str::parse::<Weights>)]
    pub(crate) weights: Weights,

    /// Maximum of inputs on this disk at the same time, in the directory for temporary files
    #[arg(long, value_name = "SIZE", default_value = "32GiB", value_parser = some_size)]
    pub(crate) max_spool: u64,

    /// Maximum of a module
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = some_size)]
    pub(crate) max_module: u64,

    /// Answer /healthz, /readyz and /metrics on this address, to anyone who can reach it
    #[arg(long, value_name = "HOST:PORT", visible_alias = "metrics", value_parser = super::serve::address)]
    pub(crate) admin: Option<String>,

    /// Print only errors to stderr
    #[arg(long, short)]
    pub(crate) quiet: bool,

    #[command(flatten)]
    pub(crate) connection: NatsArgs,

    #[command(flatten)]
    pub(crate) compiling: CompilingArgs,

    /// Do not read or write the cache of compiled code
    #[arg(long)]
    pub(crate) no_cache: bool,

    #[command(flatten)]
    pub(crate) log: LogArgs,

    #[command(flatten)]
    pub(crate) walls: WallArgs,

    #[command(flatten)]
    pub(crate) pool: PoolArgs,
}

/// `wrun fleet`.
#[derive(Args, Debug)]
pub(crate) struct FleetArgs {
    /// Connect to this server: nats://HOST:PORT, or tls://HOST:PORT [default: NATS_URL]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url, global = true)]
    pub(crate) nats: Option<String>,

    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) connection: NatsArgs,

    #[command(subcommand)]
    pub(crate) command: FleetCommand,
}

/// What to do with a fleet.
#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// Queue a task, and print its id
    Submit(Box<SubmitArgs>),
    /// Print how many tasks are queued and in flight, of whom, and the workers
    Status,
    /// Print the same once a second, until Ctrl-C
    Watch,
    /// Print the output of a task, or with --json its result
    Result {
        /// The task
        id: TaskId,
        /// Wait until it has one
        #[arg(long)]
        wait: bool,
    },
    /// Cancel a task, queued or running
    Cancel {
        /// The task
        id: TaskId,
    },
    /// Print the workers: who, how loaded, version, jail
    Workers,
    /// Print the tasks that were buried, and why; with ID, bury that task
    Bury {
        /// The task
        id: Option<TaskId>,
        /// Why, for people
        #[arg(long, value_name = "TEXT", default_value = "buried by an operator")]
        why: String,
    },
    /// Queue a buried task again
    Requeue {
        /// The task
        #[arg(required_unless_present = "all")]
        id: Option<TaskId>,
        /// All that are buried
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
    /// Make streams and buckets that are missing, change settings, and print those that all have
    Setup(SetupArgs),
    /// Take away queued tasks, buried ones, results with inputs and outputs, or modules, for good
    Purge {
        /// What
        #[arg(value_parser = one_of::<Waste>(&["queue", "dead", "results", "modules"]))]
        what: Waste,
    },
}

/// `wrun fleet setup`.
#[derive(Args, Debug)]
pub(crate) struct SetupArgs {
    /// Maximum of queued tasks of a class and tenant; then new ones wait to be queued [default:
    /// 1000000, or as it is]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..=1_000_000_000_000))]
    pub(crate) max_queued: Option<u64>,

    /// How long results, buried tasks, inputs and outputs are kept [default: 7 days, or as it is]
    #[arg(long, value_name = "TIME", value_parser = kept)]
    pub(crate) keep: Option<Duration>,

    /// How many servers of a cluster have each message, 1 to 5 [default: 1, or as it is]
    #[arg(long, value_name = "N", value_parser = whole::<usize>(1..=5))]
    pub(crate) replicas: Option<usize>,
}

/// `wrun fleet submit`.
#[derive(Args, Debug)]
pub(crate) struct SubmitArgs {
    /// The class
    #[arg(long, value_name = "CLASS", default_value = "normal")]
    pub(crate) class: Token,

    /// The tenant
    #[arg(long, value_name = "TENANT", default_value = "default")]
    pub(crate) tenant: Token,

    /// The id of the task; the same id is the same task [default: a random one]
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<TaskId>,

    /// Read the input from FILE; `-` is stdin [default: no input]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) input: Option<PathBuf>,

    /// Ask for this grant of the worker's operator
    #[arg(long, value_name = "NAME")]
    pub(crate) grant: Vec<String>,

    #[command(flatten)]
    pub(crate) children: TaskFiles,

    /// TASK is the name of a module that the workers' operator has defined, and no file
    #[arg(long)]
    pub(crate) named: bool,

    /// End the task after this time
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,

    /// The task must have ended this long from now; if it has not begun by then, it does not run
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,

    /// End the task after N units of fuel
    #[arg(long, value_name = "N", value_parser = whole::<u64>(1..=u64::MAX))]
    pub(crate) fuel: Option<u64>,

    /// Limit linear memory [default: 512MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_memory: Option<u64>,

    /// Limit the output, stdout and stderr each [default: 16MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) max_output: Option<u64>,

    /// Limit the child tasks that run at the same time: 0 to 4096 [default: 64]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(0..=Limits::MAX_TASKS.into()))]
    pub(crate) max_tasks: Option<u32>,

    /// Limit the levels of child tasks below the task: 0 to 64 [default: 8]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(0..=Limits::MAX_DEPTH.into()))]
    pub(crate) max_depth: Option<u32>,

    /// Run it up to N more times if its process died
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole::<u32>(0..=Task::MAX_RETRIES.into()))]
    pub(crate) retries: u32,

    /// Bury it after N workers were lost while they ran it
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole::<u32>(1..=100))]
    pub(crate) max_lost: u32,

    /// Wait for the result, and print the output
    #[arg(long)]
    pub(crate) wait: bool,

    /// The task: a component, a core module or WAT text
    #[arg(id = "TASK", value_name = "TASK", value_hint = ValueHint::FilePath)]
    pub(crate) task: PathBuf,

    /// Arguments of the task, after `--`
    #[arg(value_name = "ARGS", last = true)]
    pub(crate) args: Vec<OsString>,
}
