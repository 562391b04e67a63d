//! Turns: how long a loop that a guest feeds runs before other tasks have the thread.
//!
//! A thread of the runner drives all tasks, their deadlines and kills, one after the other.
//! If a guest sends as fast as its runner receives, waiting for the next message never
//! blocks. Invariant: each loop that a guest feeds counts its steps and the bytes that it
//! copies, and yields after [`STEPS`] or [`BYTES`]. The sender waits meanwhile: what it has
//! sent stays in its pipe, socket or queue, which is full.

use std::task::Poll;
use std::time::Instant;
use tokio::task::coop::unconstrained;

/// Steps of a turn, each a few microseconds: a message, a frame.
pub const STEPS: usize = 32;
/// Approximate number of bytes that a turn copies: some tens of microseconds.
const BYTES: usize = 256 << 10;

/// How many tasks a thread of the runner polls before it checks timers and I/O.
///
/// A task that computes yields at each epoch tick, and timers must be checked soon after
/// that, not after tokio's 61 such tasks. But not after each: a task that yields because it
/// has used up tokio's budget is woken from the event loop and comes next, ahead of the
/// queue.
pub const EVENT_INTERVAL: u32 = 2;

/// The consecutive turns of a loop.
#[derive(Debug)]
pub struct Turn {
    left: usize,
}

impl Turn {
    pub fn new() -> Self {
        Turn { left: STEPS }
    }

    /// Counts a step that copied this many bytes.
    pub fn spend(&mut self, bytes: usize) {
        let steps = bytes / (BYTES / STEPS) + 1;
        self.left = self.left.saturating_sub(steps);
    }

    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Lets other tasks run if the turn is over, and begins the next one. Cancel safe.
    pub async fn give_way(&mut self) {
        if self.is_over() {
            yield_now().await;
            *self = Turn::new();
        }
    }
}

/// Lets every ready task run once.
///
/// Not tokio's own, which is woken from the event loop and then comes next, ahead of the
/// queue: if the event loop is checked between any two polls, one task that yields
/// repeatedly would be the only one that runs. A task that wakes itself goes to the end of
/// the queue (`schedule_local` in tokio's `worker.rs`).
pub async fn yield_now() {
    let mut given = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Waits until then; forever without a deadline.
///
/// It may be polled after work that a guest feeds: tokio lets no timer end in a poll whose
/// budget is used up already, and that could be every poll.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => unconstrained(tokio::time::sleep_until(deadline.into())).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};

    fn steps(bytes: usize) -> usize {
        let mut turn = Turn::new();
        let mut steps = 0;
        while !turn.is_over() {
            turn.spend(bytes);
            steps += 1;
        }
        steps
    }

    #[test]
    fn a_turn_has_an_end_by_steps_and_by_bytes() {
        assert_eq!(steps(0), STEPS);
        assert_eq!(steps(1000), STEPS);
        assert_eq!(steps(BYTES), 1);
        assert_eq!(steps(usize::MAX), 1);
        assert!(steps(64 << 10) <= 4);
    }

    #[tokio::test]
    async fn a_deadline_passes_beside_what_never_waits() {
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let _ = sender.send(());
        let greedy = async {
            while receiver.recv().await.is_some() {
                let _ = sender.send(());
            }
        };
        let soon = Instant::now() + std::time::Duration::from_millis(10);
        tokio::select! {
            biased;
            () = greedy => {}
            () = until(Some(soon)) => {}
        }
        assert!(Instant::now() >= soon);
    }

    /// On one thread of a runner, beside tasks that yield and never wait.
    #[test]
    fn everybody_has_a_turn() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .event_interval(EVENT_INTERVAL)
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.spawn(async {
            loop {
                yield_now().await;
            }
        });
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let _ = sender.send(());
        runtime.spawn(async move {
            while receiver.recv().await.is_some() {
                let _ = sender.send(());
            }
        });
        // Woken by one another, and by the clock.
        let (to, mut from) = tokio::sync::mpsc::channel(1);
        runtime.spawn(async move {
            for number in 0..10 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                let _ = to.send(number).await;
            }
        });
        let hearing = runtime.spawn(async move {
            let mut heard = 0;
            while from.recv().await.is_some() {
                heard += 1;
            }
            heard
        });
        let minute = std::time::Duration::from_secs(60);
        let heard = runtime.block_on(async { tokio::time::timeout(minute, hearing).await });
        assert_eq!(heard.expect("no turn in a minute").expect("no panic"), 10);
        runtime.shutdown_background();
    }

    #[tokio::test]
    async fn others_run_when_a_turn_is_over() {
        let mut turn = Turn::new();
        turn.give_way().await;
        turn.spend(BYTES);
        let mut now = Context::from_waker(Waker::noop());
        // A caller that stops waiting for its next turn still does not have it.
        assert!(pin!(turn.give_way()).poll(&mut now).is_pending());
        assert!(turn.is_over());
        turn.give_way().await;
        assert!(!turn.is_over());
    }
}
