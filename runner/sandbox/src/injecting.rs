//! The host's code in the guest's place: takes the action that it was ordered to, when it
//! is told to begin.
//!
//! At that point everything of the guest exists but its first instruction, so the action
//! meets what an escaped guest would.

use super::host::{OnProgress, Progress, TaskContext};
use crate::deadline::{Deadline, until};
use crate::token::Token;
use wrun_types::injection::Injection;
use wrun_types::limits::Limit;
use wrun_types::outcome::Outcome;

/// An action that was ordered, and how it reports to its orderer.
pub(super) struct Injecting<'a> {
    act: &'a Injection,
    begin: Token,
    progress: OnProgress,
    deadline: Option<Deadline>,
}

impl<'a> Injecting<'a> {
    pub(super) fn new(act: &'a Injection, context: &TaskContext) -> Self {
        Injecting {
            act,
            begin: context.cancel.clone(),
            progress: context.progress.clone(),
            deadline: context.deadline,
        }
    }

    /// Reports that it is ready, waits until the task is cancelled, and acts; or is ended
    /// before.
    pub(super) async fn done(self, kill: &Token) -> Outcome {
        if let Some(tell) = &self.progress {
            tell(Progress {
                done: 1,
                total: None,
            });
        }
        tokio::select! {
            biased;
            () = kill.cancelled() => Outcome::Cancelled,
            () = self.begin.cancelled() => Outcome::Failed(wrun_sys::inject(self.act).to_text()),
            () = until(self.deadline) => Outcome::LimitExceeded(Limit::Deadline),
        }
    }
}
