//! The services of one task where its runner is: what it asks for, answered.
//!
//! Invariant: what a task has of its runner is bounded, and is given back when the
//! attempt that has it is over.

use crate::children::Children;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wrun_sandbox::broadcast::{Broadcast, Line};
use wrun_sandbox::lock_table::{LockMode, Ticket};
use wrun_sandbox::locks::{Hold, Locks};
use wrun_sandbox::region::Maker;
use wrun_sandbox::services::{Answer, Ask, Services, SpawnError, TaskServices, Word};
use wrun_sys::Unpoisoned;

/// Locks that one task has or waits for.
const MAX_LOCKS: usize = 64;
/// Broadcast channels that one task is a member of.
const MAX_MEMBERSHIPS: usize = 32;

/// What all tasks of a runner share, by name.
pub(crate) struct SharedState {
    pub(crate) locks: Arc<Locks>,
    pub(crate) broadcast: Arc<Broadcast>,
}

/// The services of one submitted task or child, where the runner is.
pub(crate) struct Provider {
    children: Option<Children>,
    regions: Arc<Maker>,
    shared: Arc<SharedState>,
    locks: Mutex<Locked>,
    /// Made for those that need them.
    lock_permits: OnceLock<Arc<Semaphore>>,
    memberships: OnceLock<Memberships>,
}

/// What a task needs to be a member of broadcast channels.
struct Memberships {
    permits: Arc<Semaphore>,
    line: Line,
}

/// Locks that a task has.
struct Locked {
    /// None once no more are given out.
    held: Option<HashMap<Ticket, (Hold, OwnedSemaphorePermit)>>,
    /// Which attempt has them.
    attempt: u32,
}

impl Provider {
    /// For a task that may start `children`; without them it may start none.
    pub(crate) fn new(
        children: Option<Children>,
        shared: Arc<SharedState>,
        regions: Arc<Maker>,
    ) -> Self {
        Provider {
            children,
            regions,
            shared,
            locks: Mutex::new(Locked {
                held: Some(HashMap::new()),
                attempt: 0,
            }),
            lock_permits: OnceLock::new(),
            memberships: OnceLock::new(),
        }
    }

    fn locks(&self) -> MutexGuard<'_, Locked> {
        self.locks.lock().unpoisoned()
    }

    async fn lock(&self, name: &str, mode: LockMode, if_available: bool) -> Answer {
        let permits = self
            .lock_permits
            .get_or_init(|| Arc::new(Semaphore::new(MAX_LOCKS)));
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            return Answer::NotLocked;
        };
        let attempt = self.locks().attempt;
        match self.shared.locks.request(name, mode, if_available).await {
            Ok(Some(hold)) => {
                let ticket = hold.ticket();
                let mut locks = self.locks();
                // The attempt that asked can be over, and the next one knows nothing of
                // this lock.
                if locks.attempt != attempt {
                    return Answer::NotLocked;
                }
                match &mut locks.held {
                    Some(held) => held.insert(ticket, (hold, permit)),
                    None => return Answer::NotLocked,
                };
                Answer::Locked(ticket)
            }
            Ok(None) => Answer::NotAvailable,
            Err(()) => Answer::NotLocked,
        }
    }

    fn join(&self, name: &str) -> Answer {
        let memberships = self.memberships.get_or_init(|| Memberships {
            permits: Arc::new(Semaphore::new(MAX_MEMBERSHIPS)),
            line: Line::default(),
        });
        let Ok(permit) = memberships.permits.clone().try_acquire_owned() else {
            return Answer::NotJoined;
        };
        let line = memberships.line.clone();
        match self.shared.broadcast.join(name, line, permit) {
            Ok(port) => Answer::Joined(port),
            Err(_) => Answer::NotJoined,
        }
    }

    fn unlock(&self, ticket: Ticket) -> bool {
        // Giving it back wakes others; not under this lock.
        let mut locks = self.locks();
        let had = locks.held.as_mut().and_then(|held| held.remove(&ticket));
        drop(locks);
        had.is_some()
    }
}

#[async_trait::async_trait]
impl Services for Provider {
    async fn ask(&self, ask: Ask) -> Answer {
        match (ask, &self.children) {
            (
                Ask::Spawn {
                    name,
                    input,
                    len,
                    port,
                },
                Some(children),
            ) => match children.spawn(&name, input, len, port) {
                Ok(id) => Answer::Spawned(id),
                Err((error, port)) => Answer::NotSpawned { error, port },
            },
            (Ask::Spawn { port, .. }, None) => Answer::NotSpawned {
                error: SpawnError::NotGranted,
                port,
            },
            (Ask::Ended(id), Some(children)) => match children.ended(id).await {
                Some(_) => Answer::Ended,
                None => Answer::Refused,
            },
            (Ask::End(id), Some(children)) => match children.ended(id).await {
                Some(end) => Answer::End(end),
                None => Answer::Refused,
            },
            (Ask::Ended(_) | Ask::End(_), None) => Answer::Refused,
            (Ask::Region { len, kind, room }, _) => {
                Answer::Region(self.regions.make(len, kind, room))
            }
            (Ask::RegionBytes, _) => Answer::RegionBytes(self.regions.bytes()),
            (Ask::Claim(file), _) => {
                let (file, sole) = self.regions.claim(file).await;
                Answer::Claimed { file, sole }
            }
            (
                Ask::Lock {
                    name,
                    mode,
                    if_available,
                },
                _,
            ) => self.lock(&name, mode, if_available).await,
            (Ask::Join(name), _) => self.join(&name),
        }
    }

    fn tell(&self, word: Word) -> bool {
        let children = self.children.as_ref();
        match word {
            Word::Kill(id) => children.is_some_and(|children| children.kill(id)),
            Word::Release(id) => children.is_some_and(|children| children.release(id)),
            Word::Unlock(ticket) => self.unlock(ticket),
            Word::Withdraw(_) => false,
        }
    }
}

#[async_trait::async_trait]
impl TaskServices for Provider {
    fn children_started(&self) -> u64 {
        self.children.as_ref().map_or(0, Children::started)
    }

    fn has_joined(&self) -> bool {
        self.memberships.get().is_some()
    }

    fn unlock_all(&self) {
        let mut locks = self.locks();
        let held = locks.held.replace(HashMap::new());
        locks.attempt = locks.attempt.wrapping_add(1);
        drop(locks);
        drop(held);
    }

    async fn end(&self) {
        if let Some(children) = &self.children {
            children.end().await;
        }
        let held = self.locks().held.take();
        drop(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Waker};
    use wrun_sandbox::port::Transport;
    use wrun_sandbox::region::Ledger;

    #[tokio::test]
    async fn an_attempt_that_is_over_gets_no_lock() {
        let commons = Arc::new(SharedState {
            locks: Arc::new(Locks::new()),
            broadcast: Arc::new(Broadcast::new(Transport::queue())),
        });
        let ledger = Arc::new(Ledger::new(0, false));
        let regions = Arc::new(Maker::new(ledger, 0));
        let task = Provider::new(None, commons.clone(), regions);
        let other = commons.locks.request("a", LockMode::Exclusive, false);
        let other = other.await.expect("room");
        let mut waiting = Box::pin(task.lock("a", LockMode::Exclusive, false));
        let mut now = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut now).is_pending());
        task.unlock_all();
        drop(other);
        assert!(matches!(waiting.await, Answer::NotLocked));
        let next = task.lock("a", LockMode::Exclusive, true).await;
        assert!(matches!(next, Answer::Locked(_)));
    }
}
