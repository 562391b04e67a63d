//! Named locks: what must hold in whatever order threads come.

use crate::support::check;
use LockMode::{Exclusive, Shared};
use loom::future::block_on;
use loom::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use wrun_model::{Held, LockMode, NamedLocks};

type Waiting = Pin<Box<dyn Future<Output = Option<Held>> + Send>>;

fn lock(locks: &NamedLocks, mode: LockMode) -> Held {
    block_on(locks.lock("a", mode)).expect("there is room")
}

/// Stands in the queue, and is asked about later.
fn stand(locks: &NamedLocks, mode: LockMode) -> Waiting {
    let locks = locks.clone();
    let mut waiting: Waiting = Box::pin(async move { locks.lock("a", mode).await });
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(waiting.as_mut().poll(&mut cx), Poll::Pending));
    waiting
}

fn assert_free(locks: &NamedLocks) {
    assert!(locks.try_lock("a", Exclusive).is_some(), "somebody has it");
}

#[test]
fn one_at_a_time_has_it_and_all_have_their_turn() {
    check(|| {
        let locks = NamedLocks::default();
        let inside = Arc::new(AtomicUsize::new(0));
        let turn = |locks: NamedLocks, inside: Arc<AtomicUsize>| {
            let held = lock(&locks, Exclusive);
            assert_eq!(inside.fetch_add(1, SeqCst), 0, "two have it");
            inside.fetch_sub(1, SeqCst);
            drop(held);
        };
        let others = [(); 2].map(|()| {
            let (locks, inside) = (locks.clone(), inside.clone());
            thread::spawn(move || turn(locks, inside))
        });
        turn(locks.clone(), inside);
        for other in others {
            other.join().expect("a holder");
        }
        assert_free(&locks);
    });
}

#[test]
fn who_shares_it_has_it_together() {
    check(|| {
        let locks = NamedLocks::default();
        let alone = lock(&locks, Exclusive);
        let inside = Arc::new((Mutex::new(0), Condvar::new()));
        let others = [(); 2].map(|()| {
            let (locks, inside) = (locks.clone(), inside.clone());
            thread::spawn(move || {
                let held = lock(&locks, Shared);
                // Neither leaves before the other has it too.
                let (count, changed) = &*inside;
                let mut count = count.lock().expect("nobody panics");
                *count += 1;
                changed.notify_all();
                while *count < 2 {
                    count = changed.wait(count).expect("nobody panics");
                }
                drop(held);
            })
        });
        drop(alone);
        for other in others {
            other.join().expect("a holder");
        }
        assert_free(&locks);
    });
}

#[test]
fn who_reads_and_who_writes_exclude_each_other() {
    check(|| {
        let locks = NamedLocks::default();
        let written = Arc::new(AtomicUsize::new(0));
        let writer = {
            let (locks, written) = (locks.clone(), written.clone());
            thread::spawn(move || {
                let held = lock(&locks, Exclusive);
                written.fetch_add(1, SeqCst);
                written.fetch_add(1, SeqCst);
                drop(held);
            })
        };
        let reader = {
            let (locks, written) = (locks.clone(), written.clone());
            thread::spawn(move || {
                let held = lock(&locks, Shared);
                assert_ne!(written.load(SeqCst), 1, "half of it is written");
                drop(held);
            })
        };
        // Whoever does not wait is in nobody's way.
        if let Some(held) = locks.try_lock("a", Shared) {
            assert_ne!(written.load(SeqCst), 1, "half of it is written");
            drop(held);
        }
        writer.join().expect("the writer");
        reader.join().expect("the reader");
        assert_free(&locks);
    });
}

/// One that waits is dropped while the holder is: before its turn, or once it has been
/// told of it.
#[test]
fn who_gives_up_waiting_lets_the_next_have_it() {
    check(|| {
        let locks = NamedLocks::default();
        let held = lock(&locks, Exclusive);
        let first = stand(&locks, Exclusive);
        let next = {
            let locks = locks.clone();
            thread::spawn(move || drop(lock(&locks, Exclusive)))
        };
        let gives_up = thread::spawn(move || drop(first));
        drop(held);
        next.join().expect("the next");
        gives_up.join().expect("who gave up");
        assert_free(&locks);
    });
}

/// As one that gives up just when it is told: it may have it by then.
#[test]
fn who_looks_and_gives_up_keeps_nothing() {
    check(|| {
        let locks = NamedLocks::default();
        let held = lock(&locks, Shared);
        let mut first = stand(&locks, Exclusive);
        let readers = {
            let locks = locks.clone();
            thread::spawn(move || drop(lock(&locks, Shared)))
        };
        let gives_up = thread::spawn(move || {
            let mut cx = Context::from_waker(Waker::noop());
            let had = first.as_mut().poll(&mut cx);
            drop(first);
            drop(had);
        });
        drop(held);
        readers.join().expect("a reader");
        gives_up.join().expect("who gave up");
        assert_free(&locks);
    });
}

#[test]
fn who_asks_first_has_it_first() {
    check(|| {
        let locks = NamedLocks::default();
        let held = lock(&locks, Exclusive);
        let log = Arc::new(Mutex::new(Vec::new()));
        let waiting = [1, 2].map(|who| {
            let (mut waiting, log) = (stand(&locks, Exclusive), log.clone());
            thread::spawn(move || {
                let held = block_on(waiting.as_mut()).expect("there is room");
                log.lock().expect("nobody panics").push(who);
                drop(held);
            })
        });
        drop(held);
        for waiting in waiting {
            waiting.join().expect("a holder");
        }
        assert_eq!(*log.lock().expect("nobody panics"), [1, 2]);
        assert_free(&locks);
    });
}
