//! The waiting list of a region: what must hold in whatever order threads come.

use crate::support::check;
use loom::future::block_on;
use loom::sync::atomic::{AtomicU32, Ordering::SeqCst};
use loom::thread;
use std::sync::Arc;
use wrun_model::Waiters;

struct Word {
    value: AtomicU32,
    waiters: Waiters,
}

fn word() -> Arc<Word> {
    Arc::new(Word {
        value: AtomicU32::new(0),
        waiters: Waiters::default(),
    })
}

impl Word {
    /// As `regions.wait` without a timeout; `false` where the value is another.
    fn wait(&self, expected: u32) -> bool {
        let still = || self.value.load(SeqCst) == expected;
        let Some(standing) = self.waiters.stand(0, still) else {
            return false;
        };
        block_on(standing.woken());
        true
    }

    /// As with a timeout that is over at once, or in that moment.
    fn wait_a_moment(&self) -> bool {
        let standing = self
            .waiters
            .stand(0, || true)
            .expect("nothing speaks against it");
        thread::yield_now();
        !standing.leave()
    }
}

#[test]
fn a_change_and_a_notification_end_every_wait() {
    check(|| {
        let word = word();
        let waiting = [(); 2].map(|()| {
            let word = word.clone();
            thread::spawn(move || u32::from(word.wait(0)))
        });
        word.value.store(1, SeqCst);
        let told = word.waiters.notify(0, u32::MAX);
        let woken: u32 = waiting.map(|it| it.join().expect("a waiter")).iter().sum();
        assert_eq!(told, woken);
        assert_eq!(word.waiters.notify(0, 1), 0, "somebody stands there still");
    });
}

#[test]
fn one_notification_is_one_waiters() {
    check(|| {
        let word = word();
        let hasty = {
            let word = word.clone();
            thread::spawn(move || u32::from(word.wait_a_moment()))
        };
        let other = {
            let word = word.clone();
            thread::spawn(move || u32::from(word.wait_a_moment()))
        };
        let told = word.waiters.notify(0, 1);
        // Whoever was counted does not say that time was over.
        let woken = hasty.join().expect("a waiter") + other.join().expect("a waiter");
        assert_eq!(told, woken);
        assert!(told <= 1, "{told} were told");
        assert_eq!(word.waiters.notify(0, 1), 0, "somebody stands there still");
    });
}

#[test]
fn another_word_is_anothers() {
    check(|| {
        let word = word();
        let waiting = {
            let word = word.clone();
            thread::spawn(move || word.wait(0))
        };
        assert_eq!(word.waiters.notify(4, u32::MAX), 0);
        word.value.store(1, SeqCst);
        let told = word.waiters.notify(0, u32::MAX);
        assert_eq!(waiting.join().expect("the waiter"), told == 1);
    });
}

/// Somebody who waits in turn for the other: a lock's hand-over.
#[test]
fn turns_are_taken() {
    check(|| {
        let word = word();
        let other = {
            let word = word.clone();
            thread::spawn(move || {
                while word.value.load(SeqCst) == 0 {
                    word.wait(0);
                }
                word.value.store(2, SeqCst);
                word.waiters.notify(0, 1);
            })
        };
        word.value.store(1, SeqCst);
        word.waiters.notify(0, 1);
        while word.value.load(SeqCst) == 1 {
            word.wait(1);
        }
        other.join().expect("the other");
    });
}
