//! The services of one task in its runner: serves its requests.
//!
//! Invariant: what a task holds in its runner is bounded, and is released when the attempt
//! that holds it is over.

use crate::children::Children;
#[cfg(feature = "http")]
use crate::http_client::{LazyClient, TaskRequests};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wrun_sandbox::broadcast::{Broadcast, Line};
#[cfg(feature = "http")]
use wrun_sandbox::http::{Body, Fetch, FetchError};
use wrun_sandbox::lock_table::{LockMode, Ticket};
use wrun_sandbox::locks::{Hold, Locks};
use wrun_sandbox::region::{Ledger, Maker};
use wrun_sandbox::services::{
    Notification, ServiceRequest, ServiceResponse, Services, SpawnError, TaskServices,
};
use wrun_sys::Unpoisoned;
use wrun_types::spec::Spec;

/// Maximum of locks that one task holds or waits for.
const MAX_LOCKS: usize = 64;
/// Maximum of broadcast channels of which one task is a member.
const MAX_MEMBERSHIPS: usize = 32;

/// State that all tasks of a runner share, by name.
pub(crate) struct SharedState {
    pub(crate) locks: Arc<Locks>,
    pub(crate) broadcast: Arc<Broadcast>,
    pub(crate) ledger: Arc<Ledger>,
    #[cfg(feature = "http")]
    pub(crate) http: LazyClient,
}

/// The services of one submitted task or child, in the runner.
pub(crate) struct Provider {
    children: Option<Children>,
    /// Made for tasks that need them.
    regions: OnceLock<Arc<Maker>>,
    /// Maximum of bytes in them together.
    max_regions: u64,
    shared: Arc<SharedState>,
    locks: Mutex<Locked>,
    /// Made for tasks that need them.
    lock_permits: OnceLock<Arc<Semaphore>>,
    memberships: OnceLock<Memberships>,
    /// The HTTP requests that it may send; none if it is granted none.
    #[cfg(feature = "http")]
    requests: Option<TaskRequests>,
}

/// The state of a member of broadcast channels.
struct Memberships {
    permits: Arc<Semaphore>,
    line: Line,
}

/// Locks that a task holds.
struct Locked {
    /// `None` once no more are granted.
    held: Option<HashMap<Ticket, (Hold, OwnedSemaphorePermit)>>,
    /// The attempt that holds them.
    attempt: u32,
}

impl Provider {
    /// For a task that may start `children`; without them it may start none.
    pub(crate) fn new(children: Option<Children>, shared: Arc<SharedState>, spec: &Spec) -> Self {
        Provider {
            #[cfg(feature = "http")]
            requests: (!spec.http.is_empty())
                .then(|| TaskRequests::new(shared.http.get(), spec.http.clone())),
            children,
            regions: OnceLock::new(),
            max_regions: spec.limits.max_memory,
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

    async fn lock(&self, name: &str, mode: LockMode, if_available: bool) -> ServiceResponse {
        let permits = self
            .lock_permits
            .get_or_init(|| Arc::new(Semaphore::new(MAX_LOCKS)));
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            return ServiceResponse::NotLocked;
        };
        let attempt = self.locks().attempt;
        match self.shared.locks.request(name, mode, if_available).await {
            Ok(Some(hold)) => {
                let ticket = hold.ticket();
                let mut locks = self.locks();
                // The requesting attempt can be over, and the next one does not know of this
                // lock.
                if locks.attempt != attempt {
                    return ServiceResponse::NotLocked;
                }
                match &mut locks.held {
                    Some(held) => held.insert(ticket, (hold, permit)),
                    None => return ServiceResponse::NotLocked,
                };
                ServiceResponse::Locked(ticket)
            }
            Ok(None) => ServiceResponse::NotAvailable,
            Err(()) => ServiceResponse::NotLocked,
        }
    }

    fn join(&self, name: &str) -> ServiceResponse {
        let memberships = self.memberships.get_or_init(|| Memberships {
            permits: Arc::new(Semaphore::new(MAX_MEMBERSHIPS)),
            line: Line::default(),
        });
        let Ok(permit) = memberships.permits.clone().try_acquire_owned() else {
            return ServiceResponse::NotJoined;
        };
        let line = memberships.line.clone();
        match self.shared.broadcast.join(name, line, permit) {
            Ok(port) => ServiceResponse::Joined(port),
            Err(_) => ServiceResponse::NotJoined,
        }
    }

    fn lock_no_more(&self) {
        let held = self.locks().held.take();
        drop(held);
    }

    /// The regions that are made for it, if any.
    pub(crate) fn regions(&self) -> Option<&Arc<Maker>> {
        self.regions.get()
    }

    fn maker(&self) -> &Maker {
        self.regions
            .get_or_init(|| Arc::new(Maker::new(self.shared.ledger.clone(), self.max_regions)))
    }

    fn unlock(&self, ticket: Ticket) -> bool {
        // Releasing it wakes others; not while this lock is held.
        let mut locks = self.locks();
        let had = locks.held.as_mut().and_then(|held| held.remove(&ticket));
        drop(locks);
        had.is_some()
    }
}

#[async_trait::async_trait]
impl Services for Provider {
    async fn request(&self, request: ServiceRequest) -> ServiceResponse {
        match (request, &self.children) {
            (
                ServiceRequest::Spawn {
                    name,
                    input,
                    len,
                    port,
                },
                Some(children),
            ) => match children.spawn(&name, input, len, port) {
                Ok(id) => ServiceResponse::Spawned(id),
                Err((error, port)) => ServiceResponse::NotSpawned { error, port },
            },
            (ServiceRequest::Spawn { port, .. }, None) => ServiceResponse::NotSpawned {
                error: SpawnError::NotGranted,
                port,
            },
            (ServiceRequest::Ended(id), Some(children)) => match children.ended(id).await {
                Some(_) => ServiceResponse::Ended,
                None => ServiceResponse::Refused,
            },
            (ServiceRequest::End(id), Some(children)) => match children.ended(id).await {
                Some(end) => ServiceResponse::End(end),
                None => ServiceResponse::Refused,
            },
            (ServiceRequest::Ended(_) | ServiceRequest::End(_), None) => ServiceResponse::Refused,
            (ServiceRequest::Region { len, kind, room }, _) => {
                ServiceResponse::Region(self.maker().make(len, kind, room))
            }
            (ServiceRequest::RegionBytes, _) => {
                let made = self.regions().map_or(0, |regions| regions.bytes());
                ServiceResponse::RegionBytes(made)
            }
            (ServiceRequest::Claim(file), _) => {
                let (file, sole) = self.shared.ledger.claim(file).await;
                ServiceResponse::Claimed { file, sole }
            }
            (
                ServiceRequest::Lock {
                    name,
                    mode,
                    if_available,
                },
                _,
            ) => self.lock(&name, mode, if_available).await,
            (ServiceRequest::Join(name), _) => self.join(&name),
        }
    }

    fn notify(&self, notification: Notification) -> bool {
        let children = self.children.as_ref();
        match notification {
            Notification::Kill(id) => children.is_some_and(|children| children.kill(id)),
            Notification::Release(id) => children.is_some_and(|children| children.release(id)),
            Notification::Unlock(ticket) => self.unlock(ticket),
            Notification::Withdraw(_) => false,
        }
    }

    #[cfg(feature = "http")]
    async fn fetch(&self, fetch: Fetch) -> Result<http::Response<Body>, FetchError> {
        match &self.requests {
            Some(requests) => requests.fetch(fetch).await,
            None => Err(FetchError::Denied),
        }
    }
}

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

    fn end(&self) -> Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> {
        match &self.children {
            Some(children) => Some(Box::pin(async {
                children.end().await;
                self.lock_no_more();
            })),
            None => {
                self.lock_no_more();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Waker};
    use wrun_sandbox::port::Transport;

    #[tokio::test]
    async fn an_attempt_that_is_over_gets_no_lock() {
        let commons = Arc::new(SharedState {
            locks: Arc::new(Locks::new()),
            broadcast: Arc::new(Broadcast::new(Transport::queue())),
            ledger: Arc::new(Ledger::new(0, false)),
            #[cfg(feature = "http")]
            http: LazyClient::new(&[]).expect("a client"),
        });
        let task = Provider::new(None, commons.clone(), &Spec::warm_up());
        let other = commons.locks.request("a", LockMode::Exclusive, false);
        let other = other.await.expect("room");
        let mut waiting = Box::pin(task.lock("a", LockMode::Exclusive, false));
        let mut now = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut now).is_pending());
        task.unlock_all();
        drop(other);
        assert!(matches!(waiting.await, ServiceResponse::NotLocked));
        let next = task.lock("a", LockMode::Exclusive, true).await;
        assert!(matches!(next, ServiceResponse::Locked(_)));
    }
}
