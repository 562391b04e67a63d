use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

fn runtime(threads: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let built = builder.worker_threads(threads).enable_time().build();
    built.expect("a runtime")
}

/// Where the owner of a batch runs.
fn here<F: Future>(future: F) -> F::Output {
    let built = Builder::new_current_thread().enable_time().build();
    built.expect("a runtime").block_on(future)
}

#[test]
fn each_order_has_one_result_and_no_more_run_than_asked_for() {
    let runtime = runtime(4);
    for (at_once, room) in [(1, 1), (2, 100), (7, 3), (64, 1000)] {
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let (counted, peak) = (running.clone(), most.clone());
        let mut batch = Batch::new(runtime.handle(), at_once, room, move |number: usize| {
            let (running, most) = (counted.clone(), peak.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Some wait, some do not.
                match number % 10 {
                    0 => tokio::time::sleep(Duration::from_micros(300)).await,
                    1 => tokio::task::yield_now().await,
                    _ => {}
                }
                running.fetch_sub(1, Ordering::SeqCst);
                number
            }
        });
        let mut seen = vec![false; 3000];
        here(async {
            let mut next = 0;
            loop {
                while next < seen.len() && !batch.is_full() {
                    assert!(batch.push(next).is_ok());
                    next += 1;
                }
                if next < seen.len() {
                    assert!(batch.len() == room && batch.push(0).is_err());
                }
                let Some(number) = batch.next().await else {
                    break;
                };
                assert!(
                    !std::mem::replace(&mut seen[number], true),
                    "{number} twice"
                );
            }
        });
        assert!(seen.iter().all(|it| *it), "{at_once} of {room}");
        assert!(batch.is_empty());
        let most = most.load(Ordering::SeqCst);
        assert!((1..=at_once).contains(&most), "{most} of {at_once}");
    }
}

#[test]
fn what_takes_long_makes_nothing_wait() {
    let runtime = runtime(2);
    let end = Arc::new(Notify::new());
    let ends = end.clone();
    let mut batch = Batch::new(runtime.handle(), 2, 1000, move |number: usize| {
        let end = ends.clone();
        async move {
            if number == 500 {
                end.notified().await;
            }
            number
        }
    });
    here(async {
        for number in 0..1000 {
            assert!(batch.push(number).is_ok());
        }
        let mut sum = 0;
        for _ in 0..999 {
            sum += batch.next().await.expect("a result");
        }
        assert_eq!(sum, 999 * 500 - 500);
        let waiting = tokio::time::timeout(Duration::from_millis(20), batch.next()).await;
        assert!(waiting.is_err());
        end.notify_one();
        assert_eq!(batch.next().await, Some(500));
        assert_eq!(batch.next().await, None);
    });
}

#[test]
fn dropping_it_drops_what_is_carried_out() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let runtime = runtime(2);
    let dropped = Arc::new(AtomicUsize::new(0));
    let mut batch = Batch::new(runtime.handle(), 3, 10, |counted: Counted| async move {
        std::future::pending::<()>().await;
        drop(counted);
    });
    for _ in 0..10 {
        assert!(batch.push(Counted(dropped.clone())).is_ok());
    }
    drop(batch);
    let began = Instant::now();
    while dropped.load(Ordering::SeqCst) < 10 {
        assert!(began.elapsed() < Duration::from_secs(10), "{dropped:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
#[should_panic(expected = "on purpose")]
fn a_panic_is_the_owners() {
    let runtime = runtime(1);
    let mut batch = Batch::new(runtime.handle(), 1, 10, |number: u8| async move {
        assert!(number != 3, "on purpose");
    });
    for number in 0..5 {
        assert!(batch.push(number).is_ok());
    }
    here(async { while batch.next().await.is_some() {} });
}

#[test]
fn without_its_runtime_it_has_ended() {
    let runtime = runtime(1);
    let mut batch = Batch::new(runtime.handle(), 1, 10, |()| std::future::pending::<()>());
    assert!(batch.push(()).is_ok());
    runtime.shutdown_timeout(Duration::from_secs(10));
    here(async {
        assert_eq!(batch.next().await, None);
        assert_eq!(batch.next().await, None);
    });
    assert!(batch.push(()).is_err());
}
