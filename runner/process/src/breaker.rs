//! A circuit breaker for workers or zygotes that die while they start: the wait grows each
//! time, and after enough failures starts are refused for a while.
//!
//! Invariant: a start that keeps failing costs a bounded number of processes per second,
//! and every caller that waits for one is told why.

use std::time::{Duration, Instant};

/// The wait after the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(2);
/// Failures in a row that open it.
const TRIP: u32 = 8;
/// Starts killed from outside that count as one failure.
const KILLED: u32 = 8;
/// How long it stays open; then one start is tried.
const OPEN: Duration = Duration::from_secs(10);

/// How a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// By itself: the next start is likely to fail too.
    Own,
    /// Killed from outside: the next may be spared.
    Killed,
}

impl Failure {
    /// The name in events.
    pub(super) fn name(self) -> &'static str {
        match self {
            Failure::Own => "by itself",
            Failure::Killed => "killed",
        }
    }
}

/// The restraint on a start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Restraint {
    None,
    Wait(Duration),
    /// Nothing is started: this many starts failed in a row, the last one like this.
    Open {
        failures: u32,
        last: String,
        again: Duration,
    },
}

#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Increases with each failure that counts.
    round: u64,
    failures: u32,
    /// The same for kills, of which [`KILLED`] count as one failure.
    eighths: u32,
    until: Option<Instant>,
    last: String,
}

impl Breaker {
    /// The restraint on a start now.
    pub(super) fn restraint(&self, now: Instant) -> Restraint {
        let left = self
            .until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        if left.is_zero() {
            Restraint::None
        } else if self.eighths < TRIP * KILLED {
            Restraint::Wait(left)
        } else {
            Restraint::Open {
                failures: self.failures,
                last: self.last.clone(),
                again: left,
            }
        }
    }

    /// The round to pass to [`Breaker::failed`] if a start fails.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// A start failed that began in this round. Starts that fail together count once: one
    /// cause, however many callers wait. `jitter` is between 0 and 1, so that callers that
    /// wait for the same thing do not all try at the same time.
    pub(super) fn failed(
        &mut self,
        round: u64,
        now: Instant,
        how: Failure,
        why: String,
        jitter: f64,
    ) {
        if round != self.round {
            return;
        }
        self.round += 1;
        self.failures = self.failures.saturating_add(1);
        let before = self.eighths / KILLED;
        self.eighths = self.eighths.saturating_add(match how {
            Failure::Own => KILLED,
            Failure::Killed => 1,
        });
        self.last = why;
        let wait = if self.eighths < TRIP * KILLED {
            let doubled = FIRST.saturating_mul(1 << before.min(16));
            doubled.min(LONGEST).mul_f64(0.5 + jitter / 2.0)
        } else {
            OPEN
        };
        self.until = now.checked_add(wait);
    }

    /// A worker completed what it was started for.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.eighths = 0;
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_then_it_opens_then_one_is_tried() {
        let mut breaker = Breaker::default();
        let now = Instant::now();
        assert_eq!(breaker.restraint(now), Restraint::None);
        let mut last = Duration::ZERO;
        for _ in 1..TRIP {
            let round = breaker.round();
            breaker.failed(round, now, Failure::Own, "signal 11".into(), 1.0);
            breaker.failed(round, now, Failure::Own, "signal 11".into(), 1.0);
            let Restraint::Wait(wait) = breaker.restraint(now) else {
                panic!("{breaker:?}");
            };
            assert!(wait > last && wait <= LONGEST, "{wait:?}");
            last = wait;
        }
        let fail = |breaker: &mut Breaker, how, now| {
            let round = breaker.round();
            breaker.failed(round, now, how, "signal 11".into(), 0.0);
        };
        fail(&mut breaker, Failure::Own, now);
        assert!(matches!(
            breaker.restraint(now),
            Restraint::Open { failures: TRIP, ref last, .. } if last == "signal 11"
        ));
        assert_eq!(breaker.restraint(now + OPEN), Restraint::None);
        fail(&mut breaker, Failure::Killed, now + OPEN);
        assert!(matches!(
            breaker.restraint(now + OPEN),
            Restraint::Open { .. }
        ));
        breaker.succeeded();
        assert_eq!(breaker.restraint(now + OPEN), Restraint::None);
        for _ in 1..TRIP * KILLED {
            fail(&mut breaker, Failure::Killed, now);
            assert!(matches!(breaker.restraint(now), Restraint::Wait(wait) if wait < LONGEST));
        }
        fail(&mut breaker, Failure::Killed, now);
        assert!(matches!(breaker.restraint(now), Restraint::Open { .. }));
    }
}
