//! Errors of processes.

use std::io;
use std::path::PathBuf;
use std::time::Duration;
use wrun_sandbox::LoadError;
use wrun_sys::shortage;
use wrun_types::error::{Error, ErrorKind};
use wrun_types::jail_report::LayerReport;

/// A failure of processes that a guest did not cause.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error(
        "process mode needs a worker: call wrun::worker_hook() first thing in main, or name a \
         worker program with ProcessOptions::worker"
    )]
    NoHook,
    #[error(
        "processes of wrun need /proc, which is not mounted: mount it (mount -t proc proc /proc), \
         or run tasks in thread mode without limits on compiling"
    )]
    NoProc,
    #[error("cannot start the worker {}: {source}", program.display())]
    Spawn { program: PathBuf, source: io::Error },
    #[error("{} does not answer as a wrun worker: {what}", program.display())]
    Handshake { program: PathBuf, what: String },
    #[error("{message}")]
    Refused { message: String },
    #[error("cannot set up the strict jail: {} is missing: {}", .0.layer, .0.detail)]
    NoJail(LayerReport),
    #[error("cannot set up the jail: {message}")]
    JailFailed { message: String },
    #[error(
        "workers died {failures} times in a row while starting, the last one like this: {last}; \
         the next is tried in {} s",
        again.as_secs_f64().ceil()
    )]
    CrashLoop {
        failures: u32,
        last: String,
        again: Duration,
    },
    #[error("{what}: {source}")]
    System {
        what: &'static str,
        source: io::Error,
    },
    #[error("the runner is shut down")]
    ShutDown,
}

/// Whether starting a program failed because of the program: it does not exist, may not be
/// run, or is not a program. Trying again does not help.
fn is_no_program(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
    ) || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::NOEXEC)
}

impl From<ProcessError> for Error {
    fn from(error: ProcessError) -> Self {
        let kind = match &error {
            ProcessError::NoHook | ProcessError::Handshake { .. } => ErrorKind::NoWorker,
            ProcessError::Refused { .. } => ErrorKind::NotLoadable,
            ProcessError::NoJail(layer) => return Error::jail(layer),
            ProcessError::JailFailed { .. } => ErrorKind::Jail,
            ProcessError::CrashLoop { .. } => ErrorKind::CrashLoop,
            ProcessError::Spawn { source, .. } if is_no_program(source) => ErrorKind::NoWorker,
            ProcessError::NoProc | ProcessError::Spawn { .. } | ProcessError::System { .. } => {
                ErrorKind::System
            }
            ProcessError::ShutDown => ErrorKind::ShutDown,
        };
        shortage::error(kind, error)
    }
}

impl From<ProcessError> for LoadError {
    fn from(error: ProcessError) -> Self {
        LoadError::Compiler(error.into())
    }
}

/// A failed system call, as an error of processes.
pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> ProcessError {
    move |source| ProcessError::System { what, source }
}
