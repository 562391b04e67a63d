//! One worker process as its runner sees it: its pipes, its death, its end.
//!
//! Invariant: a [`Worker`] that is dropped is killed and reaped; nothing else
//! waits for that process.

use super::spawn::Started;
use crate::outcome::Crash;
use crate::sys::Pidfd;
use crate::wire::{self, Decoder, FrameError, Hello};
use serde::Serialize;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::OwnedSemaphorePermit;

/// The runner's ends of a worker's pipes.
pub(super) struct Ends {
    pub(super) orders: OwnedFd,
    pub(super) says: OwnedFd,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// The pipes that carry the guest's own streams.
pub(super) struct Streams {
    pub(super) stdin: pipe::Sender,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
}

/// Where orders are written.
pub(super) struct Orders(pipe::Sender);

/// Where a worker's words are read.
pub(super) struct Says {
    pipe: pipe::Receiver,
    decoder: Decoder,
}

/// The process itself.
pub(super) struct Process {
    child: Child,
    pidfd: Pidfd,
    reaped: bool,
    _permit: OwnedSemaphorePermit,
}

/// A started worker.
pub(super) struct Worker {
    pub(super) process: Process,
    pub(super) orders: Orders,
    pub(super) says: Says,
    pub(super) streams: Streams,
}

/// Why nothing more comes from a worker.
#[derive(Debug, thiserror::Error)]
pub(super) enum SaysError {
    /// It closed its end, or died.
    #[error("it went silent")]
    Closed,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Worker {
    pub(super) fn new(started: Started, ends: Ends) -> io::Result<Self> {
        let pidfd = Pidfd::open(started.id())?;
        let Some((child, permit)) = started.into_parts() else {
            return Err(io::Error::other("a process that is gone"));
        };
        let process = Process {
            child,
            pidfd,
            reaped: false,
            _permit: permit,
        };
        // From here on `process` kills and reaps if anything fails.
        Ok(Worker {
            process,
            orders: Orders(pipe::Sender::from_owned_fd(ends.orders)?),
            says: Says {
                pipe: pipe::Receiver::from_owned_fd(ends.says)?,
                decoder: Decoder::default(),
            },
            streams: Streams {
                stdin: pipe::Sender::from_owned_fd(ends.stdin)?,
                stdout: pipe::Receiver::from_owned_fd(ends.stdout)?,
                stderr: pipe::Receiver::from_owned_fd(ends.stderr)?,
            },
        })
    }
}

impl Orders {
    pub(super) async fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.write_all(frame).await
    }

    pub(super) fn frame(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
        wire::encode(message)
    }
}

impl Says {
    /// The greeting, which comes first.
    pub(super) async fn hello(&mut self) -> Result<Hello, SaysError> {
        let mut bytes = [0; Hello::LEN];
        match self.pipe.read_exact(&mut bytes).await {
            Ok(_) => Ok(Hello::decode(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(SaysError::Closed),
            Err(error) => Err(error.into()),
        }
    }

    /// The next message. Cancel safe.
    pub(super) async fn next<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, SaysError> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(message);
            }
            let mut bytes = [0; 8192];
            match self.pipe.read(&mut bytes).await? {
                0 => return Err(SaysError::Closed),
                len => self.decoder.push(&bytes[..len]),
            }
        }
    }
}

impl Process {
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is already dead.
    pub(super) fn is_dead(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it; it may be dead already.
    pub(super) fn kill(&mut self) {
        if !self.reaped {
            self.pidfd.kill();
        }
    }

    /// Waits for its death and reaps it.
    pub(super) async fn wait(&mut self) -> Option<ExitStatus> {
        self.pidfd.exited().await;
        let status = self.child.wait().ok();
        self.reaped = true;
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// A wait status as a crash; `None` is a process that somebody else reaped.
pub(super) fn crash_of(status: Option<ExitStatus>) -> Crash {
    match status {
        None => Crash::Lost,
        Some(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => Crash::Signal(signal),
            (None, Some(code)) => Crash::Exit(code),
            (None, None) => Crash::Lost,
        },
    }
}
