//! How a task is killed: it is requested to stop, has its grace period, and is then ended.

use crate::deadline::{Deadline, until};
use crate::token::Token;
use std::pin::Pin;
use std::time::Duration;

/// The stop of one task: the request for it, and its stages.
#[derive(Clone, Debug)]
pub struct Stop {
    /// A stop was requested.
    pub requested: Token,
    /// Requests the task to stop.
    pub cancel: Token,
    /// Ends the task.
    pub kill: Token,
    pub grace: Duration,
}

impl Stop {
    /// Drives `running` to its end, which comes soon after a stop is requested. A task that
    /// does not observe cancellation is ended without a grace period. Takes a pointer, because a
    /// future as an argument lies in the future of this twice, and that is moved for each task.
    pub async fn watch<T>(
        &self,
        observes_cancellation: bool,
        mut running: Pin<&mut impl Future<Output = T>>,
    ) -> T {
        tokio::select! {
            biased;
            ended = &mut running => return ended,
            () = self.requested.cancelled() => {}
        }
        if observes_cancellation && !self.grace.is_zero() {
            self.cancel.cancel();
            tokio::select! {
                biased;
                ended = &mut running => return ended,
                () = until(Deadline::after(self.grace)) => {}
            }
        }
        self.kill.cancel();
        running.await
    }

    /// Waits until a stop is requested and the grace period after it is over.
    pub async fn over(&self) {
        self.requested.cancelled().await;
        until(Deadline::after(self.grace)).await;
    }
}
