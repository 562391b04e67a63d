//! A program that is expected to crash: a whole runner in thread mode, with its tasks, for
//! faults that its host does not survive.
//!
//! It gets one order and reports in a few lines. It is started by the thread that waits for
//! it: the kernel's parent-death signal refers to that thread. Invariants: every wait for
//! it is bounded; when a [`CrashHost`] is dropped, it and all in its process group are
//! dead, and it is reaped. Its output is not trusted to be short.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use wrun::measure::{
    deadline::Deadline,
    process::{ProcessError, Reaped, WORKER_ARG, start, worker_program},
    sys::{End, Program},
};

/// The name of the role that makes a worker program such a host.
pub(super) const NAME: &str = "crash-host";

/// Maximum size of its order in bytes: as much as fits a pipe that is not read yet.
pub(super) const MAX_ORDER: usize = 16 << 10;
/// Maximum of its output in bytes.
const MAX_SAID: usize = 64 << 10;

/// The one variable in its environment, as a secret to find.
const SECRET: &str = "WRUN_SECRET=what only the host should know";

/// See the [module](self).
pub(super) struct CrashHost {
    child: Reaped,
    life: OwnedFd,
    words: PipeReader,
    said: Vec<u8>,
    /// Bytes of `said` that were passed on.
    used: usize,
}

/// The result of waiting for its output.
pub(super) enum Said {
    Line(String),
    /// No more will come.
    Closed,
    /// Its time was up.
    Late,
}

/// How it died.
pub(super) enum Died {
    Of(End),
    /// It did not die, and was killed.
    Hung,
}

impl CrashHost {
    /// Starts one, from the worker program that an embedder named or from this program.
    pub(super) fn start(named: Option<&Path>, order: &str) -> Result<Self, ProcessError> {
        let system = |what| move |source| ProcessError::System { what, source };
        let pipes = system("cannot make pipes for a program");
        if order.len() > MAX_ORDER {
            return Err(pipes(io::Error::other("the order is too long")));
        }
        let program = worker_program(named)?;
        let (its_order, mut telling) = io::pipe().map_err(&pipes)?;
        let (words, its_words) = io::pipe().map_err(&pipes)?;
        rustix::io::ioctl_fionbio(&words, true).map_err(|errno| pipes(errno.into()))?;
        telling.write_all(order.as_bytes()).map_err(&pipes)?;
        drop(telling);
        let null = wrun::measure::sys::null().map_err(&pipes)?;
        let pid = std::process::id().to_string();
        let started = start(&Program {
            path: &program,
            args: &["wrun-crash-host", WORKER_ARG, &pid, NAME],
            env: &[SECRET],
            stdin: its_order.as_fd(),
            stdout: its_words.as_fd(),
            stderr: null.as_fd(),
        });
        let member = started.map_err(|source| ProcessError::Spawn {
            program: program.clone(),
            source,
        })?;
        // From here on only the child has its ends.
        drop((its_order, its_words));
        let child = Reaped::new(member);
        let life = Pid::from_raw(child.id())
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|errno| system("cannot watch a program")(errno.into()))?;
        Ok(CrashHost {
            child,
            life,
            words,
            said: Vec::new(),
            used: 0,
        })
    }

    /// Its next line, before `until`.
    ///
    /// # Errors
    ///
    /// Its output is too long, or the system fails.
    pub(super) fn line(&mut self, until: Option<Deadline>) -> io::Result<Said> {
        loop {
            let rest = &self.said[self.used..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.used += end + 1;
                return Ok(Said::Line(line));
            }
            let mut bytes = [0; 4096];
            match self.words.read(&mut bytes) {
                Ok(0) => return Ok(Said::Closed),
                Ok(read) if self.said.len() + read > MAX_SAID => {
                    return Err(io::Error::other("its output is too long"));
                }
                Ok(read) => self.said.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Another process that survives may have its stdout.
                    let mut fds = [
                        PollFd::new(&self.words, PollFlags::IN),
                        PollFd::new(&self.life, PollFlags::IN),
                    ];
                    if !wait_readable(&mut fds, until)? {
                        return Ok(Said::Late);
                    }
                    let [words, life] = fds.map(|fd| !fd.revents().is_empty());
                    if life && !words {
                        return Ok(Said::Closed);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for its death, at most until then, and ends and reaps all of it.
    pub(super) fn end(mut self, until: Option<Deadline>) -> Died {
        let mut fds = [PollFd::new(&self.life, PollFlags::IN)];
        let died = matches!(wait_readable(&mut fds, until), Ok(true));
        let end = self.child.end().map(|exit| exit.end);
        // Or other code has reaped it.
        match end.or_else(|| wrun::measure::sys::end_of_reaped(self.life.as_fd())) {
            Some(end) if died => Died::Of(end),
            _ => Died::Hung,
        }
    }
}

fn wait_readable(fds: &mut [PollFd<'_>], until: Option<Deadline>) -> io::Result<bool> {
    loop {
        let left = until.map_or(Duration::ZERO, Deadline::left);
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(fds, Some(&left)) {
            Ok(0) if until.is_none_or(Deadline::has_passed) => return Ok(false),
            Ok(0) => {}
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
