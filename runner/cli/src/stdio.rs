//! The standard streams. Other programs may share them, and may have made the pipe, socket
//! or terminal behind them `O_NONBLOCK` for all who share it. Reading and writing then
//! return `EAGAIN`, and must wait.
//!
//! Invariant: flags are not changed; nothing is lost while there is a reader; and the final
//! output does not keep signals from ending the program.

use super::signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What a pipe with room accepts at once without blocking the writer: `PIPE_BUF`.
const AT_ONCE: usize = 4096;
/// How often a stalled final write checks for a signal.
const LOOK_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// How long final output may take after a signal.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A descriptor that is read and written as if it were blocking, whether it is or not.
#[derive(Debug)]
pub(super) struct Patient<F>(pub(super) F);

/// The standard streams.
pub(super) fn stdin() -> Patient<BorrowedFd<'static>> {
    Patient(rustix::stdio::stdin())
}

pub(super) fn stdout() -> Patient<BorrowedFd<'static>> {
    Patient(rustix::stdio::stdout())
}

pub(super) fn stderr() -> Patient<BorrowedFd<'static>> {
    Patient(rustix::stdio::stderr())
}

/// Whether stdout and stderr are one pipe, socket, terminal or file.
pub(super) fn are_one() -> bool {
    let identity = |fd: BorrowedFd<'_>| {
        let stat = rustix::fs::fstat(fd).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    let stdout = identity(rustix::stdio::stdout());
    stdout.is_some() && stdout == identity(rustix::stdio::stderr())
}

impl<F: AsFd> Patient<F> {
    fn wait(&self, wanted: PollFlags, time: Option<&Timespec>) -> io::Result<bool> {
        let mut watched = [PollFd::new(&self.0, wanted)];
        match poll(&mut watched, time) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes the program's final output. Waits for the reader, but after a signal only for
    /// a moment.
    pub(super) fn say(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut give_up = None;
        while !bytes.is_empty() {
            if !self.wait(PollFlags::OUT, Some(&LOOK_EVERY))? {
                if signals::arrived().is_some() {
                    let now = Instant::now();
                    if now >= *give_up.get_or_insert(now + LAST_WORDS) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                continue;
            }
            match rustix::io::write(&self.0, &bytes[..bytes.len().min(AT_ONCE)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => bytes = &bytes[len..],
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

impl<F: AsFd> Patient<F> {
    /// Writes a few bytes if that does not block.
    pub(super) fn write_if_ready(&self, bytes: &[u8]) {
        if self
            .wait(PollFlags::OUT, Some(&Timespec::default()))
            .unwrap_or(false)
        {
            let _ = rustix::io::write(&self.0, bytes);
        }
    }
}

impl<F: AsFd> Read for Patient<F> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.0, &mut *bytes) {
                Err(Errno::AGAIN) => {
                    self.wait(PollFlags::IN, None)?;
                }
                Err(Errno::INTR) => {}
                read => return Ok(read?),
            }
        }
    }
}

impl<F: AsFd> Write for Patient<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.0, bytes) {
                Err(Errno::AGAIN) => {
                    self.wait(PollFlags::OUT, None)?;
                }
                Err(Errno::INTR) => {}
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether text for stderr, or for stdout, may have colours.
pub(super) fn has_colours(stderr: bool) -> bool {
    let is = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_terminal = match stderr {
        true => io::stderr().is_terminal(),
        false => io::stdout().is_terminal(),
    };
    is_terminal && !is("NO_COLOR") && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_takes_and_has_nothing_is_waited_for() {
        const LEN: usize = 1 << 20;
        let (reader, writer) = io::pipe().expect("pipe");
        for end in [reader.as_fd(), writer.as_fd()] {
            rustix::io::ioctl_fionbio(end, true).expect("non-blocking");
        }
        let before = rustix::fs::fcntl_getfl(&writer).expect("flags");
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut reader = Patient(reader.as_fd());
                let mut bytes = vec![0; 2 * LEN];
                reader.read_exact(&mut bytes).expect("all of it");
                bytes
            });
            let mut writer = Patient(writer.as_fd());
            writer.write_all(&vec![1; LEN]).expect("written");
            writer.say(&vec![2; LEN]).expect("said");
            let bytes = reading.join().expect("no panic");
            assert!(bytes[..LEN].iter().all(|byte| *byte == 1));
            assert!(bytes[LEN..].iter().all(|byte| *byte == 2));
        });
        assert_eq!(rustix::fs::fcntl_getfl(&writer).expect("flags"), before);
        drop(reader);
        let error = Patient(writer.as_fd()).say(b"x").expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(writer.as_raw_fd() > 2);
    }
}
