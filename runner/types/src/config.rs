//! Where tasks run, and a runner's settings. Plain data: nothing here starts
//! anything.

use crate::compile_budget::CompileBudget;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where tasks run: how strong the walls are, and what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Each task in an operating-system process of its own.
    #[default]
    Process,
    /// Tasks on threads of this process.
    Thread,
}

impl Mode {
    /// `process` or `thread`.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Process => "process",
            Mode::Thread => "thread",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "process" => Ok(Mode::Process),
            "thread" => Ok(Mode::Thread),
            _ => Err(UnknownName {
                what: "mode",
                name: name.to_owned(),
                expected: "\"process\" or \"thread\"",
            }),
        }
    }
}

/// How threads that tasks share get away from a guest that computes. Only for thread mode; a
/// process of its own is always interrupted by a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preemption {
    /// By checks in the guest's code: 1.1 to 2 times the processor time, and tasks take turns of
    /// 5 ms on a fixed number of threads.
    #[default]
    Epoch,
    /// By a signal (`SIGURG`) to the thread: no checks, and a guest that computes for more than
    /// 5 ms has a thread for itself until it waits or ends, so that the kernel shares the
    /// processors.
    Signal,
}

impl Preemption {
    /// `epoch` or `signal`.
    pub fn name(self) -> &'static str {
        match self {
            Preemption::Epoch => "epoch",
            Preemption::Signal => "signal",
        }
    }
}

impl fmt::Display for Preemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preemption {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "epoch" => Ok(Preemption::Epoch),
            "signal" => Ok(Preemption::Signal),
            _ => Err(UnknownName {
                what: "preemption",
                name: name.to_owned(),
                expected: "\"epoch\" or \"signal\"",
            }),
        }
    }
}

/// Whether the kernel's walls around a worker are required. Only for process mode; threads
/// have no such walls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Jail {
    /// Nothing runs unless every required layer
    /// ([`Layer::is_required`](crate::jail_report::Layer::is_required)) is in place.
    #[default]
    Strict,
    /// What the kernel permits; the report says what is missing.
    BestEffort,
    /// No jail: only a separate process.
    Off,
}

impl Jail {
    /// `strict`, `best-effort` or `off`.
    pub fn name(self) -> &'static str {
        match self {
            Jail::Strict => "strict",
            Jail::BestEffort => "best-effort",
            Jail::Off => "off",
        }
    }
}

impl fmt::Display for Jail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Jail {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "strict" => Ok(Jail::Strict),
            "best-effort" => Ok(Jail::BestEffort),
            "off" => Ok(Jail::Off),
            _ => Err(UnknownName {
                what: "jail",
                name: name.to_owned(),
                expected: "\"strict\", \"best-effort\" or \"off\"",
            }),
        }
    }
}

/// How a worker is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Forked from a zygote: a process that has the task loaded and jailed and does nothing
    /// but fork.
    #[default]
    Fork,
    /// A program started for this worker alone, which loads the task itself. For a single
    /// task it is cheaper than a zygote; it is also the fallback if forking is not
    /// possible.
    Exec,
}

impl Start {
    /// `fork` or `exec`.
    pub fn name(self) -> &'static str {
        match self {
            Start::Fork => "fork",
            Start::Exec => "exec",
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Start {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "fork" => Ok(Start::Fork),
            "exec" => Ok(Start::Exec),
            _ => Err(UnknownName {
                what: "start method",
                name: name.to_owned(),
                expected: "\"fork\" or \"exec\"",
            }),
        }
    }
}

/// A text that is not the name of a [`Mode`], [`Preemption`], [`Jail`] or [`Start`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {name:?}: expected {expected}")]
pub struct UnknownName {
    what: &'static str,
    name: String,
    expected: &'static str,
}

/// Where compiled code is kept between runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cache {
    /// Nowhere: every runner compiles again.
    #[default]
    Off,
    /// In `$WRUN_CACHE_DIR`, or else `wrun` under `$XDG_CACHE_HOME` or
    /// `~/.cache`. A directory that cannot be used means no cache, never an
    /// error.
    User,
    /// In this directory, which is created if missing. It must belong to this user alone:
    /// the files in it are run as native code.
    Directory(PathBuf),
}

/// A runner's settings, as the builder leaves them.
#[derive(Clone, Debug)]
pub struct Config {
    #[doc(hidden)]
    pub mode: Mode,
    #[doc(hidden)]
    pub preemption: Preemption,
    #[doc(hidden)]
    pub cache: Cache,
    /// Maximum of tasks that run at the same time.
    #[doc(hidden)]
    pub max_running: usize,
    /// Maximum of tasks that wait in the queue.
    #[doc(hidden)]
    pub max_queued: usize,
    /// Maximum of bytes in all regions together.
    #[doc(hidden)]
    pub region_memory: u64,
    /// Maximum of child tasks that run at the same time.
    #[doc(hidden)]
    pub max_children: usize,
    /// Threads of the task runtime.
    #[doc(hidden)]
    pub worker_threads: usize,
    /// The worker program; `None` is this program with its hook.
    #[doc(hidden)]
    pub worker: Option<PathBuf>,
    /// Cap on a task file, in bytes.
    #[doc(hidden)]
    pub max_module_size: u64,
    /// `load` compiles with fuel counted.
    #[doc(hidden)]
    pub metered: bool,
    /// The mode whose code `load` makes.
    #[doc(hidden)]
    pub code_for: Mode,
    /// What compiling one task may take.
    #[doc(hidden)]
    pub compile_budget: CompileBudget,
    /// Certificate authorities for HTTP requests of tasks, beside the usual ones, in PEM.
    #[doc(hidden)]
    pub http_authorities: Vec<u8>,
    // Process mode only, from here on.
    #[doc(hidden)]
    pub jail: Jail,
    /// The user and group of workers; only root may set it.
    #[doc(hidden)]
    pub identity: Option<(u32, u32)>,
    /// The users from which each program gets a different one.
    #[doc(hidden)]
    pub users: Option<RangeInclusive<u32>>,
    #[doc(hidden)]
    pub start: Start,
    /// Idle workers kept for each artifact in use.
    #[doc(hidden)]
    pub spares: usize,
    /// Tasks that a worker runs before it ends; at least 1.
    #[doc(hidden)]
    pub reuse: u32,
    /// The zygote and the spares of an artifact end when it was not used for this long.
    #[doc(hidden)]
    pub idle_timeout: Duration,
    /// Layers of the jail that a test makes unavailable.
    #[cfg(feature = "test-hooks")]
    #[doc(hidden)]
    pub absent: Vec<crate::jail_report::Layer>,
}
