//! The signals that end `wrun`.
//!
//! Not tokio's: with tokio's signals enabled, every runtime has a socket pair for them,
//! including each forked worker's.

use super::exit;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXCPU};
use signal_hook::flag::register_usize;
use signal_hook::low_level::pipe::register;
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, ReadBuf};
use wrun::time_suspended;

/// The exit code of the last signal; 0 if there was none.
static ARRIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// The exit code of a caught signal that has arrived.
pub(super) fn arrived() -> Option<u8> {
    let code = ARRIVED.load(Ordering::Relaxed);
    u8::try_from(code).ok().filter(|code| *code != 0)
}

/// SIGINT, SIGTERM, SIGHUP, and SIGXCPU for a used-up limit on processor time; except those
/// that this process was started to ignore (`nohup`, a shell's background job).
///
/// A second SIGINT or SIGTERM that comes right after the first counts as the same request:
/// `timeout` signals its child and then its process group, which the child is a part of.
pub(super) struct Signals(Vec<Caught>);

/// Within this time after SIGINT or SIGTERM, the same signal is the same request. A person who
/// presses Ctrl-C twice takes longer.
const SAME_REQUEST: Duration = Duration::from_millis(100);

/// One of the signals.
struct Caught {
    /// One byte for each time it arrived.
    arrivals: tokio::net::UnixStream,
    code: u8,
    /// When the last request was made by it.
    requested: Option<Instant>,
    /// Since then, there was a time when no other had arrived. Without that, a process that
    /// the system did not let run could not tell when the next arrived.
    was_quiet: bool,
}

impl Caught {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<u8> {
        loop {
            let mut byte = [0];
            let mut byte = ReadBuf::new(&mut byte);
            if Pin::new(&mut self.arrivals)
                .poll_read(cx, &mut byte)
                .is_pending()
            {
                self.was_quiet = true;
                return Poll::Pending;
            }
            // Each SIGHUP counts: a server reads its files again, which may have changed.
            let is_once = [exit::INTERRUPTED, exit::TERMINATED].contains(&self.code);
            let is_same = self
                .requested
                .is_some_and(|it| !self.was_quiet || it.elapsed() < SAME_REQUEST);
            if is_once && is_same && !byte.filled().is_empty() {
                continue;
            }
            self.requested = Some(Instant::now());
            self.was_quiet = false;
            return Poll::Ready(self.code);
        }
    }
}

impl Signals {
    /// Catches them from now on. Needs the context of a tokio runtime.
    pub(super) fn catch() -> io::Result<Self> {
        let mut caught = Vec::new();
        for (signal, code) in [
            (SIGINT, exit::INTERRUPTED),
            (SIGTERM, exit::TERMINATED),
            (SIGHUP, exit::HUNG_UP),
            (SIGXCPU, exit::OUT_OF_TIME),
        ] {
            if !wrun_sys::is_ignored(signal) {
                let (reader, writer) = UnixStream::pair()?;
                reader.set_nonblocking(true)?;
                register_usize(signal, ARRIVED.clone(), code.into())?;
                register(signal, writer)?;
                caught.push(Caught {
                    arrivals: tokio::net::UnixStream::from_std(reader)?,
                    code,
                    requested: None,
                    was_quiet: false,
                });
            }
        }
        Ok(Signals(caught))
    }

    /// Waits for a request; returns its exit code. Cancel safe.
    pub(super) async fn next(&mut self) -> u8 {
        std::future::poll_fn(|cx| {
            let mut caught = self.0.iter_mut();
            let arrived = caught.find_map(|caught| match caught.poll(cx) {
                Poll::Ready(code) => Some(code),
                Poll::Pending => None,
            });
            arrived.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// The stages of stopping the task.
pub(super) struct Stop {
    signals: Signals,
    grace: Duration,
    /// The exit code of the first signal.
    code: Option<u8>,
    /// How long the task may take to end by itself.
    until: Option<Time>,
}

/// A time from now on, which does not pass while `wrun` is stopped.
#[derive(Clone, Copy)]
pub(super) struct Time {
    began: Instant,
    suspended: Duration,
    time: Duration,
}

impl Time {
    pub(super) fn new(time: Duration) -> Self {
        Time {
            began: Instant::now(),
            suspended: time_suspended(),
            time,
        }
    }

    pub(super) fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// The time left.
    fn left(self) -> Duration {
        // In this order: a suspension in between makes the rest too long, never too short.
        let passed = self.began.elapsed();
        let suspended = time_suspended().saturating_sub(self.suspended);
        self.time.saturating_sub(passed.saturating_sub(suspended))
    }
}

/// Waits until a time is over; forever without one.
pub(super) async fn over(time: Option<Time>) {
    let Some(time) = time else {
        return std::future::pending().await;
    };
    loop {
        let left = time.left();
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

/// What to do with the task now.
pub(super) enum StopAction {
    /// Request it to stop.
    Cancel,
    /// Kill it.
    Kill,
}

impl Stop {
    pub(super) fn new(signals: Signals, grace: Duration) -> Self {
        Stop {
            signals,
            grace,
            code: None,
            until: None,
        }
    }

    /// The exit code of the first signal.
    pub(super) fn code(&self) -> Option<u8> {
        self.code
    }

    /// Waits for the next action: the first SIGTERM cancels; any other signal, or the end
    /// of the grace period, kills. Cancel safe.
    pub(super) async fn next(&mut self) -> StopAction {
        let over = over(self.until);
        let code = tokio::select! {
            code = self.signals.next() => code,
            () = over => return StopAction::Kill,
        };
        let first = self.code.is_none();
        self.code.get_or_insert(code);
        if first && code == exit::TERMINATED && !self.grace.is_zero() {
            self.until = Some(Time::new(self.grace));
            return StopAction::Cancel;
        }
        StopAction::Kill
    }
}
