//! Deadlines, on a clock that is stopped while this process is suspended.
//!
//! A task that is stopped with its runner (Ctrl-Z) does not run, and must not miss its
//! deadline the moment it continues. The code that suspends the process stops the clock
//! here first (`suspend`); a worker reads its runner's clock, which it cannot write to.
//! Invariant: no deadline passes early. A read that races with stopping or starting the
//! clock sees a time that is too early, never one that is too late.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;
use tokio::task::coop::unconstrained;
use wrun_sys::Seen;

/// Nanoseconds of the system's clock at which this process was suspended; 0 while it runs.
static SINCE: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds for which it was suspended before.
static BEFORE: AtomicU64 = AtomicU64::new(0);
/// The clock of this worker's runner.
static RUNNERS: OnceLock<Seen> = OnceLock::new();

/// A point in time that must not be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(u64);

/// The time was up.
#[derive(Clone, Copy, Debug)]
pub struct Late;

impl Deadline {
    /// This long from now; `None` if the clock cannot represent it, which means never.
    #[doc(hidden)]
    pub fn after(time: Duration) -> Option<Self> {
        Deadline(now()).later(time)
    }

    /// This long after this one.
    #[doc(hidden)]
    pub fn later(self, time: Duration) -> Option<Self> {
        let time = u64::try_from(time.as_nanos()).ok()?;
        self.0.checked_add(time).map(Deadline)
    }

    /// The time left until then; zero once it has passed.
    #[doc(hidden)]
    pub fn left(self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(now()))
    }

    #[doc(hidden)]
    pub fn has_passed(self) -> bool {
        self.left().is_zero()
    }
}

/// Waits until then; forever without a deadline.
///
/// It may be polled after work that a guest feeds: tokio lets no timer end in a poll whose
/// budget is used up already, and that could be every poll.
pub async fn until(deadline: Option<Deadline>) {
    let Some(deadline) = deadline else {
        return std::future::pending().await;
    };
    loop {
        let left = deadline.left();
        if left.is_zero() {
            return;
        }
        unconstrained(tokio::time::sleep(left)).await;
    }
}

/// Waits for `work`, at most for `time`.
pub async fn timeout<T>(time: Duration, work: impl Future<Output = T>) -> Result<T, Late> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = until(Deadline::after(time)) => Err(Late),
    }
}

/// How long this process has been suspended so far by `suspend`.
///
/// The deadlines of tasks do not count that time. This is for deadlines of your own.
pub fn time_suspended() -> Duration {
    let [since, before] = times();
    let now = match since {
        0 => 0,
        since => system_now().saturating_sub(since),
    };
    Duration::from_nanos(before.saturating_add(now))
}

/// Stops the clock; returns the numbers to publish to workers.
pub fn stop_clock() -> [u64; 2] {
    // Not 0, which means that it runs.
    SINCE.store(system_now().max(1), Ordering::Release);
    times()
}

/// Starts the clock again; returns the numbers to publish to workers.
pub fn start_clock() -> [u64; 2] {
    let since = SINCE.load(Ordering::Acquire);
    let suspended = system_now().saturating_sub(since);
    BEFORE.fetch_add(suspended, Ordering::Release);
    SINCE.store(0, Ordering::Release);
    times()
}

/// Makes this process a worker, whose clock is its runner's.
pub fn follow(clock: Seen) {
    // Each worker has one runner.
    let _ = RUNNERS.set(clock);
}

/// When the clock was stopped, and for how long it was stopped before.
pub fn times() -> [u64; 2] {
    match RUNNERS.get() {
        Some(runners) => runners.load(),
        None => {
            let since = SINCE.load(Ordering::Acquire);
            [since, BEFORE.load(Ordering::Acquire)]
        }
    }
}

fn now() -> u64 {
    // In this order: see `at`.
    let now = system_now();
    fence(Ordering::SeqCst);
    at(now, times())
}

/// The clock's time.
///
/// If the clock is stopped or started between reading the three numbers, in the order
/// `now`, `since`, `before`, the result is an earlier time.
fn at(now: u64, [since, before]: [u64; 2]) -> u64 {
    let now = match since {
        0 => now,
        since => now.min(since),
    };
    now.saturating_sub(before)
}

fn system_now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let time = Duration::try_from(time).unwrap_or_default();
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_stands_still_while_it_is_stopped() {
        assert_eq!(at(100, [0, 0]), 100);
        assert_eq!(at(150, [100, 0]), 100);
        // It was stopped from 100 to 170.
        assert_eq!(at(180, [0, 70]), 110);
        assert_eq!(at(250, [200, 70]), 130);
        // Reads that race with its stop and start are early.
        assert_eq!(at(90, [100, 0]), 90);
        assert_eq!(at(105, [0, 70]), 35);
        assert_eq!(at(105, [100, 70]), 30);
        assert_eq!(at(10, [0, 70]), 0);
    }

    #[test]
    fn deadlines_have_an_order_and_an_end() {
        let soon = Deadline::after(Duration::ZERO).expect("a time");
        assert!(soon.has_passed());
        let late = soon.later(Duration::from_secs(60)).expect("a time");
        assert!(late > soon && !late.has_passed());
        assert!(late.left() <= Duration::from_secs(60));
        assert!(Deadline::after(Duration::MAX).is_none());
    }

    #[tokio::test]
    async fn a_deadline_passes_beside_what_never_waits() {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let _ = sender.send(());
        let greedy = async {
            while receiver.recv().await.is_some() {
                let _ = sender.send(());
            }
        };
        let soon = Deadline::after(Duration::from_millis(10));
        tokio::select! {
            biased;
            () = greedy => {}
            () = until(soon) => {}
        }
        assert!(soon.is_some_and(Deadline::has_passed));
        assert!(
            timeout(Duration::from_millis(1), until(None))
                .await
                .is_err()
        );
        assert!(timeout(Duration::from_secs(60), until(soon)).await.is_ok());
    }
}
