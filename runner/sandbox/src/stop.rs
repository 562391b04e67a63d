//! How a task is killed: it is asked to stop, has its grace, and is ended.

use crate::deadline::{Deadline, until};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The wish that one task is gone, and what grants it.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Somebody wishes it.
    pub wished: CancellationToken,
    /// Asks the task.
    pub ask: CancellationToken,
    /// Ends the task.
    pub end: CancellationToken,
    pub grace: Duration,
}

impl Stop {
    /// Drives what runs to its end, which comes soon once the task is wished gone. A
    /// task that does not `listen` is not asked.
    pub async fn watch<T>(
        &self,
        observes_cancellation: bool,
        running: impl Future<Output = T>,
    ) -> T {
        let mut running = std::pin::pin!(running);
        tokio::select! {
            biased;
            ended = &mut running => return ended,
            () = self.wished.cancelled() => {}
        }
        if observes_cancellation && !self.grace.is_zero() {
            self.ask.cancel();
            tokio::select! {
                biased;
                ended = &mut running => return ended,
                () = until(Deadline::after(self.grace)) => {}
            }
        }
        self.end.cancel();
        running.await
    }

    /// Waits until the grace of a task that is wished gone is over.
    pub async fn over(&self) {
        self.wished.cancelled().await;
        until(Deadline::after(self.grace)).await;
    }
}
