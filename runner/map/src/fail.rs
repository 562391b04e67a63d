//! How many inputs may fail before a batch ends.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

/// When failed inputs end the batch. An input fails if its task did not complete.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum FailPolicy {
    /// At the first, and the tasks that run are ended, too.
    Fast,
    /// Never.
    #[default]
    Never,
    /// Once more than this many have failed. Tasks that run are waited for.
    More(u64),
    /// Once more than this percentage of those that ended have failed, and at least
    /// [`FailPolicy::LEAST`] have ended. Tasks that run are waited for.
    Percent(f64),
}

impl FailPolicy {
    /// How many inputs must have ended before a percentage of them counts.
    pub const LEAST: u64 = 20;
}

impl FromStr for FailPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "expected fast, never, a number of inputs, or a percentage such as 5%".into();
        match (text, text.strip_suffix('%')) {
            ("fast", _) => Ok(FailPolicy::Fast),
            ("never", _) => Ok(FailPolicy::Never),
            (_, Some(percent)) => match percent.parse::<f64>() {
                Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(FailPolicy::Percent(percent)),
                _ => Err(wrong()),
            },
            _ => text.parse().map(FailPolicy::More).map_err(|_| wrong()),
        }
    }
}

/// What a batch does because of failed inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Takes no more inputs, and waits for the tasks that run.
    Finish,
    /// Ends the tasks that run.
    Now,
}

/// Counts what ended and what failed.
#[derive(Debug, Default)]
pub struct Failures {
    policy: FailPolicy,
    ended: AtomicU64,
    failed: AtomicU64,
}

impl Failures {
    /// None yet, or those of before.
    pub fn new(policy: FailPolicy, ended: u64, failed: u64) -> Self {
        Failures {
            policy,
            ended: ended.into(),
            failed: failed.into(),
        }
    }

    /// One more input has ended.
    pub fn note_ended(&self, failed: bool) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.note_failed();
        }
    }

    /// An input that ended well has failed after all: its output could not be kept.
    pub fn note_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// How many have failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// How many have ended.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether these are too many.
    pub fn halt(&self) -> Option<Halt> {
        let (ended, failed) = (self.ended(), self.failed());
        let too_many = match self.policy {
            FailPolicy::Never => false,
            FailPolicy::Fast => return (failed > 0).then_some(Halt::Now),
            FailPolicy::More(most) => failed > most,
            FailPolicy::Percent(percent) => {
                ended >= FailPolicy::LEAST && failed as f64 * 100.0 > percent * ended as f64
            }
        };
        too_many.then_some(Halt::Finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies() {
        assert_eq!("3".parse(), Ok(FailPolicy::More(3)));
        assert_eq!("2.5%".parse(), Ok(FailPolicy::Percent(2.5)));
        for bad in ["", "-1", "101%", "%", "slow", "nan%"] {
            assert!(bad.parse::<FailPolicy>().is_err(), "{bad}");
        }
        let halt = |policy: &str, ended, failed| {
            let policy = policy.parse().expect("a policy");
            Failures::new(policy, ended, failed).halt()
        };
        assert_eq!(halt("never", 9, 9), None);
        assert_eq!(halt("fast", 9, 0), None);
        assert_eq!(halt("fast", 9, 1), Some(Halt::Now));
        assert_eq!(
            (halt("1", 9, 1), halt("1", 9, 2)),
            (None, Some(Halt::Finish))
        );
        assert_eq!(halt("0", 1, 1), Some(Halt::Finish));
        assert_eq!((halt("50%", 19, 19), halt("50%", 20, 10)), (None, None));
        assert_eq!(halt("50%", 20, 11), Some(Halt::Finish));
    }
}
