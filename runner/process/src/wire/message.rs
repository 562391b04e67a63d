//! The messages between runner and workers after the greeting, in frames over Unix
//! sockets. Descriptors travel with the frame that counts them.
//!
//! ```text
//! started program              runner            the control socket
//!                ◀───────────  Start             with the artifact
//! Hello          ───────────▶
//! Moved          ───────────▶                    it continues as another process
//! Ready          ───────────▶                    (or Stale, Refused, NoJail)
//!                ◀───────────  Fork              with a worker's socket and stderr
//! Forked         ───────────▶                    with the worker's pidfd
//! Ended          ───────────▶                    once per worker
//!
//! worker                       runner            its own socket
//!                ◀───────────  Run               with streams and directories
//! WantInput      ───────────▶                    when the guest first reads
//! Progress       ───────────▶                    the latest, at most every 20 ms
//! Stdout, Stderr ───────────▶                    if no pipe was sent
//!                ◀───────────  Cancel            requests the task to stop
//!                ◀───────────  InputFailed
//! Request        ───────────▶                    numbered; with its file and port
//!                ◀───────────  Response          with its file
//! Notify         ───────────▶                    has no response
//! HttpHead       ───────────▶                    the response to an HTTP request
//! Fetch          ───────────▶                    an HTTP request of the guest
//!                ◀───────────  Fetched           its response
//! Http           ◀──────────▶                    parts of the bodies of both
//! Done           ───────────▶                    after which the worker usually ends
//! ```
//!
//! A program that was started for one worker is that worker once it is ready: its
//! control socket then becomes the worker's own.

use super::http::{ExchangeId, FetchHead, Part, RequestHead, ResponseHead};
use super::request::{WireRequest, WireResponse};
use crate::jail::Plan;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use wrun_sandbox::http::FetchError;
use wrun_sandbox::port::{PARTS, PortParts};
use wrun_sandbox::services::Notification;
use wrun_sandbox::{Progress, RunResult};
use wrun_sys::Exit;
use wrun_sys::FileId;
use wrun_types::jail_report::{JailReport, LayerReport};
use wrun_types::limits::Limits;
use wrun_types::report::Usage;
use wrun_types::spec::Spec;

/// Runner to a started program.
#[derive(Debug, Serialize, Deserialize)]
pub enum ControlOrder {
    Start(Box<StartOrder>),
    /// Fork a worker under this number. Its socket comes with the message, then its
    /// stderr.
    Fork {
        id: u64,
        spare: Option<Spare>,
    },
}

/// What a started program becomes.
#[derive(Debug, Serialize, Deserialize)]
pub struct StartOrder {
    /// It is a zygote, which forks workers; otherwise it is a worker.
    pub zygote: bool,
    pub plan: Plan,
    /// The number of tasks that one worker runs before it ends.
    pub tasks: u32,
    pub spare: Option<Spare>,
    /// The descriptor of an image of this program follows that of the artifact.
    pub image: Option<FileId>,
    /// The runner's clock is the last descriptor.
    pub clock: bool,
}

/// For a worker that is started before its task: it has time to warm up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spare {
    /// The limits that the task will probably have, so that the walls are tight before it
    /// comes.
    pub limits: Limits,
    /// Memory limit of its process, in bytes.
    pub memory: u64,
}

/// A started program to its runner.
#[derive(Debug, Serialize, Deserialize)]
pub enum ControlSays {
    /// It continues as this process, and the one that was started ends.
    Moved(i32),
    /// The artifact is mapped and linked, and the jail is set up.
    Ready(JailReport),
    /// The engine does not accept the artifact; compiling it again would help.
    Stale(String),
    /// The artifact cannot be linked; compiling it again would not help.
    Refused(String),
    /// A required layer of the jail is not available.
    NoJail(LayerReport),
    /// The jail cannot be set up for another reason.
    JailFailed(String),
    /// The worker of this number was forked.
    Forked(u64),
    /// The worker of this number was not forked; the system's error number.
    NotForked(u64, i32),
    /// The worker of this number ended, and was reaped.
    Ended(u64, Exit),
}

/// Runner to worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    Run(Box<RunOrder>),
    Cancel,
    /// The rest of the piped input cannot be read.
    InputFailed(String),
    /// To the request of this number.
    Response {
        id: u64,
        response: WireResponse,
    },
    /// For the task of this number: the response to a request that it sent, all but its body.
    Fetched {
        task_id: u64,
        exchange: ExchangeId,
        response: Result<ResponseHead, FetchError>,
    },
    /// For the task of this number: a part of a body, or how far a body of the task was taken.
    Http {
        task_id: u64,
        exchange: ExchangeId,
        part: Part,
    },
}

/// A task, as a worker gets it. If it says so, the pipes for stdin, stdout and stderr, the
/// granted directories, and the descriptors of a port come with it, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunOrder {
    pub task_id: u64,
    pub attempt: u32,
    pub spec: Spec,
    /// Time until the deadline when this was sent.
    pub remaining: Option<Duration>,
    pub input: Input,
    pub stdout: Output,
    pub stderr: Output,
    /// Stderr goes to stdout's sink, in the order in which both are written.
    pub joined: bool,
    /// The task's parent port.
    pub port: Option<PortParts>,
    /// What the task answers.
    pub request: Option<RequestHead>,
}

impl RunOrder {
    /// Number of descriptors that come with it.
    pub fn descriptors(&self) -> usize {
        usize::from(matches!(self.input, Input::Pipe))
            + usize::from(self.stdout.piped)
            + usize::from(self.stderr.piped)
            + self.spec.dirs.len()
            + self.port.map_or(0, |_| PARTS)
    }
}

/// Where the input is.
#[derive(Debug, Serialize, Deserialize)]
pub enum Input {
    /// All of it is here.
    Inline(Bytes),
    /// It comes by a pipe, after the worker sent `WantInput`.
    Pipe,
}

/// Where an output stream goes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Output {
    /// It goes by a pipe; otherwise in frames.
    pub piped: bool,
    pub budget: Option<u64>,
}

/// Worker to runner.
#[derive(Debug, Serialize, Deserialize)]
pub enum WorkerSays {
    WantInput,
    Progress(Progress),
    Stdout(Bytes),
    Stderr(Bytes),
    Done(Box<Done>),
    /// The host's side failed: the sandbox could not be made, or (`grant`) what was
    /// granted does not exist any more.
    Failed {
        message: String,
        grant: bool,
    },
    /// Requests are numbered 1, 2, 3 and so on.
    Request {
        id: u64,
        request: WireRequest,
    },
    Notify(Notification),
    /// The response to the HTTP request of the order, all but its body.
    HttpHead(ResponseHead),
    /// An HTTP request that the guest sends, all but its body.
    Fetch {
        exchange: ExchangeId,
        head: FetchHead,
    },
    /// A part of a body, or how far a body from the runner was taken.
    Http {
        exchange: ExchangeId,
        part: Part,
    },
}

/// A worker's last message about a task.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    pub result: RunResult,
    /// The output that was not sent by a pipe or in frames before.
    pub output: Bytes,
    /// Bytes that were sent by the pipes.
    pub stdout_len: u64,
    pub stderr_len: u64,
    /// What the process used for this task.
    pub usage: Usage,
    /// The guest was left where it was, and the process ends.
    pub spent: bool,
}
