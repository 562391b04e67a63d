//! A task that is driven where its report is waited for, without a task of the runtime for it.
//!
//! Invariant: dropping it kills the task, and what then remains to be done is done all the same:
//! its children end, and what it holds is released.

use crate::core::Core;
use crate::task::Task;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use tracing::Instrument as _;
use wrun_sandbox::token::Token;
use wrun_types::error::Error;
use wrun_types::report::Report;

/// Runs a task where this is polled, which is on a thread of the runner's runtime.
pub(crate) async fn run_here(core: Arc<Core>, task: Task) -> Result<Report, Error> {
    let in_flight = core.admit().await?;
    let (admitted, _ends) = Core::admitted(task, in_flight, None)?;
    let span = admitted.launch.span.clone();
    let kill = admitted.launch.stop.requested.clone();
    // In a box, which what is around it can move.
    let driving = Box::pin(Core::drive(admitted)).instrument(span);
    InPlace::new(driving, kill).await
}

/// See the [module](self).
pub(crate) struct InPlace<F: Future<Output: Send> + Send + Unpin + 'static> {
    /// `None` once it has ended.
    driving: Option<F>,
    /// Kills the task.
    kill: Token,
    /// Where it was polled, if that did not end it: most are never waited for.
    runtime: Option<Handle>,
}

impl<F: Future<Output: Send> + Send + Unpin + 'static> InPlace<F> {
    /// `kill` kills the task.
    pub(crate) fn new(driving: F, kill: Token) -> Self {
        InPlace {
            driving: Some(driving),
            kill,
            runtime: None,
        }
    }

    /// What drives the task, for another to poll; `None` once it has ended.
    pub(crate) fn take(&mut self) -> Option<F> {
        self.driving.take()
    }
}

impl<F: Future<Output: Send> + Send + Unpin + 'static> Future for InPlace<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(driving) = &mut self.driving else {
            return Poll::Pending;
        };
        let polled = Pin::new(driving).poll(cx);
        if polled.is_ready() {
            self.driving = None;
        } else if self.runtime.is_none() {
            self.runtime = Some(Handle::current());
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + Unpin + 'static> Drop for InPlace<F> {
    fn drop(&mut self) {
        // One that was never polled has begun nothing.
        if let (Some(driving), Some(runtime)) = (self.driving.take(), &self.runtime) {
            self.kill.cancel();
            runtime.spawn(driving);
        }
    }
}
