//! Why bytes are not a task, or cannot become one here. Plain data, which a compiler
//! process sends.

use super::code::CodeError;
use super::engine::EngineError;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wrun_sys::shortage;
use wrun_types::error::{Error, ErrorKind};
use wrun_types::limits::Limit;
use wrun_types::report::nanos;

/// Why bytes are not a task.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum LoadError {
    #[error("the task is empty")]
    Empty,
    #[error("the task is not WebAssembly: neither the binary format nor WAT text")]
    NotWasm,
    #[error("the task looks like WAT text but is not: {message}")]
    Text { message: String },
    #[error("the task is not valid WebAssembly: {message}")]
    Invalid { message: String },
    #[error("the task imports {name}, which nothing provides: {hint}")]
    UnknownImport { name: String, hint: String },
    #[error("the task has no entry point: {wanted}; it exports {exports}")]
    NoEntry {
        wanted: Cow<'static, str>,
        exports: String,
    },
    #[error("the task exports run but not {name}, which the canonical ABI requires")]
    MissingExport { name: Cow<'static, str> },
    #[error("the task does not fit the world wrun:task/task: {message}")]
    Componentize { message: String },
    #[error("there is not enough memory to compile the task")]
    OutOfMemory,
    #[error("the task needs {what}, which wrun does not support: {hint}")]
    Unsupported { what: String, hint: String },
    #[error(
        "the program was built without a compiler: it runs only tasks that were compiled before"
    )]
    NoCompiler,
    #[error("the task answers HTTP requests, and the program was built without HTTP")]
    NoHttp,
    // From here on: errors that a compiler process does not report. They must stay last,
    // because postcard numbers the variants differently for reading and writing otherwise.
    #[serde(skip)]
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[serde(skip)]
    #[error("{} is a directory, not a task", path.display())]
    IsDirectory { path: PathBuf },
    #[serde(skip)]
    #[error("the task file is larger than {limit} bytes, the limit for task files")]
    TooBig { limit: u64 },
    #[serde(skip)]
    #[error("the task is a compiled artifact: native code, which cannot be verified")]
    Precompiled,
    #[serde(skip)]
    #[error("cannot load the artifact: {0}")]
    Artifact(CodeError),
    #[serde(skip)]
    #[error(
        "the artifact was compiled {} fuel metering: it cannot run a task {} a fuel limit",
        with_or_without(!*wanted), with_or_without(*wanted)
    )]
    ArtifactFuel { wanted: bool },
    #[serde(skip)]
    #[error(
        "the artifact was compiled for process mode: its code does not let other tasks have \
         its thread"
    )]
    ArtifactMode,
    #[serde(skip)]
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[serde(skip)]
    #[error("cannot write compiled code to the cache: {source}")]
    System { source: CodeError },
    #[serde(skip)]
    #[error(
        "compiling the task takes longer than the {} it may take",
        humantime::format_duration(*limit)
    )]
    CompileTime { limit: Duration },
    #[serde(skip)]
    #[error(
        "compiling the task takes more memory than the {} it may have",
        bytesize::ByteSize(*limit).display().iec()
    )]
    CompileMemory { limit: u64 },
    /// Other compilations took too long.
    #[serde(skip)]
    #[error(
        "the task was not compiled: other tasks were, on all processors, for the {} that it \
         may take itself",
        humantime::format_duration(*waited)
    )]
    CompilersBusy { waited: Duration },
    #[serde(skip)]
    #[error(
        "compiling the task crashed, in a process of its own; nothing else was affected: {how}"
    )]
    CompileCrashed { how: String },
    /// The compiler was shut down.
    #[serde(skip)]
    #[error("{0}")]
    Compiler(Error),
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
            LoadError::Precompiled => ErrorKind::Precompiled,
            LoadError::ArtifactFuel { .. } => ErrorKind::FuelMismatch,
            LoadError::ArtifactMode => ErrorKind::ModeMismatch,
            _ => ErrorKind::NotLoadable,
        };
        let limit = match &error {
            LoadError::CompileTime { limit } => Some((Limit::CompileTime, nanos(*limit))),
            LoadError::CompileMemory { limit } => Some((Limit::CompileMemory, *limit)),
            _ => None,
        };
        let error = shortage::error(kind, error);
        match limit {
            Some((limit, value)) => error.with_limit(limit, value),
            None => error,
        }
    }
}

/// Maximum length of a text about a task, in bytes; whole sentences are shorter.
const MAX_TEXT: usize = 4_000;

impl LoadError {
    /// With texts on one line and of bounded length, whatever a guest or a compromised
    /// compiler wrote into them. Idempotent.
    pub fn tamed(mut self) -> Self {
        match &mut self {
            LoadError::Text { message: text }
            | LoadError::Invalid { message: text }
            | LoadError::Componentize { message: text } => tame(text),
            LoadError::UnknownImport { name, hint } => {
                tame(name);
                tame(hint);
            }
            LoadError::Unsupported { what, hint } => {
                tame(what);
                tame(hint);
            }
            LoadError::NoEntry { wanted, exports } => {
                tame(wanted.to_mut());
                tame(exports);
            }
            LoadError::MissingExport { name } => tame(name.to_mut()),
            _ => {}
        }
        self
    }
}

impl LoadError {
    /// The public error for a file, which it names.
    pub fn of_file(self, path: &Path) -> Error {
        let is_named = matches!(self, LoadError::Read { .. } | LoadError::IsDirectory { .. });
        let error = Error::from(self);
        // A shortage of the system is not about a file.
        match error.kind() {
            ErrorKind::NotLoadable | ErrorKind::LoadLimit | ErrorKind::ModeMismatch
                if !is_named =>
            {
                error.about(&path.display().to_string())
            }
            _ => error,
        }
    }
}

fn with_or_without(fuel: bool) -> &'static str {
    if fuel { "with" } else { "without" }
}

fn tame(text: &mut String) {
    if text.contains(char::is_control) {
        *text = text.replace(char::is_control, "\u{fffd}");
    }
    text.truncate(text.floor_char_boundary(MAX_TEXT));
}
