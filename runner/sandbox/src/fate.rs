//! How a run of a guest ended, and what it used. Plain data, which a worker sends.

use super::denials::Denials;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use wrun_types::outcome::{Limit, Trap};
use wrun_types::report::Denial;

/// Cap on a trap's message.
pub(super) const MAX_MESSAGE: usize = 4096;
/// Cap on a task's own words when it fails.
pub(super) const MAX_FAILURE: usize = 64 << 10;

/// CPU time cannot be more than this many times the wall clock's.
const MAX_THREADS: u32 = 1024;

/// How a guest ended; its output is in its sinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    Completed,
    Failed(String),
    Exited(u8),
    Trapped(Trap),
    LimitExceeded(Limit),
    Cancelled,
}

/// How a guest ended and what it used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    pub ending: Ending,
    /// From the start of [`run`](super::run::run()) to the guest's first instruction.
    pub start: Duration,
    pub run: Duration,
    /// None where nobody could measure: the worker is dead.
    pub cpu: Option<Duration>,
    pub peak_memory: Option<u64>,
    pub fuel: Option<u64>,
    pub growth_refused: u64,
    #[serde(deserialize_with = "Denials::deserialize")]
    pub denied: Vec<Denial>,
}

impl Fate {
    /// What a fate can be at most, when a process that may have been taken over
    /// reports it.
    pub fn distrusted(mut self, elapsed: Duration) -> Self {
        self.start = self.start.min(elapsed);
        self.run = self.run.min(elapsed);
        self.cpu = self
            .cpu
            .map(|cpu| cpu.min(elapsed.saturating_mul(MAX_THREADS)));
        match &mut self.ending {
            Ending::Failed(message) => truncate(message, MAX_FAILURE),
            Ending::Trapped(trap) => truncate(&mut trap.message, MAX_MESSAGE),
            _ => {}
        }
        self.denied = Denials::bounded(self.denied);
        self
    }

    /// The fate of a guest that somebody else ended, before it ran or from
    /// outside.
    pub fn imposed(ending: Ending) -> Self {
        Fate {
            ending,
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

/// Cuts a text to at most this many bytes, at a character boundary.
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
    fn a_fate_from_a_process_is_bounded() {
        let fate = Fate {
            ending: Ending::Failed("x".repeat(10 * MAX_FAILURE)),
            start: Duration::MAX,
            run: Duration::MAX,
            cpu: Some(Duration::MAX),
            ..Fate::imposed(Ending::Completed)
        };
        let elapsed = Duration::from_secs(1);
        let fate = fate.distrusted(elapsed);
        assert_eq!((fate.start, fate.run), (elapsed, elapsed));
        assert_eq!(fate.cpu, Some(elapsed * MAX_THREADS));
        assert_eq!(fate.ending, Ending::Failed("x".repeat(MAX_FAILURE)));
    }
}
