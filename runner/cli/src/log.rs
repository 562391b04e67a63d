//! The log: the library's `tracing` events, on stderr.
//!
//! A separate thread writes it, so that a stderr that accepts nothing delays no task and no
//! signal. Invariant: a line of the log is written as a whole, and not within a line of the
//! task's, unless that does not end for [`PATIENCE`]; then it begins a new line. The
//! progress line is erased meanwhile.

use super::terminal::is_in_line;
use super::traces::AnyLayer;
use super::values::one_of;
use super::{Failure, exit, signals, stdio};
use clap::Args;
use std::env::VarError;
use std::io::{self, IsTerminal, Write};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};
use wrun_sys::Unpoisoned;

const VARIABLE: &str = "WRUN_LOG";
/// The targets to which a level alone applies: those of this program.
const OWN: &str = "wrun";
/// How long an unfinished line of the task may delay the log.
const PATIENCE: Duration = Duration::from_secs(1);
/// Maximum of lines that wait for stderr; more are counted and lost.
const MAX_LINES: usize = 4096;
/// Maximum of bytes that wait for the end of the task's line.
const MAX_HELD: usize = 64 << 10;
/// How often a wait for the log checks for a signal.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the rest of the log may take after a signal.
const LAST_LINES: Duration = Duration::from_millis(500);

/// The options of the log.
#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// Write a log to stderr: the least important level, which is `error`, `warn`, `info`,
    /// `debug`, `trace` or `off`, or levels of targets, such as
    /// `wrun::worker=debug,wrun::task=info` [default: the value of WRUN_LOG, or off]
    #[arg(long, value_name = "LEVEL|FILTER")]
    log: Option<Filter>,

    /// The form of the log: `text`, or `json` for one object on each line
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        value_parser = one_of::<Format>(&["text", "json"])
    )]
    log_format: Format,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Text,
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            other => Err(format!("unknown format {other:?}: expected text or json")),
        }
    }
}

/// What is logged.
#[derive(Clone, Debug)]
struct Filter(Targets);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut targets = Targets::new();
        for part in text.split(',') {
            let (target, name) = part.split_once('=').unwrap_or((OWN, part));
            let is_target = |c: char| c.is_ascii_alphanumeric() || "_-:.".contains(c);
            if target.is_empty() || !target.chars().all(is_target) {
                return Err(format!("expected TARGET=LEVEL instead of {part:?}"));
            }
            targets = targets.with_target(target, level(name)?);
        }
        Ok(Filter(targets))
    }
}

fn level(name: &str) -> Result<LevelFilter, String> {
    Ok(match name {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        other => {
            return Err(format!(
                "unknown level {other:?}: expected error, warn, info, debug, trace or off"
            ));
        }
    })
}

impl LogArgs {
    /// Starts logging, if configured.
    pub(super) fn start(&self) -> Result<(), Failure> {
        self.start_beside(None)
    }

    /// The same beside what else takes spans.
    pub(super) fn start_beside(&self, other: Option<AnyLayer>) -> Result<(), Failure> {
        start(self.layer()?.into_iter().chain(other))
    }

    /// What writes the log, if it is configured.
    fn layer(&self) -> Result<Option<AnyLayer>, Failure> {
        let Filter(targets) = match &self.log {
            Some(filter) => filter.clone(),
            None => match variable()? {
                Some(filter) => filter,
                None => return Ok(None),
            },
        };
        let (sender, lines) = channel();
        std::thread::Builder::new()
            .name("wrun-log".into())
            .spawn(move || write_lines(&lines))
            .map_err(|error| {
                let hint = wrun::limit_hint(&error);
                let message = format!("cannot start a thread: {error}{hint}");
                Failure::new(exit::RUNNER, message)
            })?;
        let _ = LINES.set(sender);
        ON.store(true, Ordering::Relaxed);
        let layer = fmt::layer().with_ansi(false).with_writer(Lines);
        Ok(Some(match self.log_format {
            Format::Text => Box::new(layer.with_filter(targets)),
            Format::Json => Box::new(layer.json().with_filter(targets)),
        }))
    }
}

/// Has these take spans and events, if there are any.
pub(super) fn start(layers: impl IntoIterator<Item = AnyLayer>) -> Result<(), Failure> {
    let layers: Vec<AnyLayer> = layers.into_iter().collect();
    if layers.is_empty() {
        return Ok(());
    }
    let set = tracing::subscriber::set_global_default(Registry::default().with(layers));
    set.map_err(|error| Failure::new(exit::RUNNER, error.to_string()))
}

/// The filter of the environment.
fn variable() -> Result<Option<Filter>, Failure> {
    let wrong = |why: &str| Failure::new(exit::USAGE, format!("{VARIABLE}: {why}"));
    match std::env::var(VARIABLE) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => text.parse().map(Some).map_err(|why: String| wrong(&why)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(wrong("it is not UTF-8")),
    }
}

/// Whether there is a log.
static ON: AtomicBool = AtomicBool::new(false);
static LINES: OnceLock<Sender<Entry>> = OnceLock::new();
/// Lines that were sent and not written yet.
static WAITING: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicUsize = AtomicUsize::new(0);
static STDERR: Mutex<Stderr> = Mutex::new(Stderr {
    drawn: String::new(),
    in_line: false,
    held: Vec::new(),
    since: None,
});

enum Entry {
    Line(Vec<u8>),
    /// Dropped once all lines before it are written.
    End(Sender<()>),
}

/// Sends lines to the thread that writes them.
struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        Lines
    }
}

impl Write for Lines {
    /// A whole line: the formatter calls it once for each.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(lines) = LINES.get() else {
            return Ok(bytes.len());
        };
        if WAITING.fetch_add(1, Ordering::Relaxed) >= MAX_LINES {
            WAITING.fetch_sub(1, Ordering::Relaxed);
            LOST.fetch_add(1, Ordering::Relaxed);
        } else {
            let _ = lines.send(Entry::Line(one_line(bytes)));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line without terminal control characters, which names may contain.
fn one_line(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    let mut line: String = text
        .trim_end_matches('\n')
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    line.push('\n');
    line.into_bytes()
}

fn write_lines(lines: &Receiver<Entry>) {
    loop {
        let holds = lock().since.is_some();
        let next = match holds {
            true => lines.recv_timeout(PATIENCE),
            false => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(Entry::Line(line)) => {
                lock().log(&line);
                WAITING.fetch_sub(1, Ordering::Relaxed);
                let lost = LOST.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    tracing::warn!(target: "wrun::log", lost, "lines of the log were lost");
                }
            }
            Ok(Entry::End(done)) => {
                lock().release();
                drop(done);
            }
            Err(RecvTimeoutError::Timeout) => lock().release(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Waits until the log is written; after a signal only for a moment.
pub(super) fn flush() {
    let Some(lines) = LINES.get() else {
        return;
    };
    let (done, written) = channel();
    let _ = lines.send(Entry::End(done));
    let mut give_up = None;
    while written.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        if signals::arrived().is_some() {
            let now = Instant::now();
            if now >= *give_up.get_or_insert(now + LAST_LINES) {
                return;
            }
        }
    }
}

/// The state of stderr besides the log.
struct Stderr {
    /// The progress line that is shown.
    drawn: String,
    /// The task has begun a line and not ended it.
    in_line: bool,
    /// The log lines for after that, and since when they wait.
    held: Vec<u8>,
    since: Option<Instant>,
}

fn lock() -> MutexGuard<'static, Stderr> {
    STDERR.lock().unpoisoned()
}

impl Stderr {
    fn log(&mut self, line: &[u8]) {
        self.held.extend_from_slice(line);
        let since = *self.since.get_or_insert_with(Instant::now);
        if !self.in_line || self.held.len() > MAX_HELD || since.elapsed() >= PATIENCE {
            self.release();
        }
    }

    /// Writes the held lines; on a new line, whatever the task has written.
    fn release(&mut self) {
        self.since = None;
        if self.held.is_empty() {
            return;
        }
        let mut bytes = Vec::with_capacity(self.held.len() + 1);
        if std::mem::take(&mut self.in_line) {
            bytes.push(b'\n');
        } else if !self.drawn.is_empty() {
            bytes.extend_from_slice(CLEAR.as_bytes());
        }
        bytes.append(&mut self.held);
        bytes.extend_from_slice(self.drawn.as_bytes());
        // If stderr accepts no more, nothing can be done.
        let _ = stdio::stderr().write_all(&bytes);
    }
}

/// Erases the progress line.
const CLEAR: &str = "\r\x1b[J";

/// Draws the progress line, so that log lines do not tear it.
pub(super) fn draw<T>(drawn: &str, write: impl FnOnce() -> T) -> T {
    if !ON.load(Ordering::Relaxed) {
        return write();
    }
    let mut stderr = lock();
    let shown = drawn.rsplit_once(CLEAR).map_or(drawn, |(_, after)| after);
    stderr.drawn.clear();
    if !shown.trim_matches('\r').is_empty() {
        stderr.drawn.push_str(shown);
    }
    write()
}

/// Writes output of the task to stderr, or to something that is the same as stderr; may
/// write only a part.
pub(super) fn around(
    bytes: &[u8],
    write: impl FnOnce(&[u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    if !ON.load(Ordering::Relaxed) {
        return write(bytes);
    }
    let mut stderr = lock();
    let mut now = bytes;
    if !stderr.held.is_empty()
        && let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n')
    {
        // Lines that wait for the end of a line come before the next one begins.
        now = &bytes[..=end];
    }
    let written = write(now)?;
    let now = &now[..written.min(now.len())];
    let in_line = match io::stderr().is_terminal() {
        true => is_in_line(now),
        false => now.last().map(|byte| *byte != b'\n'),
    };
    stderr.in_line = in_line.unwrap_or(stderr.in_line);
    if !stderr.in_line {
        stderr.release();
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets() {
        for good in ["off", "info", "wrun::task=debug", "warn,wrun::worker=trace"] {
            assert!(good.parse::<Filter>().is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", "unknown level \"\""),
            ("loud", "unknown level \"loud\""),
            ("INFO", "unknown level \"INFO\""),
            ("wrun::task", "unknown level \"wrun::task\""),
            ("wrun=loud", "unknown level \"loud\""),
            ("=info", "expected TARGET=LEVEL"),
            ("a b=info", "expected TARGET=LEVEL"),
            ("info,", "unknown level \"\""),
        ] {
            let told = bad.parse::<Filter>().expect_err(bad);
            assert!(told.starts_with(why), "{bad}: {told}");
        }
        let Filter(targets) = "info,wrun::worker=trace".parse().expect("a filter");
        let enabled = |target| targets.would_enable(target, &tracing::Level::DEBUG);
        assert!(enabled("wrun::worker") && !enabled("wrun::task"));
        assert!(targets.would_enable("wrun::task", &tracing::Level::INFO));
        assert!(!targets.would_enable("wasmtime_wasi", &tracing::Level::ERROR));
    }

    #[test]
    fn a_line_has_no_control_characters() {
        assert_eq!(
            one_line(b"a\x1b[1m\nb\n"),
            "a\u{fffd}[1m\u{fffd}b\n".as_bytes()
        );
        assert_eq!(one_line(b"\xff\n"), "\u{fffd}\n".as_bytes());
    }
}
