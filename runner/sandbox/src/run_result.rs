//! How a run of a guest ended, and the resources it used. Plain data, which a worker sends.

use super::denials::Denials;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use wrun_types::outcome::{Crash, Outcome, Output};
use wrun_types::report::Denial;

/// Maximum length of a trap's message.
pub(super) const MAX_MESSAGE: usize = 4096;
/// Maximum length of a task's own message when it fails.
pub(super) const MAX_FAILURE: usize = 64 << 10;

/// Maximum ratio of CPU time to wall-clock time.
const MAX_THREADS: u32 = 1024;

/// How a guest ended, and the resources it used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResult {
    /// The output of a guest that completed is in its sinks, not here.
    pub outcome: Outcome,
    /// From the start of [`run`](super::run::run()) to the guest's first instruction.
    pub start: Duration,
    pub run: Duration,
    /// `None` if it could not be measured because the worker is dead.
    pub cpu: Option<Duration>,
    pub peak_memory: Option<u64>,
    pub fuel: Option<u64>,
    pub growth_refused: u64,
    #[serde(deserialize_with = "Denials::deserialize")]
    pub denied: Vec<Denial>,
}

impl RunResult {
    /// Limits a result to possible values, if a process that may have been taken over
    /// reports it.
    pub fn distrusted(mut self, elapsed: Duration) -> Self {
        self.start = self.start.min(elapsed);
        self.run = self.run.min(elapsed);
        self.cpu = self
            .cpu
            .map(|cpu| cpu.min(elapsed.saturating_mul(MAX_THREADS)));
        match &mut self.outcome {
            Outcome::Completed(output) => *output = Output::default(),
            Outcome::Failed(message) => truncate(message, MAX_FAILURE),
            Outcome::Trapped(trap) => truncate(&mut trap.message, MAX_MESSAGE),
            // Only the runner can determine a crash; a worker may not report one.
            Outcome::Crashed(crash) => {
                *crash = Crash::Protocol("it reported a crash itself".into())
            }
            _ => {}
        }
        self.denied = Denials::bounded(self.denied);
        self
    }

    /// The result of a guest that was ended before it ran, or from outside.
    pub fn imposed(outcome: Outcome) -> Self {
        RunResult {
            outcome,
            start: Duration::ZERO,
            run: Duration::ZERO,
            cpu: None,
            peak_memory: None,
            fuel: None,
            growth_refused: 0,
            denied: Vec::new(),
        }
    }
}

/// Truncates a text to at most this many bytes, at a character boundary.
pub(super) fn truncate(text: &mut String, max: usize) {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_from_a_process_is_bounded() {
        let result = RunResult {
            outcome: Outcome::Failed("x".repeat(10 * MAX_FAILURE)),
            start: Duration::MAX,
            run: Duration::MAX,
            cpu: Some(Duration::MAX),
            ..RunResult::imposed(Outcome::Completed(Output::default()))
        };
        let elapsed = Duration::from_secs(1);
        let result = result.distrusted(elapsed);
        assert_eq!((result.start, result.run), (elapsed, elapsed));
        assert_eq!(result.cpu, Some(elapsed * MAX_THREADS));
        assert_eq!(result.outcome, Outcome::Failed("x".repeat(MAX_FAILURE)));
    }
}
