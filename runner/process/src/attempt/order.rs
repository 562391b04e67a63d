//! The order for a worker: the frame, its descriptors, and the runner's ends of the pipes
//! among them.

use crate::channel::Sender;
use crate::http::{Requesting, Responding};
use crate::owners::{self, Owners};
use crate::plain::SentOrder;
use crate::stream::Stream;
use crate::wire::{Input, Order, Output, RequestHead, RunOrder};
use bytes::Bytes;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;
use tokio::net::unix::pipe;
use wrun_sandbox::Budgets;
use wrun_sandbox::InputKind;
use wrun_sandbox::deadline::Deadline;
use wrun_sandbox::executor::Job;
use wrun_sandbox::port::{Port, PortParts};
use wrun_sandbox::{Sink, Source};
use wrun_types::error::{Error, ErrorKind};
use wrun_types::grant::DirGrant;

/// Input up to this size travels with the order.
const INLINE_INPUT: usize = 256 << 10;

/// Input for a pipe, and the pipe.
pub(super) type Feed = (Source, pipe::Sender);

/// A task whose order can be sent.
pub(super) struct Ready {
    pub(super) order: SentOrder,
    /// The descriptors that go with the order, as it counts them.
    pub(super) descriptors: Vec<OwnedFd>,
    /// For when the worker requests its input.
    pub(super) feed: Option<Feed>,
    pub(super) streams: Streams,
    /// The worker gets no pipe for input, no directory, no address and no port: nothing of
    /// the task is left in it that another task could find.
    pub(super) self_contained: bool,
    /// The request that goes to it after the order, and the response.
    pub(super) exchange: Option<(Requesting, Responding)>,
}

/// How the output of a worker arrives.
pub(super) struct Streams {
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
    pub(super) stdout_piped: bool,
    pub(super) stderr_piped: bool,
    /// Stderr comes with stdout, in the order in which both are written.
    pub(super) joined: bool,
}

impl Ready {
    /// Takes the input and the port of `job`. An order that was sent already is not made
    /// again. Needs the context of a tokio runtime.
    pub(super) fn new(
        job: &mut Job,
        owners: Option<&Owners>,
        sent_order: Option<SentOrder>,
    ) -> Result<Self, Error> {
        let mut theirs = Vec::new();
        let stdin = std::mem::replace(&mut job.stdin, InputKind::Bytes(Bytes::new()));
        let (input, feed) = input_of(stdin, &mut theirs)?;
        let outputs = Outputs::new(job, &mut theirs)?;
        for grant in &job.spec.dirs {
            theirs.push(directory(grant, owners)?);
        }
        let port = match job.port.take() {
            Some(port) => Some(parts_of(port, &mut theirs)?),
            None => None,
        };
        let max_output = job.spec.limits.max_output;
        let (request, exchange) = match job.exchange.take() {
            Some(exchange) => {
                let (head, requesting, responding) =
                    Requesting::new(*exchange, job.task_id, max_output);
                (Some(head), Some((requesting, responding)))
            }
            None => (None, None),
        };
        let self_contained = feed.is_none()
            && job.spec.dirs.is_empty()
            && job.spec.tcp.is_empty()
            // Other processes could have its ports.
            && port.is_none();
        let order = match sent_order {
            Some(sent_order) => sent_order,
            None => order_of(job, input, &outputs, port, request)?,
        };
        Ok(Ready {
            order,
            descriptors: theirs,
            feed,
            streams: outputs.into_streams(job),
            self_contained,
            exchange,
        })
    }
}

/// The worker's input; large input comes by a pipe, whose other end goes to `theirs`.
fn input_of(stdin: InputKind, theirs: &mut Vec<OwnedFd>) -> Result<(Input, Option<Feed>), Error> {
    match stdin {
        InputKind::Bytes(bytes) if bytes.len() <= INLINE_INPUT => Ok((Input::Inline(bytes), None)),
        // The worker enforces the limit, with the code that thread mode uses.
        other => {
            let (sender, receiver) = pipe::pipe().map_err(no_pipe)?;
            theirs.push(receiver.into_blocking_fd().map_err(no_pipe)?);
            Ok((Input::Pipe, Some((Source::new(other, None), sender))))
        }
    }
}

/// The worker's output, and the runner's ends of its pipes.
struct Outputs {
    stdout: Output,
    stderr: Output,
    joined: bool,
    stdout_pipe: Option<pipe::Receiver>,
    stderr_pipe: Option<pipe::Receiver>,
}

impl Outputs {
    fn new(job: &Job, theirs: &mut Vec<OwnedFd>) -> Result<Self, Error> {
        let limits = &job.spec.limits;
        let mut output = |sink: &Sink, piped: bool| -> Result<_, Error> {
            let budget = limits.output_budget(sink.is_capture());
            if !piped {
                return Ok((Output { piped, budget }, None));
            }
            let (sender, receiver) = pipe::pipe().map_err(no_pipe)?;
            theirs.push(sender.into_blocking_fd().map_err(no_pipe)?);
            Ok((Output { piped, budget }, Some(receiver)))
        };
        let is_command = job.artifact.shape().is_command();
        // The reader of a stream sets the pace; captured or discarded output never waits. What a
        // handler of HTTP requests prints is little, if anything: a pipe for it would cost more
        // than all the rest.
        let needs_pipe = |sink: &Sink| is_command || (sink.is_channel() && job.exchange.is_none());
        let (stdout, stdout_pipe) = output(&job.stdout, needs_pipe(&job.stdout))?;
        // Streams that must keep their common order share one pipe.
        let joined = job.stderr.joins(&job.stdout);
        let piped = !joined && needs_pipe(&job.stderr);
        let (stderr, stderr_pipe) = output(&job.stderr, piped)?;
        Ok(Outputs {
            stdout,
            stderr,
            joined,
            stdout_pipe,
            stderr_pipe,
        })
    }

    fn into_streams(self, job: &Job) -> Streams {
        let also = self.joined.then_some(&job.stderr);
        Streams {
            stdout: Stream::new(self.stdout_pipe, &job.stdout, also),
            stderr: Stream::new(self.stderr_pipe, &job.stderr, None),
            stdout_piped: self.stdout.piped,
            stderr_piped: self.stderr.piped,
            joined: self.joined,
        }
    }
}

/// A granted directory, as the worker is to see it.
fn directory(grant: &DirGrant, owners: Option<&Owners>) -> Result<OwnedFd, Error> {
    let cannot = |what: &str, error: io::Error| {
        let path = grant.host.display();
        Error::new(
            ErrorKind::InvalidTask,
            format!("cannot {what} {path}: {error}"),
        )
    };
    let opened = owners::open(&grant.host);
    let opened = opened.map_err(|error| cannot("open the granted directory", error))?;
    match owners {
        // It was mappable a moment ago.
        Some(owners) => owners
            .map(opened.as_fd())
            .map_err(|error| cannot("map the owners of the granted directory", error)),
        None => Ok(opened),
    }
}

/// A port for the frame; its descriptors go to `theirs`.
fn parts_of(port: Port, theirs: &mut Vec<OwnedFd>) -> Result<PortParts, Error> {
    let in_use = || no_pipe(io::Error::other("its port is in use"));
    let (parts, descriptors) = port.into_parts().ok_or_else(in_use)?;
    theirs.extend(descriptors);
    Ok(parts)
}

/// The frame of an order, made now.
fn order_of(
    job: &Job,
    input: Input,
    outputs: &Outputs,
    port: Option<PortParts>,
    request: Option<RequestHead>,
) -> Result<SentOrder, Error> {
    let order = Order::Run(Box::new(RunOrder {
        task_id: job.task_id,
        attempt: job.attempt,
        spec: (*job.spec).clone(),
        remaining: job.deadline.map(Deadline::left),
        input,
        stdout: outputs.stdout,
        stderr: outputs.stderr,
        joined: outputs.joined,
        port,
        request,
    }));
    let frame = Sender::frame(&order)
        .map_err(|error| Error::new(ErrorKind::InvalidTask, format!("the task: {error}")))?;
    let at = Instant::now();
    Ok(SentOrder { frame, sent: 0, at })
}

fn no_pipe(error: io::Error) -> Error {
    Error::new(
        ErrorKind::System,
        format!("cannot make pipes for a task: {error}"),
    )
}
