//! Subjects that the server does not let this client publish to. It says so beside the request,
//! which has no other answer and would be tried again.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Maximum of subjects that are remembered.
const MOST: usize = 64;
/// What the server says, in lower case, before a subject in quotes.
const SAID: &str = "permissions violation for publish to \"";

/// The subjects, the last ones.
#[derive(Debug, Default)]
pub(super) struct Denied(Mutex<VecDeque<String>>);

impl Denied {
    /// A line about the connection.
    pub(super) fn note(&self, line: &str) {
        let Some(at) = line.to_ascii_lowercase().find(SAID) else {
            return;
        };
        let subject = line[at + SAID.len()..].split('"').next();
        let mut subjects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let subject = subject.unwrap_or_default().to_owned();
        if subjects.contains(&subject) {
            return;
        }
        if subjects.len() >= MOST {
            subjects.pop_front();
        }
        subjects.push_back(subject);
    }

    /// Whether the server has denied this one. It is asked again the next time: an operator may
    /// have changed that.
    pub(super) fn take(&self, subject: &str) -> bool {
        let mut subjects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = subjects.len();
        subjects.retain(|it| it != subject);
        subjects.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_is_found_once() {
        let denied = Denied::default();
        denied.note("NATS says: Permissions Violation for Publish to \"wrun.task.a.b\"");
        denied.note("NATS says: Permissions Violation for Subscription to \"x\"");
        denied.note("connected to NATS");
        assert!(!denied.take("x"));
        assert!(denied.take("wrun.task.a.b"));
        assert!(!denied.take("wrun.task.a.b"));
        for number in 0..1000 {
            denied.note(&format!(
                "permissions violation for publish to \"{number}\""
            ));
        }
        assert!(!denied.take("0") && denied.take("999"));
    }
}
