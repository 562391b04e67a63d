//! Named locks of one runner: the table, and who waits.

use crate::lock_table::{LockMode, LockTable, Requested, Ticket};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Bytes of a name, at most.
pub(crate) const MAX_NAME: usize = 256;
/// Names at once.
const MAX_NAMES: usize = 4096;
/// Requests that hold a lock or wait for one.
const MAX_REQUESTS: usize = 1 << 16;

pub(crate) struct Locks {
    state: Mutex<State>,
}

struct State {
    table: LockTable,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
}

/// A lock that is held, or waited for; dropping it ends that.
pub(crate) struct Hold {
    locks: Arc<Locks>,
    ticket: Ticket,
}

impl Hold {
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.locks.state();
        state.waiting.remove(&self.ticket);
        for next in state.table.release(self.ticket) {
            // Whoever gives up waiting drops its own.
            if let Some(waiting) = state.waiting.remove(&next) {
                let _ = waiting.send(());
            }
        }
    }
}

impl Locks {
    pub(crate) fn new() -> Self {
        Locks {
            state: Mutex::new(State {
                table: LockTable::new(MAX_NAMES, MAX_REQUESTS),
                waiting: HashMap::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock, once it can be had; none where it cannot at once and was not to be
    /// waited for; an error where there are too many.
    pub(crate) async fn request(
        self: &Arc<Self>,
        name: &str,
        mode: LockMode,
        if_available: bool,
    ) -> Result<Option<Hold>, ()> {
        let (hold, granted) = {
            let mut state = self.state();
            let hold = |ticket| Hold {
                locks: self.clone(),
                ticket,
            };
            match state.table.request(name, mode, if_available) {
                Requested::Granted(ticket) => return Ok(Some(hold(ticket))),
                Requested::NotAvailable => return Ok(None),
                Requested::Limit => return Err(()),
                Requested::Waits(ticket) => {
                    let (sender, granted) = oneshot::channel();
                    state.waiting.insert(ticket, sender);
                    (hold(ticket), granted)
                }
            }
        };
        granted.await.map_err(drop)?;
        Ok(Some(hold))
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
        assert!(locks.state().waiting.is_empty());
        let now = locks.request("a", LockMode::Exclusive, true).await;
        assert!(matches!(now, Ok(Some(_))));
    }
}
