//! The tasks of a runner from their submission to their end: how many there may be, how many there
//! are, and when there are none.
//!
//! Invariant: there are never more than may be; what is counted is counted until all that a task
//! holds is released.

use crate::core::Core;
use std::sync::Arc;
use tokio::sync::{Notify, Semaphore, TryAcquireError};
use wrun_types::error::Error;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Admission {
    permits: Semaphore,
    most: usize,
    /// After it was closed: one ended.
    ended: Notify,
}

/// A task that was admitted, until it is dropped; it has the runner's core.
pub(crate) struct InFlight(Arc<Core>);

impl Admission {
    pub(crate) fn new(most: usize) -> Self {
        Admission {
            permits: Semaphore::new(most),
            most,
            ended: Notify::new(),
        }
    }

    /// Admits a task to this core, whose admission this is; waits while there are as many as may
    /// be.
    pub(crate) async fn admit(core: Arc<Core>) -> Result<InFlight, Error> {
        let permits = &core.admission.permits;
        // While others wait, there is none.
        let permit = match permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => permits.acquire().await.map_err(|_| Error::shut_down())?,
        };
        permit.forget();
        Ok(InFlight(core))
    }

    /// [`Admission::admit`], if there is room.
    pub(crate) fn try_admit(core: Arc<Core>) -> Result<InFlight, Error> {
        let permit = core.admission.permits.try_acquire();
        permit
            .map_err(|error| match error {
                TryAcquireError::NoPermits => Error::overloaded(),
                TryAcquireError::Closed => Error::shut_down(),
            })?
            .forget();
        Ok(InFlight(core))
    }

    /// Admits no more.
    pub(crate) fn close(&self) {
        self.permits.close();
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.most.saturating_sub(self.permits.available_permits())
    }

    /// Closes it, and waits until there are none.
    pub(crate) async fn closed_and_empty(&self) {
        self.close();
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            // Before the look: it is woken by everything that happens from here on.
            ended.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl InFlight {
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let admission = &self.0.admission;
        admission.permits.add_permits(1);
        if admission.permits.is_closed() {
            admission.ended.notify_waiters();
        }
    }
}
