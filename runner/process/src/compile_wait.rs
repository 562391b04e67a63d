//! Waiting for a compiler: its messages to its runner, its other output, and its death.
//!
//! Invariant: a wait ends at the latest when the time for compiling is up, whatever the
//! child does; and the kept part of its output is bounded.

use super::error::{ProcessError, system};
use super::reaped::Reaped;
use super::stderr::plain;
use crate::wire::{CompilerSays, Decoder, Hello, MAX_ANSWER};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use wrun_sandbox::LoadError;
use wrun_sandbox::deadline::Deadline;
use wrun_sys::{self, Exit};

/// A program that has not greeted by then is not a compiler.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long a child that closed its socket may take to die.
const REAP_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum that is kept of a compiler's stdout and stderr; the rest is not read.
const MAX_WORDS: usize = 16 << 10;

/// How the wait ended for a child that has not compiled.
pub(super) enum Ending {
    Refused(LoadError),
    Failed(String),
    /// Its jail cannot be set up.
    Jail(ProcessError),
    /// It died before it sent anything.
    Silent,
    TimedOut,
    Closed,
    /// It broke the protocol.
    Broke(String),
}

/// The connections to a child.
pub(super) struct Ears {
    life: OwnedFd,
    socket: UnixStream,
    /// Its stdout and stderr.
    output: PipeReader,
    /// The bytes received so far: from the socket, and from its output.
    answer: Vec<u8>,
    pub(super) heard: Vec<u8>,
    /// More output may come.
    hearing: bool,
    pub(super) greeted: bool,
    /// Its first message was that it continues as another process.
    moved: bool,
}

impl Ears {
    /// For a child with this pidfd, whose socket and output do not block.
    pub(super) fn new(life: OwnedFd, socket: UnixStream, output: PipeReader) -> Self {
        Ears {
            life,
            socket,
            output,
            answer: Vec::new(),
            heard: Vec::new(),
            hearing: true,
            greeted: false,
            moved: false,
        }
    }

    /// How the child ended, if other code has reaped it.
    pub(super) fn exit(&self) -> Option<Exit> {
        let end = wrun_sys::end_of_reaped(self.life.as_fd())?;
        Some(Exit { end, usage: None })
    }

    /// Waits until the child has compiled (`None`), or has reported why not, is dead, has
    /// used up `time` since its greeting, or `closed` shows that the result is not needed
    /// any more.
    pub(super) fn wait(
        &mut self,
        child: &mut Reaped,
        closed: &PipeReader,
        time: Duration,
    ) -> Result<Option<Ending>, LoadError> {
        let mut end = Deadline::after(HANDSHAKE);
        loop {
            let Some([gave_up, died]) = self.ready(closed, end)? else {
                return Ok(Some(Ending::TimedOut));
            };
            if gave_up {
                return Ok(Some(Ending::Closed));
            }
            let was_greeted = self.greeted;
            self.read_output();
            let open = self.listen();
            let word = self.word();
            if self.greeted && !was_greeted {
                end = Deadline::after(time);
            }
            match word {
                Ok(Some(CompilerSays::Moved(pid))) if !self.moved => match child.moved(pid) {
                    Ok(life) => {
                        self.life = life;
                        self.moved = true;
                        continue;
                    }
                    Err(error) => {
                        let what = format!("it reported an invalid process number: {error}");
                        return Ok(Some(Ending::Broke(what)));
                    }
                },
                Ok(Some(CompilerSays::Moved(_))) => {
                    return Ok(Some(Ending::Broke("it reported a move twice".to_owned())));
                }
                Ok(Some(CompilerSays::NoJail(mut layer))) => {
                    layer.detail = plain(&layer.detail);
                    return Ok(Some(Ending::Jail(ProcessError::NoJail(layer))));
                }
                Ok(Some(CompilerSays::JailFailed(message))) => {
                    let message = plain(&message);
                    return Ok(Some(Ending::Jail(ProcessError::JailFailed { message })));
                }
                Ok(Some(CompilerSays::Compiled)) => return Ok(None),
                Ok(Some(CompilerSays::Refused(why))) => return Ok(Some(Ending::Refused(why))),
                Ok(Some(CompilerSays::Failed(why))) => return Ok(Some(Ending::Failed(why))),
                Ok(None) => {}
                Err(what) => return Ok(Some(Ending::Broke(what))),
            }
            if died {
                return Ok(Some(Ending::Silent));
            }
            if !open {
                // It is probably dying, and how it dies says more than the closed socket.
                let soon = Deadline::after(REAP_TIMEOUT);
                let died = wait_readable(&mut [PollFd::new(&self.life, PollFlags::IN)], soon)?;
                return Ok(Some(if died {
                    Ending::Silent
                } else {
                    Ending::Broke("it closed its socket but did not end".to_owned())
                }));
            }
        }
    }

    /// Waits until something happens: returns whether the result is not needed any more,
    /// and whether the child is dead. `None` if nothing happened until `end`.
    fn ready(
        &self,
        closed: &PipeReader,
        end: Option<Deadline>,
    ) -> Result<Option<[bool; 2]>, LoadError> {
        let fd = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = vec![
            fd(closed.as_fd()),
            fd(self.life.as_fd()),
            fd(self.socket.as_fd()),
        ];
        // At its end it would always be ready.
        if self.hearing {
            fds.push(fd(self.output.as_fd()));
        }
        Ok(wait_readable(&mut fds, end)?
            .then(|| [0, 1].map(|index| !fds[index].revents().is_empty())))
    }

    /// Reads the available output of the child.
    pub(super) fn read_output(&mut self) {
        let mut bytes = [0; 4096];
        while self.hearing {
            match self.output.read(&mut bytes) {
                Ok(0) => self.hearing = false,
                Ok(len) => self.heard.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.hearing = false,
            }
            self.hearing &= self.heard.len() < MAX_WORDS;
        }
    }

    /// Reads what is available of the child's message; returns whether more can come.
    fn listen(&mut self) -> bool {
        let mut bytes = [0; 4096];
        while self.answer.len() <= MAX_ANSWER {
            match self.socket.read(&mut bytes) {
                Ok(0) => return false,
                Ok(len) => self.answer.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Reset, if the child ended without reading.
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    /// The child's message, once it is complete; the error is how it broke the protocol.
    fn word(&mut self) -> Result<Option<CompilerSays>, String> {
        let Some((hello, rest)) = self.answer.split_first_chunk::<{ Hello::LEN }>() else {
            return Ok(None);
        };
        Hello::decode(hello).map_err(|error| error.to_string())?;
        self.greeted = true;
        if self.answer.len() > MAX_ANSWER {
            return Err(format!("it said more than {MAX_ANSWER} bytes"));
        }
        let mut decoder = Decoder::default();
        decoder.push(rest);
        let mut next = || decoder.next().map_err(|error| error.to_string());
        if self.moved {
            next()?;
        }
        next()
    }
}

/// Waits until one of them is ready or closed; `false` if none was until `end`.
fn wait_readable(fds: &mut [PollFd<'_>], end: Option<Deadline>) -> Result<bool, LoadError> {
    loop {
        let left = end.map(Deadline::left);
        // A child that is always ready does not get more time.
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(fds, left.as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(system("cannot wait for a compiler")(errno.into()).into()),
        }
    }
}
