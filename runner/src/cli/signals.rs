//! The signals that end `wrun`.

use super::exit;
use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// The mask of ignored signals, bit 0 for signal 1; none where it cannot be read.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}
