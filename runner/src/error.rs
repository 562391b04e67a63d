//! The public error: one opaque type. Every module has its own enum; only this
//! file maps them.

use crate::jail::LayerReport;
use crate::outcome::Limit;
use crate::process::ProcessError;
use crate::report::nanos;
use crate::sandbox::{EngineError, LoadError, PrepareError, RunError};
use crate::shortage;
use crate::task::TaskError;
use std::fmt;

/// The runner's own failure. What a guest does is never an `Error`, it is an
/// [`Outcome`](crate::Outcome).
pub struct Error(Box<Repr>);

struct Repr {
    kind: ErrorKind,
    message: String,
    limit: Option<Limit>,
    limit_value: Option<u64>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Classes of errors, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The task file does not exist.
    NotFound,
    /// The bytes are no task: not WebAssembly, malformed, too big, an import
    /// that nothing provides, an export that is missing.
    NotLoadable,
    /// The task's settings cannot be: a grant for a directory that is not there,
    /// an argument with a NUL byte, `run` called from asynchronous code.
    InvalidTask,
    /// The queue is full, or all processors compile other tasks. Trying again later may
    /// work.
    Overloaded,
    /// The runner is shutting down or gone; or it was made by the process that this one
    /// was forked from.
    ShutDown,
    /// Loading the task took more than its compilation may have
    /// ([`Builder::compile_timeout`](crate::Builder::compile_timeout),
    /// [`compile_memory`](crate::Builder::compile_memory)); [`Error::limit`] says
    /// which.
    LoadLimit,
    /// A required wall of the jail cannot be put up, and
    /// [`Jail::Strict`](crate::Jail::Strict) insists on it; the message names it.
    Jail,
    /// The workers of this task died, one after another, while they started: no
    /// more are made for a while. Trying again later may work.
    CrashLoop,
    /// Process mode has no worker program, or it does not answer as one.
    NoWorker,
    /// The operating system refused something: memory, processes, descriptors.
    /// Trying again later may work.
    System,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Repr {
            kind,
            message: message.into(),
            limit: None,
            limit_value: None,
            source: None,
        }))
    }

    /// With a hint at the limit that may be behind it, where the system refused.
    fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let mut message = message.into();
        let may_lack = matches!(
            kind,
            ErrorKind::System | ErrorKind::Jail | ErrorKind::NoWorker | ErrorKind::CrashLoop
        );
        if may_lack && !message.contains(shortage::HINT) {
            message.push_str(
                &refused(&source).map_or_else(|| shortage::hint_of(&message), shortage::hint),
            );
        }
        Error(Box::new(Repr {
            kind,
            message,
            limit: None,
            limit_value: None,
            source: Some(Box::new(source)),
        }))
    }

    /// The same, of what is named.
    pub(crate) fn about(mut self, name: &str) -> Self {
        self.0.message = format!("{name}: {}", self.0.message);
        self
    }

    pub(crate) fn overloaded() -> Self {
        Error::new(ErrorKind::Overloaded, "the runner's queue is full")
    }

    pub(crate) fn shut_down() -> Self {
        Error::new(ErrorKind::ShutDown, "the runner is shut down")
    }

    pub(crate) fn forked() -> Self {
        Error::new(
            ErrorKind::ShutDown,
            "the runner belongs to the process that this one was forked from, and its threads \
             are there: make another runner after the fork",
        )
    }

    /// Compiling exceeded one of its limits.
    #[cfg(test)]
    pub(crate) fn load_limit(limit: Limit) -> Self {
        match limit {
            Limit::CompileTime => LoadError::CompileTime {
                limit: std::time::Duration::from_secs(1),
            },
            _ => LoadError::CompileMemory { limit: 1 },
        }
        .into()
    }

    /// A strict jail lacks a wall.
    pub(crate) fn jail(missing: &LayerReport) -> Self {
        let LayerReport { layer, detail, .. } = missing;
        Error::new(
            ErrorKind::Jail,
            format!(
                "cannot set up the strict jail: {layer} is missing: {detail}; --jail best-effort (Jail::BestEffort) runs \
                 without it"
            ),
        )
    }

    /// What class of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Which limit, for [`ErrorKind::LoadLimit`].
    pub fn limit(&self) -> Option<Limit> {
        self.0.limit
    }

    /// The value of [`Error::limit`]: nanoseconds, or bytes.
    pub fn limit_value(&self) -> Option<u64> {
        self.0.limit_value
    }

    /// True when the same call may succeed later, unchanged.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Overloaded | ErrorKind::CrashLoop | ErrorKind::System
        )
    }
}

/// The system's own error behind another one.
fn refused<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref::<std::io::Error>())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        Error::with_source(ErrorKind::InvalidTask, error.to_string(), error)
    }
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        let error = match error {
            LoadError::Compiler(error) => return error,
            error => error,
        };
        let kind = match &error {
            LoadError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                ErrorKind::NotFound
            }
            LoadError::Read { source, .. } if shortage::is_one(source) => ErrorKind::System,
            LoadError::Engine(_) | LoadError::System { .. } | LoadError::OutOfMemory => {
                ErrorKind::System
            }
            LoadError::CompileTime { .. } | LoadError::CompileMemory { .. } => ErrorKind::LoadLimit,
            LoadError::CompilersBusy { .. } => ErrorKind::Overloaded,
            _ => ErrorKind::NotLoadable,
        };
        let limit = match &error {
            LoadError::CompileTime { limit } => Some((Limit::CompileTime, nanos(*limit))),
            LoadError::CompileMemory { limit } => Some((Limit::CompileMemory, *limit)),
            _ => None,
        };
        let mut error = Error::with_source(kind, error.to_string(), error);
        if let Some((limit, value)) = limit {
            error.0.limit = Some(limit);
            error.0.limit_value = Some(value);
        }
        error
    }
}

impl From<EngineError> for Error {
    fn from(error: EngineError) -> Self {
        Error::with_source(ErrorKind::System, error.to_string(), error)
    }
}

impl From<PrepareError> for Error {
    fn from(error: PrepareError) -> Self {
        Error::with_source(ErrorKind::NotLoadable, error.to_string(), error)
    }
}

impl From<RunError> for Error {
    fn from(error: RunError) -> Self {
        let kind = match &error {
            RunError::Grant(_) => ErrorKind::InvalidTask,
            RunError::Sandbox(_) | RunError::Input(_) | RunError::Panicked(_) => ErrorKind::System,
        };
        Error::with_source(kind, error.to_string(), error)
    }
}

/// Whether starting a program failed because of the program: it is not there, may
/// not be run, or is none. Trying again does not help.
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
        Error::with_source(kind, error.to_string(), error)
    }
}
