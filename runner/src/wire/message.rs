//! What runner and worker say to each other after the greeting.
//!
//! ```text
//! worker                       runner
//! Hello, Loaded  ───────────▶            (or Refused)
//!                ◀───────────  Run
//! WantInput      ───────────▶            when the guest first reads a stream
//! Progress       ───────────▶            the latest, now and then
//!                ◀───────────  Cancel    asks the task to stop
//!                ◀───────────  InputFailed
//! Done           ───────────▶            and the worker is gone
//! ```
//!
//! Streams are not framed: stdin, stdout and stderr of the guest are the
//! worker's own descriptors 0, 1 and 2.

use crate::sandbox::{Fate, Progress};
use crate::task::Spec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Runner to worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    Run(Box<RunOrder>),
    Cancel,
    /// The input that comes on descriptor 0 cannot be read any further.
    InputFailed(String),
}

/// A task, as a worker gets it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RunOrder {
    pub(crate) task_id: u64,
    pub(crate) attempt: u32,
    pub(crate) spec: Spec,
    /// Until the deadline, when this was sent.
    pub(crate) remaining: Option<Duration>,
    pub(crate) input: Input,
    /// The budget of stdout and stderr.
    pub(crate) stdout_budget: Option<u64>,
    pub(crate) stderr_budget: Option<u64>,
}

/// Where the input is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Input {
    /// Here, whole.
    Inline(Bytes),
    /// Comes on descriptor 0, once the worker says `WantInput`.
    Stream,
}

/// Worker to runner.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum WorkerSays {
    /// The artifact is mapped and linked.
    Loaded,
    /// The engine does not take the artifact; compiling anew would help.
    Stale(String),
    /// The artifact cannot be linked; nothing would help.
    Refused(String),
    WantInput,
    Progress(Progress),
    Done(Box<Done>),
    /// The host's side failed: no sandbox could be made, or a grant is gone.
    Failed {
        message: String,
        grant: bool,
    },
}

/// A worker's last word.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) fate: Fate,
    /// Output that did not go through descriptor 1.
    pub(crate) output: Bytes,
    /// Bytes that went through descriptors 1 and 2.
    pub(crate) stdout_len: u64,
    pub(crate) stderr_len: u64,
}
