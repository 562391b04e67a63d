//! Named locks of one runner: the table, and the callers that wait.
//!
//! Invariants: a waiting request is notified once, when it is granted; one that is dropped,
//! even after its notification, lets the next have its turn. `model/` checks it in every
//! order.

use crate::lock_table::{LockMode, LockTable, Requested, Ticket};
use crate::sync::{Mutex, MutexGuard, Notify};
use std::collections::HashMap;
use std::sync::Arc;
use wrun_sys::Unpoisoned;

/// Maximum length of a name, in bytes.
pub const MAX_NAME: usize = 256;
/// Maximum of names at once.
const MAX_NAMES: usize = 4096;
/// Maximum of requests that hold a lock or wait for one.
const MAX_REQUESTS: usize = 1 << 16;

pub struct Locks {
    tickets: Mutex<Tickets>,
}

struct Tickets {
    table: LockTable,
    waiting: HashMap<Ticket, Arc<Notify>>,
}

/// A lock that is held or waited for, until this is dropped.
pub struct Hold {
    locks: Arc<Locks>,
    ticket: Ticket,
}

impl Hold {
    #[doc(hidden)]
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut tickets = self.locks.tickets();
        tickets.waiting.remove(&self.ticket);
        let next = tickets.table.release(self.ticket);
        let next: Vec<_> = next
            .into_iter()
            .filter_map(|ticket| tickets.waiting.remove(&ticket))
            .collect();
        drop(tickets);
        // A woken caller may lock this table at once. One that gives up drops its own hold.
        for waiting in next {
            waiting.notify_one();
        }
    }
}

/// A named lock that this program holds, among its tasks; dropping it releases the lock.
///
/// Acquired by `Runner::lock`.
#[must_use = "the lock is given back when this is dropped"]
pub struct LockGuard {
    _hold: Hold,
}

impl LockGuard {
    #[doc(hidden)]
    pub fn new(hold: Hold) -> Self {
        LockGuard { _hold: hold }
    }
}

impl std::fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LockGuard").finish_non_exhaustive()
    }
}

impl Locks {
    #[doc(hidden)]
    pub fn new() -> Self {
        Locks {
            tickets: Mutex::new(Tickets {
                table: LockTable::new(MAX_NAMES, MAX_REQUESTS),
                waiting: HashMap::new(),
            }),
        }
    }

    /// How many requests wait for their turn, for any lock.
    #[doc(hidden)]
    pub fn waiting(&self) -> usize {
        self.tickets().waiting.len()
    }

    fn tickets(&self) -> MutexGuard<'_, Tickets> {
        self.tickets.lock().unpoisoned()
    }

    /// Acquires the lock; waits until it is available, or returns `None` if `if_available`
    /// is set and it is not. An error if there are too many names or requests.
    #[doc(hidden)]
    pub async fn request(
        self: &Arc<Self>,
        name: &str,
        mode: LockMode,
        if_available: bool,
    ) -> Result<Option<Hold>, ()> {
        let Some((hold, turn)) = self.stand(name, mode, if_available)? else {
            return Ok(None);
        };
        if let Some(turn) = turn {
            turn.notified().await;
        }
        Ok(Some(hold))
    }

    /// Acquires the lock if it is available; an error if there are too many names or
    /// requests.
    #[doc(hidden)]
    pub fn request_now(self: &Arc<Self>, name: &str, mode: LockMode) -> Result<Option<Hold>, ()> {
        Ok(self.stand(name, mode, true)?.map(|(hold, _)| hold))
    }

    /// A lock, or a place in its queue with the notification for its turn.
    #[expect(clippy::type_complexity, reason = "it is taken apart at once")]
    fn stand(
        self: &Arc<Self>,
        name: &str,
        mode: LockMode,
        if_available: bool,
    ) -> Result<Option<(Hold, Option<Arc<Notify>>)>, ()> {
        let mut tickets = self.tickets();
        let (ticket, turn) = match tickets.table.request(name, mode, if_available) {
            Requested::Granted(ticket) => (ticket, None),
            Requested::NotAvailable => return Ok(None),
            Requested::Limit => return Err(()),
            Requested::Waits(ticket) => {
                let turn = Arc::new(Notify::new());
                tickets.waiting.insert(ticket, turn.clone());
                (ticket, Some(turn))
            }
        };
        drop(tickets);
        let hold = Hold {
            locks: self.clone(),
            ticket,
        };
        Ok(Some((hold, turn)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn who_gives_up_waiting_or_drops_lets_others() {
        let locks = Arc::new(Locks::new());
        let ask = |mode| locks.request("a", mode, false);
        let held = ask(LockMode::Exclusive).await.expect("room");
        let soon = Duration::from_millis(10);
        let waited = tokio::time::timeout(soon, ask(LockMode::Exclusive)).await;
        assert!(waited.is_err());
        let mut reading = std::pin::pin!(ask(LockMode::Shared));
        let waited = tokio::time::timeout(soon, reading.as_mut()).await;
        assert!(waited.is_err());
        let now = locks.request("a", LockMode::Shared, true).await;
        assert!(matches!(now, Ok(None)));
        drop(held);
        let read = reading.await.expect("room").expect("it waited");
        let also = locks.request("a", LockMode::Shared, true).await;
        drop((read, also));
        assert!(locks.tickets().waiting.is_empty());
        let now = locks.request("a", LockMode::Exclusive, true).await;
        assert!(matches!(now, Ok(Some(_))));
    }
}
