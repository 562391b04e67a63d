//! The output of a guest on its way out of its worker: what it writes and what it returns.
//!
//! A command's output is sent as it is produced, by a pipe or in frames. The result of
//! `run` is sent in one piece, with the last message if it is small.

use crate::channel::Sender;
use crate::wire::{RunOrder, WorkerSays};
use bytes::Bytes;
use std::io;
use std::os::fd::OwnedFd;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use wrun_sandbox::Sink;

/// Output up to this size travels with the last message.
const INLINE_OUTPUT: usize = 256 << 10;
/// Larger output travels in frames of this size, if there is no pipe.
const OUTPUT_FRAME: usize = 1 << 20;

/// While the guest runs.
pub(super) struct Outputs {
    pub(super) stdout: Sink,
    pub(super) stderr: Sink,
    /// Output that is sent in frames.
    pub(super) framed_stdout: Option<mpsc::Receiver<Bytes>>,
    pub(super) framed_stderr: Option<mpsc::Receiver<Bytes>>,
    pipes: Pipes,
    ordered: Ordered,
}

/// Output that is sent by pipes.
#[derive(Default)]
struct Pipes {
    /// For a returned output, if it is large.
    returned: Option<pipe::Sender>,
    stdout: Option<Pump>,
    stderr: Option<Pump>,
}

/// Returns its pipe, while the pipe has a reader.
type Pump = JoinHandle<Option<pipe::Sender>>;

/// The destinations in the order.
#[derive(Clone, Copy)]
struct Ordered {
    is_command: bool,
    /// Stderr goes where stdout goes.
    joined: bool,
    stdout_piped: bool,
    stderr_piped: bool,
}

impl Outputs {
    pub(super) fn new(
        order: &RunOrder,
        is_command: bool,
        stdout_pipe: Option<OwnedFd>,
        stderr_pipe: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let joined = order.joined;
        let (stdout, stdout_chunks) = if is_command {
            let (sink, chunks) = Sink::channel(order.stdout.budget);
            (sink, Some(chunks))
        } else {
            (Sink::capture(order.stdout.budget.unwrap_or(u64::MAX)), None)
        };
        // A command's stderr shares one channel with its stdout.
        let beside = match joined && is_command {
            true => stdout.beside(order.stderr.budget),
            false => None,
        };
        let (stderr, stderr_chunks) = match beside {
            Some(stderr) => (stderr, None),
            None => {
                let (stderr, chunks) = Sink::channel(order.stderr.budget);
                (stderr, Some(chunks))
            }
        };
        // If a task returns its output, what it prints precedes it in the same pipe.
        let (stdout_pipe, stderr_pipe) = match joined && !is_command {
            true => (None, stdout_pipe),
            false => (stdout_pipe, stderr_pipe),
        };
        let mut pipes = Pipes::default();
        let framed_stdout = match (stdout_chunks, stdout_pipe) {
            (Some(chunks), Some(fd)) => {
                pipes.stdout = Some(pump_to(fd, chunks)?);
                None
            }
            (chunks, None) => chunks,
            (None, Some(fd)) => {
                pipes.returned = Some(pipe::Sender::from_owned_fd(fd)?);
                None
            }
        };
        let framed_stderr = match (stderr_chunks, stderr_pipe) {
            (Some(chunks), Some(fd)) => {
                pipes.stderr = Some(pump_to(fd, chunks)?);
                None
            }
            (chunks, _) => chunks,
        };
        Ok(Outputs {
            stdout,
            stderr,
            framed_stdout,
            framed_stderr,
            pipes,
            ordered: Ordered {
                is_command,
                joined,
                stdout_piped: order.stdout.piped,
                stderr_piped: order.stderr.piped,
            },
        })
    }

    pub(super) fn has_framed_stderr(&self) -> bool {
        self.framed_stderr.is_some()
    }

    /// The guest has ended: the channels get no more output.
    pub(super) fn end(mut self) -> Rest {
        let framed = [&mut self.framed_stdout, &mut self.framed_stderr];
        for chunks in framed.into_iter().flatten() {
            chunks.close();
        }
        // Pumps end when the last sink is dropped.
        Rest {
            returned: self.stdout.take(),
            large: Bytes::new(),
            stdout_len: self.stdout.accepted(),
            stderr_len: self.stderr.accepted(),
            framed_stdout: self.framed_stdout,
            framed_stderr: self.framed_stderr,
            pipes: self.pipes,
            ordered: self.ordered,
        }
    }
}

/// After the guest has ended: output that was not sent yet.
pub(super) struct Rest {
    /// The captured output, until it is sent.
    returned: Bytes,
    /// The part of it that is sent by a pipe.
    large: Bytes,
    stdout_len: u64,
    stderr_len: u64,
    framed_stdout: Option<mpsc::Receiver<Bytes>>,
    framed_stderr: Option<mpsc::Receiver<Bytes>>,
    pipes: Pipes,
    ordered: Ordered,
}

impl Rest {
    /// Sends the output that waits in the channels.
    pub(super) async fn say_framed(&mut self, says: &mut Sender) -> io::Result<()> {
        while let Some(chunk) = next_chunk(&mut self.framed_stdout).await {
            says.say(&WorkerSays::Stdout(chunk)).await?;
        }
        while let Some(chunk) = next_chunk(&mut self.framed_stderr).await {
            says.say(&WorkerSays::Stderr(chunk)).await?;
        }
        Ok(())
    }

    /// Sends the part of the returned output that is too large for the last message, unless
    /// there is a pipe for it; returns the rest, for the last message.
    pub(super) async fn say_returned(&mut self, says: &mut Sender) -> io::Result<Bytes> {
        let mut output = std::mem::take(&mut self.returned);
        if output.len() <= INLINE_OUTPUT {
            return Ok(output);
        }
        if self.pipes.returned.is_some() || self.ordered.joined {
            self.large = output;
            return Ok(Bytes::new());
        }
        while output.len() > INLINE_OUTPUT {
            let frame = output.split_to(output.len().min(OUTPUT_FRAME));
            says.say(&WorkerSays::Stdout(frame)).await?;
        }
        Ok(output)
    }

    /// Total of bytes sent by the pipe for stdout.
    pub(super) fn piped_stdout(&self) -> u64 {
        let Ordered {
            is_command, joined, ..
        } = self.ordered;
        let large = self.large.len() as u64;
        match (is_command, self.ordered.stdout_piped) {
            (true, true) if joined => self.stdout_len.saturating_add(self.stderr_len),
            (true, true) => self.stdout_len,
            (false, true) if joined => self.stderr_len.saturating_add(large),
            (false, true) => large,
            (_, false) => 0,
        }
    }

    /// Total of bytes sent by the pipe for stderr.
    pub(super) fn piped_stderr(&self) -> u64 {
        match self.ordered.stderr_piped {
            true => self.stderr_len,
            false => 0,
        }
    }

    /// Waits until everything is in those pipes that have a reader.
    pub(super) async fn end_pipes(self) {
        let Rest {
            large,
            pipes,
            ordered,
            ..
        } = self;
        if let Some(mut pipe) = pipes.returned {
            let _ = pipe.write_all(&large).await;
        }
        for pump in [pipes.stdout, pipes.stderr].into_iter().flatten() {
            // Pumps that gave up have no pipe left.
            if let Ok(Some(mut pipe)) = pump.await
                && ordered.joined
                && !large.is_empty()
            {
                let _ = pipe.write_all(&large).await;
            }
        }
    }
}

pub(super) async fn next_chunk(chunks: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match chunks {
        Some(chunks) => chunks.recv().await,
        None => None,
    }
}

fn pump_to(pipe: OwnedFd, chunks: mpsc::Receiver<Bytes>) -> io::Result<Pump> {
    let pipe = pipe::Sender::from_owned_fd(pipe)?;
    Ok(tokio::spawn(pump(chunks, pipe)))
}

/// Writes chunks to a pipe; returns the pipe while it has a reader.
async fn pump(mut chunks: mpsc::Receiver<Bytes>, mut pipe: pipe::Sender) -> Option<pipe::Sender> {
    while let Some(chunk) = chunks.recv().await {
        if pipe.write_all(&chunk).await.is_err() {
            // There is no reader: dropping the receiver tells the guest.
            return None;
        }
    }
    Some(pipe)
}
