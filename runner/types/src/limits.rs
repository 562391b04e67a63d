//! The limits of a task. Plain data.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The limits of one task, the same in both modes.
///
/// With serde, a missing limit has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Limits {
    /// Wall-clock time from submission, including the time in the queue; it also ends a
    /// task that is blocked in a host call. Default: no limit.
    pub timeout: Option<Duration>,
    /// Units of computation, about one per WebAssembly instruction: a limit that does not
    /// depend on the machine. Metered code is compiled separately and is up to about two
    /// times slower. Default: no limit.
    pub fuel: Option<u64>,
    /// Linear memory over all memories of the task, including the regions that were made
    /// for it and still exist, in this task or another, in bytes. Growth beyond it is
    /// refused; a task that then traps has exceeded its memory limit. One memory has at
    /// most 4 GiB, one with 64-bit addresses 64 GiB, whatever this limit is. Default: 512
    /// MiB.
    pub max_memory: u64,
    /// Captured output in bytes, for stdout and for stderr each. `Some` also limits
    /// streamed output. Default: `None`, which is 16 MiB if output is captured and no limit
    /// if it is streamed.
    pub max_output: Option<u64>,
    /// Input, in bytes. Default: `None`, which is 64 MiB for a task that exports
    /// `run` and no limit for a command, which streams.
    pub max_input: Option<u64>,
    /// Elements over all tables of the task. Default and maximum:
    /// [`Limits::MAX_TABLE_ELEMENTS`].
    pub max_table_elements: u64,
    /// Core instances within one component; this is also the limit for memories and for
    /// tables. Default: 1,000.
    pub max_instances: u32,
    /// Child tasks below a submitted one, on all levels together, from their start until
    /// they have ended and their handles are dropped. Default: 64; at most
    /// [`Limits::MAX_TASKS`]. It applies to a submitted task, not in a `TaskGrant`.
    pub max_tasks: u32,
    /// Levels of child tasks below a submitted one. Default: 8; at most
    /// [`Limits::MAX_DEPTH`]. It applies where [`Limits::max_tasks`] does.
    pub max_depth: u32,
    /// The sum of `max_memory` over a submitted task and all that run below it, in bytes.
    /// For a child that has ended and whose handle is held, its output counts, and so do
    /// regions that were made for it until they are freed. Default: 8 GiB, which is 15
    /// children of the default memory. At least `max_memory`, which is the task's own part.
    /// It applies where [`Limits::max_tasks`] does.
    pub max_total_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            timeout: None,
            fuel: None,
            max_memory: 512 << 20,
            max_output: None,
            max_input: None,
            max_table_elements: Limits::MAX_TABLE_ELEMENTS,
            max_instances: 1_000,
            max_tasks: 64,
            max_depth: 8,
            max_total_memory: 8 << 30,
        }
    }
}

impl Limits {
    /// The value of a limit that does not depend on the kind of task: nanoseconds, bytes,
    /// elements, instances or units of fuel.
    #[doc(hidden)]
    pub fn plain(&self, limit: Limit) -> Option<u64> {
        match limit {
            Limit::Deadline => {
                let timeout = self.timeout?;
                Some(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
            }
            Limit::Fuel => self.fuel,
            Limit::Memory => Some(self.max_memory),
            Limit::Instances => Some(self.max_instances.into()),
            Limit::TableElements => Some(self.max_table_elements),
            Limit::Output => self.max_output,
            Limit::Input => self.max_input,
            Limit::HostCall | Limit::CompileTime | Limit::CompileMemory => None,
        }
    }

    /// Maximum of table elements: 1,000,000. A pool of sandboxes reserves address space for
    /// each.
    pub const MAX_TABLE_ELEMENTS: u64 = 1_000_000;
    /// Maximum of bytes that one call passes to the host: 128 MiB. The task's own limits
    /// raise it: what `run` returns may be as large as [`Limits::max_output`], and a region
    /// as large as [`Limits::max_memory`].
    pub const HOST_CALL: u64 = 128 << 20;
    /// Maximum of [`Limits::max_tasks`]: 4,096.
    pub const MAX_TASKS: u32 = 4_096;
    /// Maximum of [`Limits::max_depth`]: 64.
    pub const MAX_DEPTH: u32 = 64;
    /// Captured output by default: 16 MiB.
    pub const CAPTURE_DEFAULT: u64 = 16 << 20;
    /// Input of a task that exports `run` by default: 64 MiB.
    pub const INPUT_DEFAULT: u64 = 64 << 20;

    /// Sets [`Limits::timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets [`Limits::fuel`].
    pub fn fuel(mut self, fuel: u64) -> Self {
        self.fuel = Some(fuel);
        self
    }

    /// Sets [`Limits::max_memory`].
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// Sets [`Limits::max_output`].
    pub fn max_output(mut self, bytes: u64) -> Self {
        self.max_output = Some(bytes);
        self
    }

    /// Sets [`Limits::max_input`].
    pub fn max_input(mut self, bytes: u64) -> Self {
        self.max_input = Some(bytes);
        self
    }

    /// Sets [`Limits::max_table_elements`].
    pub fn max_table_elements(mut self, elements: u64) -> Self {
        self.max_table_elements = elements;
        self
    }

    /// Sets [`Limits::max_instances`].
    pub fn max_instances(mut self, instances: u32) -> Self {
        self.max_instances = instances;
        self
    }

    /// Sets [`Limits::max_tasks`].
    pub fn max_tasks(mut self, tasks: u32) -> Self {
        self.max_tasks = tasks;
        self
    }

    /// Sets [`Limits::max_depth`].
    pub fn max_depth(mut self, levels: u32) -> Self {
        self.max_depth = levels;
        self
    }

    /// Sets [`Limits::max_total_memory`].
    pub fn max_total_memory(mut self, bytes: u64) -> Self {
        self.max_total_memory = bytes;
        self
    }
}

/// The limit that ended a task. See [`Limits`] for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Limit {
    /// The wall-clock deadline.
    Deadline,
    /// The fuel ran out.
    Fuel,
    /// Linear memory, over all memories of the task, including its regions.
    Memory,
    /// Output on stdout, or on stderr, or what `run` returned.
    Output,
    /// Input was longer than allowed.
    Input,
    /// Core instances within one component; this is also the limit for memories and for
    /// tables.
    Instances,
    /// Compiling the task took too long; it never ran.
    CompileTime,
    /// Compiling the task took too much memory; it never ran.
    CompileMemory,
    /// Table elements, over all tables of the task.
    TableElements,
    /// Bytes that one call passed to the host; see
    /// [`Limits::HOST_CALL`](Limits::HOST_CALL).
    HostCall,
}

impl Limit {
    /// The name in reports, such as `deadline`.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Deadline => "deadline",
            Limit::Fuel => "fuel",
            Limit::Memory => "memory",
            Limit::Output => "output",
            Limit::Input => "input",
            Limit::Instances => "instances",
            Limit::CompileTime => "compile-time",
            Limit::CompileMemory => "compile-memory",
            Limit::TableElements => "table-elements",
            Limit::HostCall => "host-call",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
