//! What stands in for `runner/sandbox/src/sync.rs`: loom's locks, which try every order. For
//! Miri, the ones that the runner has.

#[cfg(not(miri))]
pub(crate) use loom::sync::{Mutex, MutexGuard, RwLock};
#[cfg(miri)]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock};
#[cfg(miri)]
pub(crate) use tokio::sync::Notify;
use wrun_sys::Unpoisoned;

/// What tokio says that its `Notify` does, for one who waits and `notify_one`: a
/// notification that nobody waits for yet is kept for who comes.
#[cfg(not(miri))]
#[derive(Debug)]
pub(crate) struct Notify(Mutex<Notified>);

#[cfg(not(miri))]
#[derive(Debug)]
enum Notified {
    Not(Option<std::task::Waker>),
    Yes,
}

#[cfg(not(miri))]
impl Notify {
    pub(crate) fn new() -> Self {
        Notify(Mutex::new(Notified::Not(None)))
    }

    fn state(&self) -> MutexGuard<'_, Notified> {
        self.0.lock().unpoisoned()
    }

    pub(crate) fn notify_one(&self) {
        let before = std::mem::replace(&mut *self.state(), Notified::Yes);
        if let Notified::Not(Some(waker)) = before {
            waker.wake();
        }
    }

    pub(crate) async fn notified(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.state();
            match *state {
                Notified::Yes => {
                    *state = Notified::Not(None);
                    std::task::Poll::Ready(())
                }
                Notified::Not(_) => {
                    *state = Notified::Not(Some(cx.waker().clone()));
                    std::task::Poll::Pending
                }
            }
        })
        .await;
    }
}
