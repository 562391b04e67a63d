//! Where tasks run, and a runner's settings. Plain data: nothing here starts
//! anything.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

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
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "process" => Ok(Mode::Process),
            "thread" => Ok(Mode::Thread),
            _ => Err(format!("{name:?} is no mode; there are process and thread")),
        }
    }
}

/// Where compiled code is kept between runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cache {
    /// Nowhere: every runner compiles anew.
    #[default]
    Off,
    /// In `$WRUN_CACHE_DIR`, or else `wrun` under `$XDG_CACHE_HOME` or
    /// `~/.cache`. A directory that cannot be used means no cache, never an
    /// error.
    User,
    /// In this directory, made when missing. It must belong to this user alone:
    /// what lies there is run as native code.
    Directory(PathBuf),
}

/// A runner's settings, as the builder leaves them.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) mode: Mode,
    pub(crate) cache: Cache,
    /// Tasks that run at the same time.
    pub(crate) max_running: usize,
    /// Tasks that wait behind them.
    pub(crate) max_queued: usize,
    /// Threads of the task runtime.
    pub(crate) worker_threads: usize,
    /// Started workers kept waiting per artifact, process mode only.
    pub(crate) idle_workers: usize,
    /// The worker program; `None` is this program with its hook.
    pub(crate) worker: Option<PathBuf>,
    /// Cap on a task file, in bytes.
    pub(crate) max_module_size: u64,
    /// `load` compiles with fuel counted.
    pub(crate) metered: bool,
}
