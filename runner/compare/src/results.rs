//! The findings of a comparison, as data: the table, the JSON and the page are made from
//! this alone.

use crate::number::Unit;
use crate::summary::Summary;
use serde::{Deserialize, Serialize};
use wrun::{Jail, JailReport, Mode};

/// Everything that a comparison found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Results {
    /// The version of this form: [`Results::SCHEMA`].
    pub schema: u32,
    /// What was compared.
    pub subject: Subject,
    /// Where and when.
    pub environment: Environment,
    /// The command, to type again.
    pub command: String,
    /// Whether the task could be compared at all.
    pub verdict: Verdict,
    /// The cost of each mode, in the order of the table.
    pub cost: Vec<CostRow>,
    /// What each mode contains, in the order of the table.
    pub isolation: Vec<FaultRow>,
    /// Notes for the reader: that the machine was noisy, that it was interrupted, what was
    /// left out and why.
    pub notes: Vec<String>,
    /// Whether everything requested was measured.
    pub complete: bool,
}

impl Results {
    /// The version of the JSON form.
    pub const SCHEMA: u32 = 1;
}

/// The task that was compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Subject {
    /// Its name: the file's, without folders.
    pub name: String,
    /// Its shape, for people: [`Shape::describe`](wrun::Shape::describe).
    pub shape: String,
    /// Size of the task file, in bytes.
    pub bytes: u64,
    /// BLAKE3 of the task file, in hex.
    pub digest: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The request that it answered, such as `GET http://localhost/`; `None` if it is not an
    /// HTTP handler.
    #[serde(default)]
    pub request: Option<String>,
    /// Its status code in thread mode; `None` without a response.
    #[serde(default)]
    pub status: Option<u16>,
    /// Size of its input, in bytes.
    pub input_bytes: u64,
    /// Size of what it returned or wrote to stdout, in bytes.
    pub output_bytes: u64,
    /// Peak of its linear memory in thread mode, in bytes; `None` if it did not run.
    #[serde(default)]
    pub peak_memory_bytes: Option<u64>,
}

/// Where and when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Environment {
    /// When it began, in UTC, in the format of RFC 3339.
    pub date: String,
    /// Version of wrun.
    pub wrun: String,
    /// The commit that it was built from, if known.
    pub commit: Option<String>,
    /// Version of wasmtime.
    pub wasmtime: String,
    /// Kernel and its version.
    pub kernel: String,
    /// The machine's architecture, such as `x86_64`.
    pub architecture: String,
    /// The processor's name.
    pub cpu: String,
    /// Processors that may be used.
    pub processors: u32,
    /// Memory of the machine, in bytes.
    pub memory_bytes: u64,
    /// Runnable threads when it began: the load average of a minute.
    pub load: f64,
    /// Whether it ran as root.
    pub root: bool,
    /// Whether the walls around workers were required.
    pub jail_mode: Jail,
    /// The state of the walls; `None` if no worker reported it.
    pub jail: Option<JailReport>,
}

/// Whether a task could be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum Verdict {
    /// It completes in both modes, with the same output.
    Comparable,
    /// It cannot be loaded, fails, traps, exceeds a limit, or is refused something. It was
    /// not benchmarked.
    Unfit {
        /// Where that was observed; `None` if it is so in both.
        mode: Option<Mode>,
        /// The reason, for people.
        why: String,
        /// What may help, for people: the options to grant what it was refused.
        help: Option<String>,
    },
    /// Its outcome or output differs between the modes. It was not benchmarked.
    Differs {
        /// Its result in thread mode.
        thread: String,
        /// Its result in process mode.
        process: String,
    },
}

/// How a mode gives a task its sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Policy {
    /// Thread mode: a fresh instance on a thread of the runner.
    Instance,
    /// The same with code that checks nothing, preempted by a signal.
    Signal,
    /// Process mode: a fresh process that was forked ahead and waits.
    Spare,
    /// Process mode: a fresh process, forked when the task comes.
    Fork,
    /// Process mode: a fresh process, started as a program.
    Exec,
    /// Process mode: a fresh instance in a process that has run others.
    Reuse,
}

impl Policy {
    /// All of them, in the order of tables.
    pub const ALL: [Policy; 6] = [
        Policy::Instance,
        Policy::Signal,
        Policy::Spare,
        Policy::Fork,
        Policy::Exec,
        Policy::Reuse,
    ];

    /// The name in results, such as `spare`.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Instance => "instance",
            Policy::Signal => "signal",
            Policy::Spare => "spare",
            Policy::Fork => "fork",
            Policy::Exec => "exec",
            Policy::Reuse => "reuse",
        }
    }

    /// The mode that it belongs to.
    pub fn mode(self) -> Mode {
        match self {
            Policy::Instance | Policy::Signal => Mode::Thread,
            _ => Mode::Process,
        }
    }
}

/// What a row of cost measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Measure {
    /// From the file to code that can run, compiled; nanoseconds.
    Compile,
    /// The same with the code in the cache; nanoseconds.
    Load,
    /// From no runner to the first report, with the code in the cache; nanoseconds.
    Cold,
    /// From submission to report when everything is warm; nanoseconds.
    Warm,
    /// Tasks per second, with this many at the same time ([`CostRow::at`]).
    Throughput,
    /// From submission to the end of the answer, with this many at the same time
    /// ([`CostRow::at`]), for HTTP handlers; nanoseconds.
    Latency,
    /// A message to a task and back, by its size ([`CostRow::at`]); nanoseconds.
    RoundTrip,
    /// Bytes per second to a task, in messages of one size ([`CostRow::at`]).
    Bandwidth,
    /// Resident memory of a task that waits, a small one of wrun's own, all shared pages
    /// counted; bytes.
    Resident,
    /// The same with each shared page divided by the number of processes that share it; bytes.
    Proportional,
    /// Memory that no other process shares; bytes.
    Private,
    /// CPU time of the thread that runs the guest, while it does; nanoseconds.
    Compute,
    /// CPU time of a task, including the runner's; nanoseconds.
    Cpu,
    /// Page faults for a task.
    Faults,
    /// Context switches for a task.
    Switches,
    /// Descriptors of the runner for a task that waits.
    Descriptors,
}

impl Measure {
    /// All of them, in the order of tables.
    pub const ALL: [Measure; 16] = [
        Measure::Compile,
        Measure::Load,
        Measure::Cold,
        Measure::Warm,
        Measure::Throughput,
        Measure::Latency,
        Measure::RoundTrip,
        Measure::Bandwidth,
        Measure::Resident,
        Measure::Proportional,
        Measure::Private,
        Measure::Compute,
        Measure::Cpu,
        Measure::Faults,
        Measure::Switches,
        Measure::Descriptors,
    ];

    /// The name in results and for `--only`, such as `warm`.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Compile => "compile",
            Measure::Load => "load",
            Measure::Cold => "cold",
            Measure::Warm => "warm",
            Measure::Throughput => "throughput",
            Measure::Latency => "latency",
            Measure::RoundTrip => "round-trip",
            Measure::Bandwidth => "bandwidth",
            Measure::Resident => "resident",
            Measure::Proportional => "proportional",
            Measure::Private => "private",
            Measure::Compute => "compute",
            Measure::Cpu => "cpu",
            Measure::Faults => "faults",
            Measure::Switches => "switches",
            Measure::Descriptors => "descriptors",
        }
    }

    /// The unit of its numbers.
    pub fn unit(self) -> Unit {
        match self {
            Measure::Compile
            | Measure::Load
            | Measure::Cold
            | Measure::Warm
            | Measure::Latency
            | Measure::RoundTrip
            | Measure::Compute
            | Measure::Cpu => Unit::Nanoseconds,
            Measure::Throughput => Unit::PerSecond,
            Measure::Bandwidth => Unit::BytesPerSecond,
            Measure::Resident | Measure::Proportional | Measure::Private => Unit::Bytes,
            Measure::Faults | Measure::Switches | Measure::Descriptors => Unit::Count,
        }
    }
}

/// How the bytes of a message travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Transport {
    /// In the message.
    Copied,
    /// In a region that moves with the message and is mapped.
    Region,
}

/// One number of one mode, with its floor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CostRow {
    /// What is measured.
    pub measure: Measure,
    /// The mode.
    pub mode: Mode,
    /// The policy; `None` if it makes no difference.
    pub policy: Option<Policy>,
    /// Tasks at the same time, or bytes of a message; `None` for other measures.
    pub at: Option<u64>,
    /// How bytes travel; `None` for other measures.
    pub transport: Option<Transport>,
    /// The measured values, in units of [`Measure::unit`].
    pub value: Summary,
    /// The minimum that it can cost on this machine, if there is one.
    pub floor: Option<Floor>,
    /// Problems of the number, for people: that it is below its floor, that its rounds are
    /// far apart. Empty for a reliable number.
    pub doubts: Vec<String>,
    /// The command that measures this row again.
    pub command: String,
}

/// The minimum that something can cost, measured in turns with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Floor {
    /// Its description, for people: `bare fork, exit and wait`.
    pub name: String,
    /// The measured values, in the units of its row.
    pub value: Summary,
    /// How many times its floor a row costs, round by round: time over time, or rate
    /// over rate the other way around, so that 1 is the floor and more is worse. Without the
    /// rounds in which the floor was 0 and the row was not; empty where all are such rounds.
    pub ratio: Summary,
}

/// A fault that is injected into a mode while other tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Fault {
    /// The guest traps.
    Trap,
    /// The guest calls itself without end.
    StackOverflow,
    /// The guest computes without end.
    EndlessLoop,
    /// The guest allocates all the memory that it can get.
    MemoryBomb,
    /// The guest writes without end.
    OutputFlood,
    /// The guest holds a named lock and dies.
    LockHolder,
    /// The host's code under the guest reads an address that is not mapped.
    Segfault,
    /// The host's code under the guest aborts.
    Abort,
    /// The kernel ends what runs the guest, as it does when memory is short.
    OomKill,
    /// Code that escaped the sandbox reads a file of the machine.
    ReadFile,
    /// Code that escaped the sandbox writes a file.
    WriteFile,
    /// Code that escaped the sandbox connects to the network.
    Connect,
    /// Code that escaped the sandbox starts a process.
    Fork,
    /// Code that escaped the sandbox runs a program.
    Exec,
    /// Code that escaped the sandbox attaches to the runner as a debugger.
    Ptrace,
    /// Code that escaped the sandbox sends the runner a signal.
    Signal,
    /// Code that escaped the sandbox reads the runner's memory.
    HostMemory,
    /// Code that escaped the sandbox makes memory that is both writable and executable.
    ExecutableMemory,
    /// Code that escaped the sandbox reads the runner's environment.
    HostEnvironment,
}

/// The result of a fault in one mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FaultRow {
    /// The fault.
    pub fault: Fault,
    /// The mode.
    pub mode: Mode,
    /// The result.
    pub finding: Finding,
    /// The command that repeats it.
    pub command: String,
}

/// The result of a fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum Finding {
    /// It was injected, with these observations.
    Measured(Seen),
    /// It was not injected on this machine.
    NotMeasured {
        /// The reason, for people.
        why: String,
    },
}

/// The observations of a fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Seen {
    /// Whether it did no harm beyond its own task: the action was stopped, no sibling was
    /// lost and the host survived.
    pub held: bool,
    /// What stopped it, for people: `wasmtime's sandbox`, `the deadline`, `seccomp`,
    /// `nothing`.
    pub stopped_by: String,
    /// Details, for people: the outcome of the task, the errno of the call.
    pub detail: String,
    /// Tasks that ran beside it.
    pub siblings: u32,
    /// Those of them that did not complete with the right output.
    pub siblings_lost: u32,
    /// For an HTTP handler: the requests of clients beside it.
    #[serde(default)]
    pub requests: Option<Requests>,
    /// Whether the program that ran the tasks survived.
    pub host_alive: bool,
    /// Whether the host was a program started for this fault, as for faults that are
    /// expected to end it.
    pub sacrificed: bool,
    /// From the fault until its outcome was known, in nanoseconds; `None` if it never was,
    /// or there was nothing to detect.
    pub detected_ns: Option<u64>,
    /// From then until another task completed, in nanoseconds; if the host died, a task of
    /// a new one. `None` if none did.
    pub recovered_ns: Option<u64>,
}

/// Requests that clients made before, during and after a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Requests {
    /// Clients, each with one request at a time.
    pub clients: u32,
    /// Requests that were answered as without a fault.
    pub answered: u32,
    /// Requests that were answered otherwise, or not: with an error of the server, or a
    /// connection that is cut.
    pub lost: u32,
}
