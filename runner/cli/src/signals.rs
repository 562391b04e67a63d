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
use std::task::Poll;
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
pub(super) struct Signals(Vec<(tokio::net::UnixStream, u8)>);

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
                caught.push((tokio::net::UnixStream::from_std(reader)?, code));
            }
        }
        Ok(Signals(caught))
    }

    /// Waits for one; returns its exit code. Cancel safe.
    pub(super) async fn next(&mut self) -> u8 {
        std::future::poll_fn(|cx| {
            for (signal, code) in &mut self.0 {
                // One byte for each time it arrived.
                let mut byte = [0];
                let mut byte = ReadBuf::new(&mut byte);
                if Pin::new(signal).poll_read(cx, &mut byte).is_ready() {
                    return Poll::Ready(*code);
                }
            }
            Poll::Pending
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
