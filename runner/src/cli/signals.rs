//! The signals that end `wrun`.

use super::exit;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// SIGINT, SIGTERM and SIGHUP, as far as this process was not started to ignore
/// them (`nohup`, a shell's background job).
pub(super) struct Signals(Vec<(Signal, u8)>);

impl Signals {
    /// Catches them from now on. Needs the context of a tokio runtime.
    pub(super) fn catch() -> io::Result<Self> {
        let ignored = ignored();
        let mut caught = Vec::new();
        for (kind, code) in [
            (SignalKind::interrupt(), exit::INTERRUPTED),
            (SignalKind::terminate(), exit::TERMINATED),
            (SignalKind::hangup(), exit::HUNG_UP),
        ] {
            let bit = 1_u64 << (kind.as_raw_value() - 1);
            if ignored & bit == 0 {
                caught.push((signal(kind)?, code));
            }
        }
        Ok(Signals(caught))
    }

    /// Waits for one; its exit code. Cancel safe.
    pub(super) async fn next(&mut self) -> u8 {
        std::future::poll_fn(|cx| {
            for (signal, code) in &mut self.0 {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*code);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// How far the wish to end has gone.
pub(super) struct Stop {
    signals: Signals,
    grace: Duration,
    /// The exit code of the signal that came first.
    code: Option<u8>,
    /// Until when the task may end by itself.
    until: Option<Instant>,
}

/// What is wished now.
pub(super) enum Wish {
    /// That the task stops.
    Ask,
    /// That it is gone.
    End,
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

    /// The exit code of the signal that came first.
    pub(super) fn code(&self) -> Option<u8> {
        self.code
    }

    /// Waits for the next wish: the first SIGTERM asks; any other signal, or the
    /// end of the grace, ends. Cancel safe.
    pub(super) async fn next(&mut self) -> Wish {
        let until = self.until;
        let over = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let code = tokio::select! {
            code = self.signals.next() => code,
            () = over => return Wish::End,
        };
        let first = self.code.is_none();
        self.code.get_or_insert(code);
        if first && code == exit::TERMINATED && !self.grace.is_zero() {
            // None only where no clock reaches: then it is never.
            self.until = Instant::now().checked_add(self.grace);
            return Wish::Ask;
        }
        Wish::End
    }
}

/// The mask of ignored signals, bit 0 for signal 1; none where it cannot be read.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}
