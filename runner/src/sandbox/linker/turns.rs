//! Giving way inside a host call: a call that does a lot of work lets the siblings on
//! its thread, deadlines and kills have their turn after a bounded part of it.

/// Work between two turns, in bytes that are copied or made: some tens of
/// microseconds.
pub(super) const TURN: usize = 256 << 10;

/// The work of one call since it last gave way.
#[derive(Default)]
pub(super) struct Turns {
    done: usize,
}

impl Turns {
    /// Counts `work`, and gives way when it is enough.
    pub(super) async fn spend(&mut self, work: usize) {
        self.done = self.done.saturating_add(work);
        if self.done >= TURN {
            self.done = 0;
            tokio::task::yield_now().await;
        }
    }
}
