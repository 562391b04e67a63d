//! Tasks that are to be ended wherever they are: cancelled, or buried.
//!
//! Invariant: at most [`MOST`] are kept; the oldest are forgotten first.

use crate::protocol::TaskId;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use tokio::sync::watch;

/// Maximum of marks in memory.
const MOST: usize = 100_000;

/// What is to be done with a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Mark {
    /// End it; it is answered already.
    Cancel,
    /// End it, and move it to the dead.
    Bury {
        /// Why.
        why: String,
    },
}

/// All marks that are known.
#[derive(Debug)]
pub struct Marks {
    known: Mutex<Known>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    marks: HashMap<TaskId, Mark>,
    order: VecDeque<TaskId>,
}

impl Default for Marks {
    fn default() -> Self {
        Marks {
            known: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Marks {
    /// Adds a mark, or takes one away.
    pub(crate) fn set(&self, id: TaskId, mark: Option<Mark>) {
        let mut known = self.known();
        match mark {
            None => {
                known.marks.remove(&id);
                known.order.retain(|other| *other != id);
                return;
            }
            Some(mark) => {
                if known.marks.insert(id.clone(), mark).is_none() {
                    known.order.push_back(id);
                }
            }
        }
        while known.order.len() > MOST {
            if let Some(oldest) = known.order.pop_front() {
                known.marks.remove(&oldest);
            }
        }
        drop(known);
        self.changes.send_modify(|count| *count += 1);
    }

    /// The mark of a task.
    pub(crate) fn get(&self, id: &TaskId) -> Option<Mark> {
        self.known().marks.get(id).cloned()
    }

    /// Waits until a task is marked. Cancel safe.
    pub(crate) async fn wait(&self, id: &TaskId) -> Mark {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if let Some(mark) = self.get(id) {
                return mark;
            }
            // The sender is in `self`.
            let _ = changes.changed().await;
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten() {
        let marks = Marks::default();
        let id = |number: usize| format!("t{number}").parse::<TaskId>().expect("an id");
        for number in 0..=MOST {
            marks.set(id(number), Some(Mark::Cancel));
        }
        assert_eq!(marks.get(&id(0)), None);
        assert_eq!(marks.get(&id(MOST)), Some(Mark::Cancel));
        marks.set(id(MOST), None);
        assert_eq!(marks.get(&id(MOST)), None);
    }
}
