//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);
/// A value that has not changed for this long is taken for settled.
const QUIET: Duration = Duration::from_millis(200);

/// Waits until a condition holds; `false` if it does not within `time`.
pub(crate) fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Waits until `what` is true; panics if it is not within `time`.
#[track_caller]
pub(crate) fn eventually(what: &str, time: Duration, condition: impl FnMut() -> bool) {
    assert!(within(time, condition), "not within {time:?}: {what}");
}

/// Waits until a value no longer changes, and returns it; panics if it still changes after
/// `time`. For what cannot say that it waits: a full pipe, a number of processes.
#[track_caller]
pub(crate) fn settled<T: PartialEq>(what: &str, time: Duration, mut value: impl FnMut() -> T) -> T {
    let mut last = value();
    let mut since = Instant::now();
    let quiet = within(time, || {
        let now = value();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() >= QUIET
    });
    assert!(quiet, "still changes after {time:?}: {what}");
    last
}
