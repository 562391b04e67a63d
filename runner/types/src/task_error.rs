//! What can be wrong with a task's settings.

use crate::error::{Error, ErrorKind};
use std::path::PathBuf;

/// Most directories that one task is granted, and most addresses.
pub const MAX_GRANTS: usize = 256;

/// A task's settings that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TaskError {
    #[error("{what} contains a NUL byte")]
    Nul { what: &'static str },
    #[error("{what} are longer than 1 MiB")]
    TooLong { what: &'static str },
    #[error("a task can be granted at most {MAX_GRANTS} directories and {MAX_GRANTS} addresses")]
    TooManyGrants,
    #[error("Stdio::Stdout is only for stderr, and requires Stdio::Stream for stdout")]
    NotJoined,
    #[error("max_table_elements must be at most 1,000,000")]
    TooManyTableElements,
    #[error("max_tasks must be at most 4,096 and max_depth at most 64")]
    TooManyChildren,
    #[error(
        "max_total_memory ({total} bytes) must not be less than max_memory ({memory} bytes): \
         max_memory limits the task alone, max_total_memory the task and all its child tasks \
         together"
    )]
    TotalMemory { total: u64, memory: u64 },
    #[error("a task can be granted at most {MAX_GRANTS} tasks")]
    TooManyTasks,
    #[error("invalid name {name:?} for a granted task: expected 1 to 256 bytes without NUL")]
    TaskName { name: String },
    #[error("the name {name:?} is given to two granted tasks")]
    TaskTwice { name: String },
    #[error("invalid name {name:?} for an environment variable")]
    EnvName { name: String },
    #[error("cannot grant the directory {}: {source}", path.display())]
    Dir {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "two directories are granted under the name {name:?}: expected a different guest path \
         for each"
    )]
    DirTwice { name: String },
    #[error("cannot grant {}: it is not a directory", path.display())]
    NotADir { path: PathBuf },
    #[error("invalid directory grant {text:?}: expected HOST[::GUEST][:ro|:rw]")]
    DirSyntax { text: String },
    #[error("invalid directory grant {text:?}: the guest path must be UTF-8; use HOST::GUEST")]
    DirName { text: String },
    #[error("invalid address {text:?}: expected HOST:PORT")]
    TcpSyntax { text: String },
    #[error("cannot resolve {host:?}: {source}")]
    Resolve {
        host: String,
        source: std::io::Error,
    },
}

impl From<TaskError> for Error {
    fn from(error: TaskError) -> Self {
        Error::with_source(ErrorKind::InvalidTask, error.to_string(), error)
    }
}
