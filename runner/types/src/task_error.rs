//! Errors in the settings of a task.

use crate::error::{Error, ErrorKind};
use std::path::PathBuf;

/// Maximum of directories that one task is granted, and of addresses.
pub const MAX_GRANTS: usize = 256;

/// Why the settings of a task are not valid.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// A string that the task gets has a NUL byte.
    #[error("{what} contains a NUL byte")]
    Nul {
        /// What contains it.
        what: &'static str,
    },
    /// The arguments together, or the environment, are longer than 1 MiB.
    #[error("{what} are longer than 1 MiB")]
    TooLong {
        /// What is too long.
        what: &'static str,
    },
    /// More directories or addresses than a task can be granted.
    #[error("a task can be granted at most {MAX_GRANTS} directories and {MAX_GRANTS} addresses")]
    TooManyGrants,
    /// `Stdio::Stdout` for a stream that cannot have it.
    #[error("Stdio::Stdout is only for stderr, and requires Stdio::Stream for stdout")]
    NotJoined,
    /// A request with more header fields than a task takes.
    #[error("the request has {fields} header fields, and at most {most} are allowed")]
    TooManyFields {
        /// Fields of the request.
        fields: usize,
        /// The maximum.
        most: usize,
    },
    /// A task whose artifact is an HTTP handler, without a request.
    #[error("the artifact answers HTTP requests, and the task has none")]
    NoRequest,
    /// A request for an artifact that is not an HTTP handler.
    #[error("the task has an HTTP request, and its artifact does not answer any")]
    NoHandler,
    /// A task that may be started by a task is an HTTP handler.
    #[error("the granted task {name:?} answers HTTP requests: a task cannot start it")]
    HandlerGranted {
        /// Its name.
        name: String,
    },
    /// More than [`Limits::MAX_TABLE_ELEMENTS`](crate::limits::Limits::MAX_TABLE_ELEMENTS).
    #[error("max_table_elements must be at most 1,000,000")]
    TooManyTableElements,
    /// More than [`Limits::MAX_TASKS`](crate::limits::Limits::MAX_TASKS) or
    /// [`Limits::MAX_DEPTH`](crate::limits::Limits::MAX_DEPTH).
    #[error("max_tasks must be at most 4,096 and max_depth at most 64")]
    TooManyChildren,
    /// [`Limits::max_total_memory`](crate::limits::Limits::max_total_memory) is less than what
    /// the task alone may use.
    #[error(
        "max_total_memory ({total} bytes) must not be less than max_memory ({memory} bytes): \
         max_memory limits the task alone, max_total_memory the task and all its child tasks \
         together"
    )]
    TotalMemory {
        /// Bytes for all tasks.
        total: u64,
        /// Bytes for this one.
        memory: u64,
    },
    /// More tasks than a task can be granted.
    #[error("a task can be granted at most {MAX_GRANTS} tasks")]
    TooManyTasks,
    /// A granted task has an invalid name.
    #[error("invalid name {name:?} for a granted task: expected 1 to 256 bytes without NUL")]
    TaskName {
        /// The name.
        name: String,
    },
    /// Two granted tasks have the same name.
    #[error("the name {name:?} is given to two granted tasks")]
    TaskTwice {
        /// The name.
        name: String,
    },
    /// An environment variable has an invalid name.
    #[error("invalid name {name:?} for an environment variable")]
    EnvName {
        /// The name.
        name: String,
    },
    /// A granted directory does not exist, or cannot be examined.
    #[error("cannot grant the directory {}: {error}", path.display())]
    Dir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// A granted directory does not exist, but one whose name was divided into its own and that
    /// for the guest does.
    #[error(
        "cannot grant the directory {}: it does not exist; if {} is meant, expected {}::GUEST",
        host.display(), whole.display(), whole.display()
    )]
    DirDivided {
        /// The part before the last `::`.
        host: PathBuf,
        /// All of it.
        whole: PathBuf,
    },
    /// Two granted directories have the same name for the guest.
    #[error(
        "two directories are granted under the name {name:?}: expected a different guest path \
         for each"
    )]
    DirTwice {
        /// The name.
        name: String,
    },
    /// A path granted as a directory is not one.
    #[error("cannot grant {}: it is not a directory", path.display())]
    NotADir {
        /// The directory.
        path: PathBuf,
    },
    /// Text that is not a directory grant.
    #[error("invalid directory grant {text:?}: expected HOST[::GUEST][:ro|:rw]")]
    DirSyntax {
        /// The text.
        text: String,
    },
    /// Text of a directory grant whose name for the guest is not UTF-8.
    #[error("invalid directory grant {text:?}: expected HOST::GUEST with a GUEST that is UTF-8")]
    DirName {
        /// The text.
        text: String,
    },
    /// Text that is not an address.
    #[error("invalid address {text:?}: expected HOST:PORT")]
    TcpSyntax {
        /// The text.
        text: String,
    },
    /// Text that is not a host with or without a port.
    #[error(
        "invalid host {text:?}: expected HOST[:PORT], where HOST is a name, *. and a domain, or \
         an address (IPv6 in brackets)"
    )]
    HttpSyntax {
        /// The text.
        text: String,
    },
    /// A host name cannot be resolved.
    #[error("cannot resolve {host:?}: {error}")]
    Resolve {
        /// The host name.
        host: String,
        error: std::io::Error,
    },
}

impl TaskError {
    /// The error of the operating system.
    pub(crate) fn io_error(&self) -> Option<&std::io::Error> {
        match self {
            TaskError::Dir { error, .. } | TaskError::Resolve { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        Error::of(ErrorKind::InvalidTask, error)
    }
}
