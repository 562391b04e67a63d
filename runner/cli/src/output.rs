//! The destinations of a task's output, and the threads that copy it there as it is
//! produced.

use super::destination::{Destination, cannot_write};
use super::in_use::InUse;
use super::progress::Line;
use super::stdio::{self, Patient};
use super::terminal::{Filter, Terminal};
use super::{Failure, exit, log, stdout_failed};
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use wrun::{Killer, OutputStream};
use wrun_sys::Unpoisoned;

/// The destination of the task's output.
pub(super) struct Output {
    file: Option<Destination>,
    /// How long a named pipe may be without a reader.
    patience: Option<Duration>,
}

/// The result of copying a stream.
pub(super) type Copied = oneshot::Receiver<io::Result<()>>;

impl Output {
    /// Checks that the file, if there is one, can be written, and leaves its content: the
    /// task is not loaded yet. It must not be one of those `in_use`.
    pub(super) fn open(
        path: Option<&Path>,
        patience: Option<Duration>,
        in_use: &InUse<'_>,
    ) -> Result<Self, Failure> {
        let file = match path {
            Some(path) => Some(Destination::open("--output", path, in_use)?),
            None if wrun_sys::was_stdout_closed() => {
                return Err(stdout_failed(&rustix::io::Errno::BADF.into()));
            }
            None => {
                in_use.check_stdout()?;
                None
            }
        };
        Ok(Output { file, patience })
    }

    /// Whether it goes to stdout, by any name.
    pub(super) fn is_stdout(&self) -> bool {
        self.file.as_ref().is_none_or(Destination::is_stdout)
    }

    /// Whether it goes where stderr goes: then the order of both is kept.
    pub(super) fn is_stderrs(&self) -> bool {
        self.file.is_none() && stdio::are_one()
    }

    /// The failure if the destination accepts no more.
    pub(super) fn failed(path: Option<&Path>, error: &io::Error) -> Failure {
        match path {
            Some(path) => cannot_write(path, error),
            None => stdout_failed(error),
        }
    }

    /// Copies the task's stdout. If the destination accepts no more, the task is ended.
    pub(super) fn copy_stdout(
        &self,
        stream: Option<OutputStream>,
        killer: Killer,
        line: Line,
        terminal: Terminal,
        tail: Option<OutputTail>,
    ) -> Result<Copied, Failure> {
        let opener = match &self.file {
            None => None,
            Some(file) => Some(
                file.opener()
                    .map_err(|error| cannot_write(file.path(), &error))?,
            ),
        };
        let patience = self.patience;
        copy(stream, move |stream| {
            let written = match opener {
                Some(opener) => opener
                    .open(patience)
                    .and_then(|file| write_all(stream, &mut Patient(file))),
                None => {
                    // A tail is given only if stdout and stderr go to the same place.
                    let is_logs = tail.is_some();
                    let mut stdout = Tee(Beside(stdio::stdout(), is_logs), tail);
                    match io::stdout().is_terminal() {
                        true => show_all(stream, &mut stdout, &line, terminal),
                        false => write_all(stream, &mut stdout),
                    }
                }
            };
            if written.is_err() {
                killer.kill();
            }
            written
        })
    }

    /// Moves the copied output to its destination. Otherwise a file is unchanged.
    pub(super) fn keep(self) -> Result<(), Failure> {
        match self.file {
            Some(file) => file.keep(),
            None => Ok(()),
        }
    }

    /// What a file has of output that is not kept, for people.
    pub(super) fn left(&self) -> Option<String> {
        self.file.as_ref().and_then(Destination::left)
    }
}

/// Copies the task's stderr. If stderr accepts no more, the rest is discarded: that is not
/// a reason to end the task.
pub(super) fn copy_stderr(
    stream: Option<OutputStream>,
    line: Line,
    terminal: Terminal,
    tail: OutputTail,
) -> Result<Copied, Failure> {
    copy(stream, move |stream| {
        let mut stderr = Tee(Beside(stdio::stderr(), true), Some(tail));
        let written = match io::stderr().is_terminal() {
            true => show_all(stream, &mut stderr, &line, terminal),
            false => write_all(stream, &mut stderr),
        };
        if written.is_err() {
            while stream.blocking_next_chunk().is_some() {}
        }
        Ok(())
    })
}

/// The end of the output of a task, at most 4 KiB; clones share it.
#[derive(Clone, Default)]
pub(super) struct OutputTail(Arc<Mutex<VecDeque<u8>>>);

impl OutputTail {
    const MOST: usize = 4096;

    pub(super) fn text(&self) -> String {
        let mut tail = self.0.lock().unpoisoned();
        String::from_utf8_lossy(tail.make_contiguous()).into_owned()
    }

    fn add(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(OutputTail::MOST)..];
        let mut tail = self.0.lock().unpoisoned();
        let over = (tail.len() + bytes.len()).saturating_sub(OutputTail::MOST);
        tail.drain(..over);
        tail.extend(bytes);
    }
}

/// A writer that the log may share.
struct Beside<W>(W, bool);

impl<W: Write> Write for Beside<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.1 {
            true => log::around(bytes, |bytes| self.0.write(bytes)),
            false => self.0.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A writer that also keeps the end of what is written, if a tail is given.
struct Tee<W>(W, Option<OutputTail>);

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes);
        if let Some(tail) = &self.1 {
            // The rest is written again by the caller.
            tail.add(&bytes[..*written.as_ref().unwrap_or(&bytes.len())]);
        }
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn copy(
    stream: Option<OutputStream>,
    copying: impl FnOnce(&mut OutputStream) -> io::Result<()> + Send + 'static,
) -> Result<Copied, Failure> {
    let (done, copied) = oneshot::channel();
    let Some(mut stream) = stream else {
        let _ = done.send(Ok(()));
        return Ok(copied);
    };
    std::thread::Builder::new()
        .name("wrun-copy".into())
        .spawn(move || done.send(copying(&mut stream)))
        .map(|_| copied)
        .map_err(|error| {
            let hint = wrun::limit_hint(&error);
            Failure::new(
                exit::RUNNER,
                format!("cannot start a thread: {error}{hint}"),
            )
        })
}

fn write_all(stream: &mut OutputStream, writer: &mut dyn Write) -> io::Result<()> {
    while let Some(chunk) = stream.blocking_next_chunk() {
        writer.write_all(&chunk)?;
    }
    Ok(())
}

/// To a terminal.
fn show_all(
    stream: &mut OutputStream,
    writer: &mut dyn Write,
    line: &Line,
    terminal: Terminal,
) -> io::Result<()> {
    let mut filter = match terminal {
        Terminal::Safe => Filter::default(),
        Terminal::Raw => return write_all(stream, writer),
    };
    while let Some(chunk) = stream.blocking_next_chunk() {
        let shown = filter.pass(&chunk);
        line.around(&shown, || writer.write_all(&shown))?;
    }
    let shown = filter.end();
    line.around(&shown, || writer.write_all(&shown))
}

#[cfg(test)]
mod tests {
    use super::{OutputTail, Tee};
    use std::io::Write;

    #[test]
    fn the_end_of_what_is_written_is_kept() {
        let tail = OutputTail::default();
        let mut writer = Tee(Vec::new(), Some(tail.clone()));
        for length in [1, OutputTail::MOST, 10 * OutputTail::MOST] {
            writer.write_all(&vec![b'a'; length]).expect("written");
            writer.write_all(b"the end").expect("written");
            let last = tail.text();
            assert!(last.len() <= OutputTail::MOST && last.ends_with("athe end"));
        }
        assert_eq!(writer.0.len(), 11 * OutputTail::MOST + 1 + 3 * 7);
    }
}
