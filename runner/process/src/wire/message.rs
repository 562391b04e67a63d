//! What runner and workers say to each other, after the greeting, in frames over
//! Unix sockets. Descriptors travel with the frame that counts them.
//!
//! ```text
//! started program              runner            the control socket
//!                ◀───────────  Start             with the artifact
//! Hello          ───────────▶
//! Moved          ───────────▶                    it lives on as another process
//! Ready          ───────────▶                    (or Stale, Refused, NoJail)
//!                ◀───────────  Fork              with a worker's socket and stderr
//! Forked         ───────────▶                    with the worker's pidfd
//! Ended          ───────────▶                    once per worker
//!
//! worker                       runner            its own socket
//!                ◀───────────  Run               with streams and directories
//! WantInput      ───────────▶                    when the guest first reads
//! Progress       ───────────▶                    the latest, now and then
//! Stdout, Stderr ───────────▶                    where no pipe was sent
//!                ◀───────────  Cancel            asks the task to stop
//!                ◀───────────  InputFailed
//! Ask            ───────────▶                    with its file and port; numbered
//!                ◀───────────  Answer            with its file
//! Tell           ───────────▶                    needs no answer
//! Response       ───────────▶                    to the HTTP request of its order
//! Http           ◀──────────▶                    parts of both bodies
//! Done           ───────────▶                    and, as a rule, is gone
//! ```
//!
//! A program that was started for one worker alone is that worker once it is
//! ready: its control socket goes on as the worker's own.

use super::ask::{WireAnswer, WireAsk};
use super::http::{Part, RequestHead, ResponseHead};
use crate::jail::Plan;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use wrun_sandbox::port::{PARTS, PortParts};
use wrun_sandbox::services::Word;
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
    /// A worker for the socket that comes along, under this number; then comes what is to
    /// be its stderr.
    Fork {
        id: u64,
        spare: Option<Spare>,
    },
}

/// What a program that was started is to be.
#[derive(Debug, Serialize, Deserialize)]
pub struct StartOrder {
    /// Forks workers; otherwise it is one.
    pub zygote: bool,
    pub plan: Plan,
    /// Tasks that one worker runs before it ends.
    pub tasks: u32,
    pub spare: Option<Spare>,
    /// The descriptor of an image of this program follows that of the artifact.
    pub image: Option<FileId>,
    /// So does the runner's clock, last.
    pub clock: bool,
}

/// For a task that is not there yet: there is time to warm_up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spare {
    /// What the task will likely have: the walls are tight before it comes.
    pub limits: Limits,
    /// Bytes that its process may have.
    pub memory: u64,
}

/// A started program to its runner.
#[derive(Debug, Serialize, Deserialize)]
pub enum ControlSays {
    /// It goes on as this process, and the one that was started ends.
    Moved(i32),
    /// The artifact is mapped and linked, the jail stands.
    Ready(JailReport),
    /// The engine does not take the artifact; compiling anew would help.
    Stale(String),
    /// The artifact cannot be linked; nothing would help.
    Refused(String),
    /// A required layer of the jail cannot be had.
    NoJail(LayerReport),
    /// The jail cannot be put up for another reason.
    JailFailed(String),
    /// The worker of this number is there.
    Forked(u64),
    /// It is not; the system's error number.
    NotForked(u64, i32),
    /// It ended, and was reaped.
    Ended(u64, Exit),
}

/// Runner to worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    Run(Box<RunOrder>),
    Cancel,
    /// The input that comes by a pipe cannot be read any further.
    InputFailed(String),
    /// To the ask of this number.
    Answer {
        id: u64,
        answer: WireAnswer,
    },
    /// Of the task of this number: a part of its request, or what becomes of its response.
    Http {
        task_id: u64,
        part: Part,
    },
}

/// A task, as a worker gets it. With it come, in this order and as far as it says
/// so, the pipes for stdin, stdout and stderr, the granted directories, and the
/// descriptors of a port.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunOrder {
    pub task_id: u64,
    pub attempt: u32,
    pub spec: Spec,
    /// Until the deadline, when this was sent.
    pub remaining: Option<Duration>,
    pub input: Input,
    pub stdout: Output,
    pub stderr: Output,
    /// Stderr goes where stdout goes, in the order in which both are written.
    pub joined: bool,
    /// The task's parent port.
    pub port: Option<PortParts>,
    /// What the task answers.
    pub request: Option<RequestHead>,
}

impl RunOrder {
    /// Descriptors that come along.
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
    /// Here, whole.
    Inline(Bytes),
    /// Comes by a pipe, once the worker says `WantInput`.
    Pipe,
}

/// Where an output stream goes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Output {
    /// By a pipe; else in frames.
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
    /// The host's side failed: no sandbox could be made, or a grant is gone.
    Failed {
        message: String,
        grant: bool,
    },
    /// Asks are numbered from 1, one after another.
    Ask {
        id: u64,
        ask: WireAsk,
    },
    Tell(Word),
    Response(ResponseHead),
    /// A part of the response, or what becomes of the request.
    Http(Part),
}

/// A worker's last word about a task.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    pub result: RunResult,
    /// Output that went neither by a pipe nor in frames before.
    pub output: Bytes,
    /// Bytes that went by the pipes.
    pub stdout_len: u64,
    pub stderr_len: u64,
    /// What the process used for this task.
    pub usage: Usage,
}
