//! `wrun run`.

use super::args::RunArgs;
use super::{Failure, exit, stdout_failed, text};
use crate::{
    Cache, Input, Killer, Limits, Outcome, OutputStream, Report, Runner, Stdio, Task, TaskHandle,
};
use bytes::Bytes;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// Pieces of stdin that wait for the task.
const STDIN_QUEUE: usize = 4;
const CHUNK: usize = 64 << 10;
/// How long the output of a task that a signal ended may take to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);

pub(super) fn run(args: RunArgs) -> Result<u8, Failure> {
    let Some((path, task_args)) = args.task.split_first() else {
        return Err(Failure::new(exit::USAGE, "no task was named"));
    };
    let task_args = strings(task_args)?;
    let runner = Runner::builder()
        .mode(args.mode)
        .max_running(1)
        .max_queued(0)
        .idle_workers(0)
        .metered(args.fuel.is_some())
        .allow_precompiled(args.allow_precompiled)
        .cache(if args.no_cache {
            Cache::Off
        } else {
            Cache::User
        })
        .build()?;
    // Before anything is loaded: a file that cannot be written is no reason to
    // compile for seconds.
    let output = open_output(&args)?;
    let artifact = runner.load(path)?;
    let mut task = Task::new(&artifact)
        .args(task_args)
        .limits(limits(&args, artifact.shape().is_command()))
        .input(input(&args, artifact.shape().is_command())?)
        .stdout(Stdio::Stream)
        .stderr(Stdio::Stream);
    for grant in &args.dir {
        task = task.dir(grant.clone());
    }
    for grant in &args.allow_tcp {
        task = task.allow_tcp(grant.clone());
    }
    for variable in &args.env {
        task = match variable.split_once('=') {
            Some((key, value)) => task.env(key, value),
            None => match std::env::var(variable) {
                Ok(value) => task.env(variable, value),
                Err(_) => {
                    let message = format!("--env {variable}: this process has no such variable");
                    return Err(Failure::new(exit::USAGE, message));
                }
            },
        };
    }
    let mut handle = runner.submit_blocking(task)?;
    let killer = handle.killer();
    let copies = [
        copy(handle.stdout(), output, killer.clone())?,
        copy(handle.stderr(), Destination::Stderr, killer)?,
    ];
    let Ended {
        result,
        copied,
        signalled,
    } = wait(handle, copies)?;
    let report = result?;
    // Ends workers before anything is said.
    drop(runner);
    if let Copied::Broken(error) = copied {
        return Err(match args.output {
            Some(path) => Failure::new(
                exit::RUNNER,
                format!("cannot write {}: {error}", path.display()),
            ),
            None => stdout_failed(&error),
        });
    }
    tell(&args, &report)?;
    Ok(match (&report.outcome, copied, signalled) {
        (Outcome::Cancelled, _, Some(code)) | (_, Copied::Abandoned, Some(code)) => code,
        (outcome, ..) => exit::of_outcome(outcome),
    })
}

/// WebAssembly's strings are UTF-8.
fn strings(args: &[OsString]) -> Result<Vec<String>, Failure> {
    args.iter()
        .map(|arg| {
            arg.to_str().map(str::to_owned).ok_or_else(|| {
                let message = format!("the argument {} is not UTF-8", arg.display());
                Failure::new(exit::USAGE, message)
            })
        })
        .collect()
}

fn limits(args: &RunArgs, is_command: bool) -> Limits {
    let mut limits = Limits::default();
    limits.timeout = args.timeout;
    limits.fuel = args.fuel;
    limits.max_memory = args.max_memory.unwrap_or(limits.max_memory);
    limits.max_input = args.max_input;
    limits.max_output = match args.max_output {
        None if !is_command => Some(Limits::CAPTURE_DEFAULT),
        other => other,
    };
    limits
}

fn input(args: &RunArgs, is_command: bool) -> Result<Input, Failure> {
    let stdin = io::stdin();
    match args.input.as_deref() {
        // A command reads what its user types; what `run` takes is read to the
        // end first, and nobody wants to be waited for without a word.
        None if stdin.is_terminal() && !is_command => Ok(Input::empty()),
        None => Ok(Input::reader(Lazy::new(Box::new(stdin)))),
        Some(path) if path == Path::new("-") => Ok(Input::reader(Lazy::new(Box::new(stdin)))),
        Some(path) => {
            let fail = |error: io::Error| {
                let path = path.display();
                Failure::new(exit::USAGE, format!("cannot read {path}: {error}"))
            };
            let file = File::open(path).map_err(fail)?;
            if file.metadata().map_err(fail)?.is_dir() {
                return Err(fail(io::ErrorKind::IsADirectory.into()));
            }
            Ok(Input::reader(Lazy::new(Box::new(file))))
        }
    }
}

/// Where a stream of the task goes.
enum Destination {
    Stdout,
    Stderr,
    File(File),
}

fn open_output(args: &RunArgs) -> Result<Destination, Failure> {
    let Some(path) = &args.output else {
        if crate::sys::was_stdout_closed() {
            return Err(stdout_failed(&rustix::io::Errno::BADF.into()));
        }
        return Ok(Destination::Stdout);
    };
    File::create(path).map(Destination::File).map_err(|error| {
        let path = path.display();
        Failure::new(exit::RUNNER, format!("cannot write {path}: {error}"))
    })
}

/// What became of copying.
type Copy = oneshot::Receiver<io::Result<()>>;

/// Copies a stream of the task as it is produced, on a thread of its own. A
/// destination that takes no more kills the task.
fn copy(
    stream: Option<OutputStream>,
    destination: Destination,
    killer: Killer,
) -> Result<Copy, Failure> {
    let (done, copy) = oneshot::channel();
    let Some(mut stream) = stream else {
        let _ = done.send(Ok(()));
        return Ok(copy);
    };
    let copying = move || {
        let (mut writer, filter): (Box<dyn Write>, bool) = match destination {
            Destination::Stdout => (Box::new(io::stdout()), io::stdout().is_terminal()),
            Destination::Stderr => (Box::new(io::stderr()), io::stderr().is_terminal()),
            Destination::File(file) => (Box::new(file), false),
        };
        let mut last = 0;
        while let Some(chunk) = stream.next_chunk_blocking() {
            let written = if filter {
                writer.write_all(&harmless(&chunk, &mut last))
            } else {
                writer.write_all(&chunk)
            };
            if let Err(error) = written.and_then(|()| writer.flush()) {
                killer.kill();
                return Err(error);
            }
        }
        Ok(())
    };
    std::thread::Builder::new()
        .name("wrun-copy".into())
        .spawn(move || done.send(copying()))
        .map(|_| copy)
        .map_err(|error| Failure::new(exit::RUNNER, format!("cannot start a thread: {error}")))
}

/// Output for a terminal: what could command it is shown, not obeyed. That is
/// the control characters of ASCII, and those of Unicode (U+0080 to U+009F),
/// whose second byte follows 0xc2; `last` is the byte before the chunk.
fn harmless(chunk: &[u8], last: &mut u8) -> Vec<u8> {
    let mut shown = Vec::with_capacity(chunk.len());
    for &byte in chunk {
        let after_c2 = std::mem::replace(last, byte) == 0xc2;
        shown.push(match byte {
            b'\n' | b'\t' | b'\r' => byte,
            0..0x20 | 0x7f => b'?',
            0x80..0xa0 if after_c2 => 0xbf,
            _ => byte,
        });
    }
    shown
}

/// How a task and its output ended.
struct Ended {
    result: Result<Report, crate::Error>,
    copied: Copied,
    /// The exit code of the signal that came.
    signalled: Option<u8>,
}

/// What became of the output.
enum Copied {
    Whole,
    Broken(io::Error),
    /// A signal came, and whoever reads takes no more.
    Abandoned,
}

/// Waits for the outcome and until the output is written. A signal kills the
/// task, and nobody waits for a reader that stalls any longer.
fn wait(handle: TaskHandle, copies: [Copy; 2]) -> Result<Ended, Failure> {
    let fail = |error: io::Error| Failure::new(exit::RUNNER, error.to_string());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(fail)?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(fail)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(fail)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(fail)?;
        let mut signals = std::pin::pin!(async {
            tokio::select! {
                _ = interrupt.recv() => exit::INTERRUPTED,
                _ = terminate.recv() => 128 + 15,
                _ = hangup.recv() => 128 + 1,
            }
        });
        let killer = handle.killer();
        let mut outcome = std::pin::pin!(handle.outcome());
        let (result, mut signalled) = tokio::select! {
            result = &mut outcome => (result, None),
            code = &mut signals => {
                killer.kill();
                (outcome.await, Some(code))
            }
        };
        let mut copying = std::pin::pin!(copied(copies));
        let copied = if signalled.is_none() {
            tokio::select! {
                copied = &mut copying => Some(copied),
                code = &mut signals => {
                    signalled = Some(code);
                    None
                }
            }
        } else {
            None
        };
        let copied = match copied {
            Some(copied) => copied,
            None => tokio::time::timeout(LAST_WORDS, copying)
                .await
                .unwrap_or(Copied::Abandoned),
        };
        Ok(Ended {
            result,
            copied,
            signalled,
        })
    })
}

async fn copied(copies: [Copy; 2]) -> Copied {
    let mut all = Copied::Whole;
    for copy in copies {
        if let (Ok(Err(error)), Copied::Whole) = (copy.await, &all) {
            all = Copied::Broken(error);
        }
    }
    all
}

fn tell(args: &RunArgs, report: &Report) -> Result<(), Failure> {
    if let Some(path) = &args.report {
        let mut json = report.to_json().to_string();
        json.push('\n');
        if path == Path::new("-") {
            super::print(json.as_bytes())?;
        } else {
            std::fs::write(path, json).map_err(|error| {
                let path = path.display();
                Failure::new(exit::RUNNER, format!("cannot write {path}: {error}"))
            })?;
        }
    }
    if args.stats {
        let _ = io::stderr().write_all(text::stats(report).as_bytes());
    } else if let Some(why) = text::explain(report) {
        text::complain(&why);
    }
    Ok(())
}

/// A blocking reader that is read on a thread of its own, and only once somebody
/// asks. A thread that is blocked does not keep the program from ending.
struct Lazy {
    reader: Option<Box<dyn Read + Send>>,
    chunks: Option<mpsc::Receiver<io::Result<Bytes>>>,
    rest: Bytes,
}

impl Lazy {
    fn new(reader: Box<dyn Read + Send>) -> Self {
        Lazy {
            reader: Some(reader),
            chunks: None,
            rest: Bytes::new(),
        }
    }
}

impl AsyncRead for Lazy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut reader) = self.reader.take() {
            let (sender, receiver) = mpsc::channel(STDIN_QUEUE);
            let reading = move || {
                loop {
                    let mut bytes = vec![0; CHUNK];
                    let chunk = match reader.read(&mut bytes) {
                        Ok(0) => return,
                        Ok(len) => {
                            bytes.truncate(len);
                            Ok(Bytes::from(bytes))
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => Err(error),
                    };
                    let failed = chunk.is_err();
                    if sender.blocking_send(chunk).is_err() || failed {
                        return;
                    }
                }
            };
            std::thread::Builder::new()
                .name("wrun-stdin".into())
                .spawn(reading)?;
            self.chunks = Some(receiver);
        }
        if self.rest.is_empty() {
            let Some(chunks) = &mut self.chunks else {
                return Poll::Ready(Ok(()));
            };
            match ready!(chunks.poll_recv(cx)) {
                Some(Ok(chunk)) => self.rest = chunk,
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest.split_to(len));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn a_terminal_is_not_commanded() {
        let mut last = 0;
        assert_eq!(harmless(b"a\x1b[2J\n", &mut last), b"a?[2J\n");
        let mut last = 0;
        let mut shown = harmless("ä\u{9b}".as_bytes(), &mut last);
        assert_eq!(String::from_utf8_lossy(&shown), "ä\u{bf}");
        // Split between its bytes.
        shown = harmless(&[0xc2], &mut last);
        shown.extend(harmless(&[0x9b], &mut last));
        assert_eq!(String::from_utf8_lossy(&shown), "\u{bf}");
    }
}
