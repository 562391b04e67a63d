//! The waiting list of a region, where it can be called from tests.

#[path = "../../runner/sandbox/src/region/waiters.rs"]
mod waiters;

/// Who waits at words.
#[derive(Debug, Default)]
pub struct Waiters(waiters::Waiters);

/// A place in the list, until it is dropped.
pub struct Standing<'a>(waiters::Standing<'a>);

impl Waiters {
    /// Stands in the list, if `still` says so.
    pub fn stand(&self, at: usize, still: impl FnOnce() -> bool) -> Option<Standing<'_>> {
        self.0.stand(at, still).map(Standing)
    }

    /// Wakes up to `count`; how many.
    pub fn notify(&self, at: usize, count: u32) -> u32 {
        self.0.notify(at, count)
    }
}

impl Standing<'_> {
    /// Waits for a notification.
    pub async fn woken(&self) {
        self.0.woken().await;
    }

    /// Leaves the list; `false` when somebody took it out.
    pub fn leave(&self) -> bool {
        self.0.leave()
    }
}
