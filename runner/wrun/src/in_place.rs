//! A task that is driven where its report is waited for, without a task of the runtime for it.
//!
//! Invariant: dropping it kills the task, and what then remains to be done is done all the same:
//! its children end, and what it holds is released.

use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Handle;
use wrun_sandbox::token::Token;

/// See the [module](self).
pub(crate) struct InPlace<F: Future<Output: Send> + Send + 'static> {
    /// `None` once it has ended.
    driving: Option<Pin<Box<F>>>,
    /// Kills the task.
    kill: Token,
    runtime: Handle,
}

impl<F: Future<Output: Send> + Send + 'static> InPlace<F> {
    pub(crate) fn new(driving: F, kill: Token, runtime: Handle) -> Self {
        InPlace {
            driving: Some(Box::pin(driving)),
            kill,
            runtime,
        }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for InPlace<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(driving) = &mut self.driving else {
            return Poll::Pending;
        };
        let polled = driving.as_mut().poll(cx);
        if polled.is_ready() {
            self.driving = None;
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for InPlace<F> {
    fn drop(&mut self) {
        if let Some(driving) = self.driving.take() {
            self.kill.cancel();
            self.runtime.spawn(driving);
        }
    }
}
