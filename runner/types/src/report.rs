//! The report of a run: its outcome and its costs. Every executed task yields one; its JSON
//! form is in `docs/report.schema.json`.

use crate::config::{Jail, Mode, Start};
use crate::jail_report::JailReport;
use crate::limits::Limit;
use crate::outcome::Outcome;
use crate::report_form::{Form, ns, optional_ns};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// Everything known about one finished task.
///
/// With serde it has the form of `docs/report.schema.json`, which includes the version, and
/// can be read back without loss; unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
#[non_exhaustive]
pub struct Report {
    /// The task's id, unique within its runner, from 1.
    pub task_id: u64,
    /// The name the task was submitted under.
    pub name: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Where it ran.
    pub mode: Mode,
    /// How it ended.
    pub outcome: Outcome,
    /// The value of the limit that ended it: bytes, elements, instances, units of fuel, or
    /// nanoseconds. `None` if no limit did, or if it was another task's ([the
    /// deadline](Limit::Deadline) of a parent).
    pub limit_value: Option<u64>,
    /// What it cost.
    pub stats: Stats,
    /// What it requested and was not granted, each item once; at most 64.
    pub denied: Vec<Denial>,
    /// Whether the walls around its worker were required; `None` in thread mode.
    pub jail_mode: Option<Jail>,
    /// The state of those walls, as reported by the worker; without layers with
    /// [`Jail::Off`]. `None` in thread mode, and if no worker reported it.
    pub jail: Option<JailReport>,
    /// Facts about the run that are not failures: that a worker could not be forked,
    /// crashes that were followed by a new attempt, why one was not. At most 128.
    pub notes: Vec<String>,
    /// Captured stdout, also of a task that did not complete. Empty unless
    /// captured. For a task that exports `run` this is what it returned.
    pub stdout: Bytes,
    /// Captured stderr; empty unless captured. For a task whose worker died, the part that
    /// had left the worker by then.
    pub stderr: Bytes,
}

impl Report {
    /// The report of a first attempt, of which nothing else is known.
    #[doc(hidden)]
    pub fn new(task_id: u64, name: &str, mode: Mode, outcome: Outcome) -> Self {
        Report {
            task_id,
            name: name.to_owned(),
            attempt: 1,
            mode,
            outcome,
            limit_value: None,
            stats: Stats::default(),
            denied: Vec::new(),
            jail_mode: None,
            jail: None,
            notes: Vec::new(),
            stdout: Bytes::new(),
            stderr: Bytes::new(),
        }
    }
}

/// What a run cost. Durations are wall-clock unless named otherwise.
///
/// With serde, times are in nanoseconds, and their names end in `_ns`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Stats {
    /// From submission until the task acquired a permit to run.
    #[serde(rename = "queue_ns", with = "ns")]
    pub queue: Duration,
    /// From there until the guest's first instruction: a fresh sandbox, and in
    /// process mode the worker and its handshake.
    #[serde(rename = "start_ns", with = "ns")]
    pub start: Duration,
    /// The guest, until its outcome.
    #[serde(rename = "run_ns", with = "ns")]
    pub run: Duration,
    /// From submission to outcome.
    #[serde(rename = "total_ns", with = "ns")]
    pub total: Duration,
    /// The time that compiling the artifact took, before or while the task waited, if this
    /// runner compiled it; `None` if the code came from the cache, or was compiled
    /// elsewhere. It is the same in the report of each task of the artifact, and is not
    /// part of the other times if the artifact was compiled before the task was submitted.
    #[serde(rename = "compile_ns", with = "optional_ns")]
    pub compile: Option<Duration>,
    /// CPU time spent on the guest and its host calls, without reading the input of `run`, to
    /// about 100 µs; `None` if unknown (a worker that died).
    #[serde(rename = "cpu_ns", with = "optional_ns")]
    pub cpu: Option<Duration>,
    /// Peak of the guest's linear memory over all memories, including its regions, in
    /// bytes; `None` if unknown.
    pub peak_memory_bytes: Option<u64>,
    /// Fuel consumed; `None` unless the task ran with a fuel limit.
    pub fuel: Option<u64>,
    /// How often growth of a memory or a table was refused. A guest can continue after
    /// that: a refused `memory.grow` returns -1.
    pub memory_growth_refused: u64,
    /// The worker process; `None` in thread mode.
    pub worker_pid: Option<u32>,
    /// What the worker used, as counted by the kernel, once it has ended; `None` in thread
    /// mode, if another part of the program reaped the worker, and if the worker continues
    /// for other tasks.
    pub usage: Option<Usage>,
    /// How the worker was started; `None` in thread mode, and if none was.
    pub start_method: Option<Start>,
    /// Child tasks that it started itself; tasks started by those are not counted.
    pub children: u64,
}

/// What a worker process used, as counted by the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// CPU time in user mode.
    #[serde(rename = "user_cpu_ns", with = "ns")]
    pub user_cpu: Duration,
    /// CPU time in the kernel.
    #[serde(rename = "system_cpu_ns", with = "ns")]
    pub system_cpu: Duration,
    /// Peak of the resident memory of the whole process, including code and runtime, in
    /// bytes.
    pub peak_rss_bytes: u64,
    /// Page faults without a read from disk.
    pub minor_faults: u64,
    /// Page faults that read from disk.
    pub major_faults: u64,
    /// Context switches because it waited.
    pub voluntary_switches: u64,
    /// Context switches because its time was up.
    pub involuntary_switches: u64,
}

impl Usage {
    /// The sum of both CPU times.
    #[doc(hidden)]
    pub fn and(self, other: Usage) -> Usage {
        Usage {
            user_cpu: self.user_cpu + other.user_cpu,
            system_cpu: self.system_cpu + other.system_cpu,
            peak_rss_bytes: self.peak_rss_bytes.max(other.peak_rss_bytes),
            minor_faults: self.minor_faults + other.minor_faults,
            major_faults: self.major_faults + other.major_faults,
            voluntary_switches: self.voluntary_switches + other.voluntary_switches,
            involuntary_switches: self.involuntary_switches + other.involuntary_switches,
        }
    }

    /// What was used since `before`. The peak is that of the whole process.
    #[doc(hidden)]
    pub fn since(&self, before: &Usage) -> Usage {
        Usage {
            user_cpu: self.user_cpu.saturating_sub(before.user_cpu),
            system_cpu: self.system_cpu.saturating_sub(before.system_cpu),
            peak_rss_bytes: self.peak_rss_bytes,
            minor_faults: self.minor_faults.saturating_sub(before.minor_faults),
            major_faults: self.major_faults.saturating_sub(before.major_faults),
            voluntary_switches: self
                .voluntary_switches
                .saturating_sub(before.voluntary_switches),
            involuntary_switches: self
                .involuntary_switches
                .saturating_sub(before.involuntary_switches),
        }
    }
}

/// Something that a task requested and was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Denial {
    /// The kind of access.
    pub access: Access,
    /// The target: a path as the guest named it, an address, a host name. At most 256
    /// bytes, and written by the guest: do not trust it.
    pub target: String,
    /// How often it was denied.
    pub count: u64,
}

impl Denial {
    /// A denial with a count of one.
    pub fn new(access: Access, target: impl Into<String>) -> Self {
        Denial {
            access,
            target: target.into(),
            count: 1,
        }
    }
}

/// Kinds of access that grants decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Access {
    /// Looked for granted directories, but the task has none (`Task::dir`).
    Directories,
    /// Opening or listing a path outside what is granted.
    Path,
    /// Changing something under a read-only grant.
    Write,
    /// Connecting a TCP socket (`Task::allow_tcp`).
    TcpConnect,
    /// Listening on a TCP socket; never granted.
    TcpListen,
    /// Any use of UDP; never granted.
    Udp,
    /// Resolving a host name; `Task::allow_tcp` with that name grants
    /// it.
    NameLookup,
    /// Sending an HTTP request (`Task::allow_http`).
    HttpRequest,
    /// Starting a task (`Task::task`).
    Task,
    /// A path inside what is granted, but its permissions forbid it to the user that the
    /// task runs as; no grant changes that.
    Permission,
    /// Opening something other than a file or a directory, such as a pipe or a device;
    /// never granted.
    SpecialFile,
}

impl Access {
    /// The name in reports, such as `tcp-connect`.
    pub fn name(self) -> &'static str {
        match self {
            Access::Directories => "directories",
            Access::Path => "path",
            Access::Write => "write",
            Access::TcpConnect => "tcp-connect",
            Access::TcpListen => "tcp-listen",
            Access::Udp => "udp",
            Access::NameLookup => "name-lookup",
            Access::HttpRequest => "http-request",
            Access::Task => "task",
            Access::Permission => "permission",
            Access::SpecialFile => "special-file",
        }
    }
}

/// A duration in nanoseconds.
#[doc(hidden)]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Report {
    /// The report of a task that did not run, because loading it exceeded a limit
    /// ([`Error::limit`](crate::error::Error::limit)), after this time.
    pub fn not_loaded(name: impl Into<String>, mode: Mode, limit: Limit, took: Duration) -> Self {
        Report {
            task_id: 1,
            name: name.into(),
            attempt: 1,
            mode,
            outcome: Outcome::LimitExceeded(limit),
            limit_value: None,
            stats: Stats {
                start: took,
                total: took,
                ..Stats::default()
            },
            denied: Vec::new(),
            jail_mode: None,
            jail: None,
            notes: Vec::new(),
            stdout: Bytes::new(),
            stderr: Bytes::new(),
        }
    }

    /// The report as JSON, as serde writes it.
    pub fn to_json(&self) -> Value {
        // It has no map with keys that are not strings, and no type that can fail.
        serde_json::to_value(self).unwrap_or_default()
    }
}
