//! Runs WebAssembly tasks in separate processes or on threads, under one ABI.

pub mod cli;
mod config;
mod error;
mod executor;
mod handle;
mod outcome;
mod process;
mod report;
mod runner;
mod sandbox;
mod sys;
mod task;
mod thread;
mod wire;

pub use config::{Cache, Mode};
pub use error::{Error, ErrorKind};
pub use handle::{Killer, OutputStream, TaskHandle};
pub use outcome::{Crash, Limit, Outcome, Output, Trap, TrapKind};
pub use process::worker_hook;
pub use report::{Access, Denial, Report, Stats};
pub use runner::{Builder, Runner};
pub use sandbox::{Artifact, Inspection, Progress, Shape, inspect};
pub use task::{DirGrant, Input, Limits, Stdio, Task, TaskError, TcpGrant};
