//! The public error: one opaque type. Every module has its own enum, with the conversion to
//! this type beside it.

use crate::jail_report::{Layer, LayerReport};
use crate::limits::Limit;
use crate::task_error::TaskError;
use std::fmt;

/// A failure of the runner itself. What a guest does is never an `Error` but an
/// [`Outcome`](crate::outcome::Outcome).
pub struct Error(Box<Repr>);

struct Repr {
    kind: ErrorKind,
    message: String,
    limit: Option<Limit>,
    limit_value: Option<u64>,
    layer: Option<Layer>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Classes of errors, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The task file does not exist.
    NotFound,
    /// The bytes are not a task: not WebAssembly, malformed, too big, an import that
    /// nothing provides, or an export that is missing.
    NotLoadable,
    /// The file is an artifact of `Runner::compile`: native code,
    /// which cannot be verified. Only
    /// `Runner::load_trusted` takes it.
    Precompiled,
    /// The artifact of `Runner::compile` does not count fuel and
    /// the task has a limit on it, or the other way round:
    /// `Builder::metered` decides when it is compiled.
    FuelMismatch,
    /// The artifact of `Runner::compile` was made by a runner of process mode, and its code
    /// does not let other tasks have its thread: a runner of thread mode accepts it only with
    /// `Preemption::Signal`.
    ModeMismatch,
    /// The task's settings, or the arguments of a call, are not valid: a grant for a
    /// directory that does not exist, an argument with a NUL byte, a lock without a name.
    InvalidTask,
    /// The artifact was loaded by another runner, or the port is of another runner's
    /// channel.
    OtherRunner,
    /// A blocking call in asynchronous code, which it would delay or block forever: use the
    /// asynchronous method, whose name does not begin with `blocking_`.
    BlockingInAsync,
    /// The report was taken from this `TaskHandle` before.
    ReportTaken,
    /// The queue is full, or all processors compile other tasks. Trying again later may
    /// work.
    Overloaded,
    /// The runner is shutting down or gone; or it was made by the process that this one
    /// was forked from.
    ShutDown,
    /// Loading the task took more than compilation may take (`Builder::compile_timeout`,
    /// `compile_memory`); [`Error::limit`] says which.
    LoadLimit,
    /// A required wall of the jail cannot be set up, and
    /// [`Jail::Strict`](crate::config::Jail::Strict) requires it; the message names it.
    Jail,
    /// The workers of this task died repeatedly while they started, so no more are started
    /// for a while. Trying again later may work.
    CrashLoop,
    /// Process mode has no worker program, or the program does not respond as one.
    NoWorker,
    /// The operating system refused something: memory, processes, descriptors.
    /// Trying again later may work.
    System,
}

impl Error {
    #[doc(hidden)]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Box::new(Repr {
            kind,
            message: message.into(),
            limit: None,
            limit_value: None,
            layer: None,
            source: None,
        }))
    }

    /// The message and the cause of another error.
    #[doc(hidden)]
    pub fn of(kind: ErrorKind, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Error::with_source(kind, error.to_string(), error)
    }

    /// Caused by another error, whose text may be in the message already.
    #[doc(hidden)]
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        let mut error = Error::new(kind, message);
        error.0.source = Some(Box::new(source));
        error
    }

    /// This error, because a limit of this value was exceeded.
    #[doc(hidden)]
    pub fn with_limit(mut self, limit: Limit, value: u64) -> Self {
        self.0.limit = Some(limit);
        self.0.limit_value = Some(value);
        self
    }

    /// This error, about the named thing.
    #[doc(hidden)]
    pub fn about(mut self, name: &str) -> Self {
        self.0.message = format!("{name}: {}", self.0.message);
        self
    }

    #[doc(hidden)]
    pub fn overloaded() -> Self {
        Error::new(ErrorKind::Overloaded, "the runner's queue is full")
    }

    #[doc(hidden)]
    pub fn shut_down() -> Self {
        Error::new(ErrorKind::ShutDown, "the runner is shut down")
    }

    #[doc(hidden)]
    pub fn forked() -> Self {
        Error::new(
            ErrorKind::ShutDown,
            "the runner belongs to the process that this one was forked from, and its threads \
             are there: make another runner after the fork",
        )
    }

    /// A wall of a strict jail is missing.
    #[doc(hidden)]
    pub fn jail(missing: &LayerReport) -> Self {
        let LayerReport { layer, detail, .. } = missing;
        let message = format!("cannot set up the strict jail: {layer} is missing: {detail}");
        let mut error = Error::new(ErrorKind::Jail, message);
        error.0.layer = Some(*layer);
        error
    }

    /// The class of the error.
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

    /// Which wall, for [`ErrorKind::Jail`] where a required one is missing:
    /// [`Jail::BestEffort`](crate::config::Jail::BestEffort) runs without it.
    pub fn layer(&self) -> Option<Layer> {
        self.0.layer
    }

    /// The error of the operating system that caused it, if there is one. Its text is in
    /// the message.
    pub fn io_error(&self) -> Option<&std::io::Error> {
        self.causes()
            .find_map(|cause| match cause.downcast_ref::<TaskError>() {
                Some(error) => error.io_error(),
                None => cause.downcast_ref(),
            })
    }

    /// The errors that caused it, the nearest first, including those whose text is in its
    /// message.
    fn causes(&self) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
        let nearest = self.0.source.as_deref().map(|source| source as _);
        std::iter::successors(nearest, |cause: &&(dyn std::error::Error + 'static)| {
            cause.source()
        })
    }

    /// True when the same call may succeed later, unchanged.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Overloaded | ErrorKind::CrashLoop | ErrorKind::System
        )
    }
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
    /// The cause that the message does not state; `None` if the message states everything,
    /// which is usual. See [`Error::io_error`] for the error of the operating system.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.causes()
            .find(|cause| !self.0.message.contains(&cause.to_string()))
    }
}
