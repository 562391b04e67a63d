//! A request that is made once, such as to stop, and that all who hold a clone see.
//!
//! As `tokio_util::sync::CancellationToken`, of which each task needs three: but making, cloning
//! and dropping one takes no lock, because no parent knows its children. They look at it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// See the [module](self). Clones are the same token.
#[derive(Clone, Debug, Default)]
pub struct Token(Arc<State>);

#[derive(Debug, Default)]
struct State {
    cancelled: AtomicBool,
    waiting: Notify,
    parent: Option<Token>,
}

/// Cancels its token when it is dropped.
#[derive(Debug)]
pub struct DropGuard(Token);

impl Token {
    pub fn new() -> Self {
        Token::default()
    }

    /// One that is cancelled when this one is, too.
    pub fn child(&self) -> Self {
        Token(Arc::new(State {
            parent: Some(self.clone()),
            ..State::default()
        }))
    }

    /// Makes the request, for this token and its children; again is no change.
    pub fn cancel(&self) {
        if !self.0.cancelled.swap(true, Ordering::AcqRel) {
            self.0.waiting.notify_waiters();
        }
    }

    pub fn is_cancelled(&self) -> bool {
        let mut token = Some(self);
        while let Some(Token(state)) = token {
            if state.cancelled.load(Ordering::Acquire) {
                return true;
            }
            token = state.parent.as_ref();
        }
        false
    }

    /// Waits until it is cancelled.
    pub async fn cancelled(&self) {
        let Some(parent) = &self.0.parent else {
            return self.own().await;
        };
        tokio::select! {
            biased;
            () = self.own() => {}
            () = parent.boxed() => {}
        }
    }

    /// [`Token::cancelled`], for the parents of a token: there may be any number.
    fn boxed(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.cancelled())
    }

    /// Waits until it is cancelled itself.
    async fn own(&self) {
        // Before the look: it is woken by everything that happens from here on.
        let woken = self.0.waiting.notified();
        if !self.0.cancelled.load(Ordering::Acquire) {
            woken.await;
        }
    }

    /// [`Token::cancelled`], which holds the token.
    pub async fn cancelled_owned(self) {
        self.cancelled().await;
    }

    /// Cancels it when the guard is dropped.
    pub fn drop_guard(self) -> DropGuard {
        DropGuard(self)
    }
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Waker};

    #[test]
    fn all_below_see_it_and_none_above() {
        let [top, other] = [Token::new(), Token::new()];
        let [one, two] = [top.child(), top.child()];
        let below = one.child();
        let beside = two.clone();
        one.cancel();
        let seen = [&top, &one, &two, &below, &beside, &other].map(Token::is_cancelled);
        assert_eq!(seen, [false, true, false, true, false, false]);
        top.cancel();
        let seen = [&top, &two, &beside, &top.child()].map(Token::is_cancelled);
        assert_eq!(seen, [true; 4]);
        assert!(!other.is_cancelled());
    }

    #[tokio::test]
    async fn those_who_wait_are_woken_by_any_above() {
        let top = Token::new();
        let below = top.child().child();
        let mut waiting = Box::pin(below.clone().cancelled_owned());
        let mut now = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut now).is_pending());
        let task = tokio::spawn(waiting);
        drop(top.clone().drop_guard());
        task.await.expect("it ended");
        below.cancelled().await;
        top.cancelled().await;
    }

    #[test]
    fn a_wait_that_began_before_sees_it() {
        let token = Token::new();
        let mut waiting = Box::pin(token.cancelled());
        token.cancel();
        let mut now = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut now).is_ready());
    }

    /// As many as a server ends at once, on several threads.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nobody_is_forgotten_while_it_happens() {
        for _ in 0..200 {
            let top = Token::new();
            let waiting: Vec<_> = (0..20)
                .map(|_| tokio::spawn(top.child().cancelled_owned()))
                .collect();
            top.cancel();
            for task in waiting {
                task.await.expect("it ended");
            }
        }
    }
}
