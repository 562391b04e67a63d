//! How a task ended, as a value. Does not depend on the runner: everything that ends a
//! task, in either mode, is expressed here.

use crate::limits::Limit;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a task ended.
///
/// Whatever a guest does is an `Outcome`; only the runner's own failure is an
/// [`Error`](crate::error::Error).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Outcome {
    /// The task did its work: `run` returned `ok`, or a command exited with 0.
    Completed(Output),
    /// `run` returned `err`; the message is the task's own.
    Failed(String),
    /// A command's exit code, 1 to 255.
    Exited(u8),
    /// The task did something that WebAssembly forbids and was stopped by its sandbox.
    Trapped(Trap),
    /// A limit of the task was reached.
    LimitExceeded(Limit),
    /// The worker process that ran the task died. Only in process mode.
    Crashed(Crash),
    /// The task was killed, or its runner was dropped.
    Cancelled,
}

impl Outcome {
    /// The outcome's name in reports: `completed`, `failed`, `exited`,
    /// `trapped`, `limit-exceeded`, `crashed` or `cancelled`.
    pub fn kind(&self) -> &'static str {
        match self {
            Outcome::Completed(_) => "completed",
            Outcome::Failed(_) => "failed",
            Outcome::Exited(_) => "exited",
            Outcome::Trapped(_) => "trapped",
            Outcome::LimitExceeded(_) => "limit-exceeded",
            Outcome::Crashed(_) => "crashed",
            Outcome::Cancelled => "cancelled",
        }
    }

    /// True for [`Outcome::Completed`].
    pub fn is_completed(&self) -> bool {
        matches!(self, Outcome::Completed(_))
    }

    /// The output of a completed task.
    pub fn output(&self) -> Option<&Output> {
        match self {
            Outcome::Completed(output) => Some(output),
            _ => None,
        }
    }
}

impl fmt::Display for Outcome {
    /// One line for people, without the output's bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Completed(_) => f.write_str("completed"),
            Outcome::Failed(message) => {
                let mut line = message.lines().next().unwrap_or_default().chars();
                let start: String = line.by_ref().take(200).collect();
                let more = if line.next().is_some() { "..." } else { "" };
                write!(f, "failed: {start}{more}")
            }
            Outcome::Exited(code) => write!(f, "exited with code {code}"),
            Outcome::Trapped(trap) => write!(f, "trapped: {trap}"),
            Outcome::LimitExceeded(limit) => write!(f, "limit exceeded: {limit}"),
            Outcome::Crashed(crash) => write!(f, "crashed: {crash}"),
            Outcome::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// What a task produced: what `run` returned, or a command's captured stdout.
///
/// Empty when stdout was streamed or discarded
/// (`Stdio`). Cloning does not copy the bytes.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output(pub Bytes);

impl Output {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, shared.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The bytes as text, with U+FFFD for what is not UTF-8.
    pub fn to_string_lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl std::ops::Deref for Output {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Output {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Output({} bytes)", self.0.len())
    }
}

/// Why the sandbox stopped a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Trap {
    /// The class of the trap.
    pub kind: TrapKind,
    /// The engine's message and, if known, the guest's innermost frames, one per line. At
    /// most 4 KiB. Function names come from the guest: do not trust them, and do not print
    /// them to a terminal unfiltered.
    pub message: String,
}

impl Trap {
    /// A trap of this class, with the message of the engine.
    pub fn new(kind: TrapKind, message: impl Into<String>) -> Self {
        Trap {
            kind,
            message: message.into(),
        }
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.lines().next().unwrap_or_default())
    }
}

/// Classes of traps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TrapKind {
    /// `unreachable`: what a panic or an abort compiles to.
    Unreachable,
    /// The guest's call stack is used up.
    StackOverflow,
    /// A load or store outside the linear memory.
    MemoryOutOfBounds,
    /// A table access outside the table, or a call through an invalid entry.
    BadTableAccess,
    /// Division by zero, overflow, or a float without an integer value.
    Arithmetic,
    /// A value that breaks the canonical ABI crossed the boundary to the host:
    /// a pointer out of bounds, text that is not UTF-8, an unknown discriminant.
    BadAbi,
    /// Any other reason, in the message.
    Other,
}

impl TrapKind {
    /// The name in reports, such as `stack-overflow`.
    pub fn name(self) -> &'static str {
        match self {
            TrapKind::Unreachable => "unreachable",
            TrapKind::StackOverflow => "stack-overflow",
            TrapKind::MemoryOutOfBounds => "memory-out-of-bounds",
            TrapKind::BadTableAccess => "bad-table-access",
            TrapKind::Arithmetic => "arithmetic",
            TrapKind::BadAbi => "bad-abi",
            TrapKind::Other => "other",
        }
    }
}

/// The signal for a process that has used up its processor time.
const SIGXCPU: i32 = 24;

/// How a worker process died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Crash {
    /// Killed by a signal.
    Signal(i32),
    /// Exited by itself with this status, before the task had an outcome.
    Exit(i32),
    /// It broke the protocol and was killed; how it did.
    Protocol(String),
    /// It vanished, and another part of this program took its wait status.
    Lost,
    /// The runner could not run the task, or failed while it did; why. Only for child
    /// tasks: for a submitted one it is an [`Error`](crate::error::Error).
    Runner(String),
    /// It died after it had written to its stderr, for instance the message of a panic of
    /// the host's code or of an allocator.
    Said {
        /// How it died: one of the others.
        how: Box<Crash>,
        /// What it wrote, at most 4 KiB, with U+FFFD for control characters. A worker that was
        /// taken over can write anything: do not trust it.
        words: String,
    },
}

impl Crash {
    /// How the worker died, without its stderr.
    pub fn how(&self) -> &Crash {
        match self {
            Crash::Said { how, .. } => how.how(),
            how => how,
        }
    }

    /// What the worker wrote to its stderr before it died.
    pub fn words(&self) -> Option<&str> {
        match self {
            Crash::Said { words, .. } => Some(words),
            _ => None,
        }
    }

    #[doc(hidden)]
    pub fn with_words(self, words: Option<String>) -> Self {
        match words {
            Some(words) => Crash::Said {
                how: Box::new(self),
                words,
            },
            None => self,
        }
    }
}

/// The start of a text of several lines, on one line.
pub fn on_one_line(words: &str) -> String {
    let lines = words.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" / ");
    let mut chars = line.chars();
    let start: String = chars
        .by_ref()
        .take(500)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    let more = if chars.next().is_some() { "..." } else { "" };
    start + more
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Crash::Signal(SIGXCPU) => write!(
                f,
                "the limit on processor time (ulimit -t) ended the worker, by signal {SIGXCPU}"
            ),
            Crash::Signal(signal) => write!(f, "the worker died of signal {signal}"),
            Crash::Exit(status) => write!(f, "the worker exited with status {status}"),
            Crash::Protocol(what) => write!(f, "the worker broke the protocol: {what}"),
            Crash::Lost => f.write_str("the worker vanished"),
            Crash::Runner(why) => f.write_str(why),
            Crash::Said { how, words } => {
                write!(f, "{how}; it said: {}", on_one_line(words))
            }
        }
    }
}
