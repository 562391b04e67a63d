//! Yielding inside a host call: a call that does much work lets the other tasks on its
//! thread, deadlines and kills have their turn after a bounded part of it.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Work between two turns, in bytes that are copied or generated: some tens of
/// microseconds.
pub(super) const TURN: usize = 256 << 10;

/// Longer results are made one at a time.
const LONG: usize = 1 << 20;

static ONE_LONG: Semaphore = Semaphore::const_new(1);

/// A turn to make a result of this many bytes, which wasmtime then copies to the guest in
/// one piece: all tasks of this process make one long result at a time. Together they would
/// occupy all threads, and fault in each other's memory.
pub(crate) async fn long_result(len: usize) -> Option<SemaphorePermit<'static>> {
    if len <= LONG {
        return None;
    }
    ONE_LONG.acquire().await.ok()
}

/// The work of one call since it last yielded.
#[derive(Default)]
pub(super) struct Turns {
    done: usize,
}

impl Turns {
    /// Counts `work`, and yields when it is enough.
    pub(super) async fn spend(&mut self, work: usize) {
        self.done = self.done.saturating_add(work);
        if self.done >= TURN {
            self.done = 0;
            crate::turn::yield_now().await;
        }
    }
}
