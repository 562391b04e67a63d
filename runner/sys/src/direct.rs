//! A thread that waits for a descriptor in the place of the event loop.
//!
//! A thread that blocks until a future is done is woken by the thread that runs the event loop,
//! which the kernel wakes first. Where what the future waits for is a descriptor, the waiting
//! thread asks the kernel itself, and the event loop does not hear of it: a wake-up between
//! processors less, some 15 us of a round trip to a worker.
//!
//! Invariant: whatever else wakes the future ends the wait as well.

use rustix::event::{EventfdFlags, eventfd};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Wake, Waker};

/// Descriptors that a thread waits for at the same time, at most.
const MOST: usize = 4;
/// In the place of a descriptor.
const NONE: RawFd = -1;

/// What the future that is polled on this thread waits for; `None` on a thread that does not wait
/// by itself.
#[derive(Clone, Copy)]
struct Awaited {
    /// That of the bell of the future's waker.
    bell: *const (),
    descriptors: [RawFd; MOST],
}

thread_local! {
    // Without a destructor: registering one takes a new process longer than a small task.
    static AWAITED: Cell<Option<Awaited>> = const { Cell::new(None) };
}

/// The notes of one poll; those before are restored however it ends.
struct Polling(Option<Awaited>);

impl Polling {
    fn begin(bell: *const ()) -> Self {
        let descriptors = [NONE; MOST];
        Polling(AWAITED.replace(Some(Awaited { bell, descriptors })))
    }

    fn end(self) -> [RawFd; MOST] {
        AWAITED
            .get()
            .map_or([NONE; MOST], |awaited| awaited.descriptors)
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        AWAITED.set(self.0);
    }
}

/// Whether what is polled with this waker is polled by a thread that waits by itself, whenever
/// that thread polls. What has a waker of its own, as in a set of futures, is not.
pub fn is_here(waker: &Waker) -> bool {
    AWAITED
        .get()
        .is_some_and(|awaited| awaited.bell == waker.data())
}

/// Whether this thread polls what is polled with this waker again when `descriptor` can be read. It
/// must stay open until then. `false` where the thread does not wait by itself ([`is_here`]), or
/// already waits for so many: then the event loop must be asked.
pub fn awaits(waker: &Waker, descriptor: BorrowedFd<'_>) -> bool {
    let Some(mut awaited) = AWAITED.get().filter(|it| it.bell == waker.data()) else {
        return false;
    };
    let Some(free) = awaited.descriptors.iter_mut().find(|it| **it == NONE) else {
        return false;
    };
    *free = descriptor.as_raw_fd();
    AWAITED.set(Some(awaited));
    true
}

/// What a thread needs to wait by itself: a descriptor.
pub struct Direct(Arc<Bell>);

impl Direct {
    /// # Errors
    ///
    /// There is no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Direct(Arc::new(Bell {
            state: AtomicU8::new(QUIET),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })))
    }

    /// Polls `future`, and blocks this thread wherever it waits, for its waker and for what it
    /// [awaits]. For a thread that does nothing else.
    pub async fn wait_for<F: Future>(&self, future: F) -> F::Output {
        let waker = Waker::from(self.0.clone());
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            let polling = Polling::begin(waker.data());
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            let awaited = polling.end();
            if polled.is_pending() {
                self.0.wait(awaited);
                // It is polled again at once, with all that the runtime does before it polls.
                cx.waker().wake_by_ref();
            }
            polled
        })
        .await
    }
}

const QUIET: u8 = 0;
/// The thread waits.
const WAITING: u8 = 1;
/// The future is to be polled.
const RUNG: u8 = 2;

/// What wakes the thread.
struct Bell {
    state: AtomicU8,
    event: OwnedFd,
}

impl Bell {
    /// Waits until it is rung, or one of these can be read, or a signal came.
    fn wait(&self, descriptors: [RawFd; MOST]) {
        let begun =
            self.state
                .compare_exchange(QUIET, WAITING, Ordering::AcqRel, Ordering::Acquire);
        if begun.is_err() {
            self.state.store(QUIET, Ordering::Release);
            return;
        }
        // Negative ones are left out.
        let watched = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let [a, b, c, d] = descriptors.map(watched);
        let mut all = [watched(self.event.as_raw_fd()), a, b, c, d];
        poll(&mut all);
        if self.state.swap(QUIET, Ordering::AcqRel) == RUNG {
            // Who rang may write later than this: then the next wait ends early, once.
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
    }
}

#[expect(
    unsafe_code,
    reason = "descriptors are watched whose owner is a future that is not polled meanwhile"
)]
fn poll(watched: &mut [libc::pollfd; MOST + 1]) {
    let count = watched.len() as libc::nfds_t;
    // SAFETY: the pointer and the length are those of the array. A descriptor that is not open is
    // reported as such, and nothing is done with it here.
    unsafe { libc::poll(watched.as_mut_ptr(), count, -1) };
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(RUNG, Ordering::AcqRel) == WAITING {
            // It fails only if that many rings are unread, and then one of them is heard.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::task::Poll;
    use std::time::Duration;

    fn run<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        let direct = Direct::new().expect("a descriptor");
        runtime.handle().block_on(direct.wait_for(future))
    }

    #[test]
    fn wakers_and_timers_end_the_wait() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            sender.send(7)
        });
        let received = run(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            receiver.await
        });
        assert_eq!(received, Ok(7));
        assert_eq!(other.join().expect("joined"), Ok(()));
    }

    /// Nothing but the descriptor wakes this future.
    #[test]
    fn a_descriptor_ends_the_wait() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("sockets");
        ours.set_nonblocking(true).expect("set");
        let other = std::thread::spawn(move || {
            for byte in 0..200_u8 {
                theirs.write_all(&[byte]).expect("written");
                theirs.read_exact(&mut [0]).expect("answered");
            }
        });
        run(async {
            for byte in 0..200_u8 {
                let mut got = [255];
                std::future::poll_fn(|cx| match ours.read(&mut got) {
                    Err(_) => {
                        assert!(awaits(cx.waker(), ours.as_fd()));
                        Poll::Pending
                    }
                    Ok(1) => Poll::Ready(()),
                    end => panic!("{end:?}"),
                })
                .await;
                assert_eq!(got, [byte]);
                ours.write_all(&got).expect("written");
            }
        });
        other.join().expect("joined");
    }

    #[test]
    fn no_more_are_awaited_than_there_is_room_for() {
        let (ours, _theirs) = UnixStream::pair().expect("sockets");
        let other = Waker::noop();
        assert!(!awaits(other, ours.as_fd()) && !is_here(other));
        run(std::future::poll_fn(|cx| {
            for _ in 0..MOST {
                assert!(awaits(cx.waker(), ours.as_fd()));
            }
            assert!(!awaits(cx.waker(), ours.as_fd()) && is_here(cx.waker()));
            // What has a waker of its own would not be polled again.
            assert!(!awaits(other, ours.as_fd()) && !is_here(other));
            Poll::Ready(())
        }));
        assert!(!is_here(other));
    }

    #[test]
    fn a_panic_leaves_nothing_noted() {
        let panics = std::panic::catch_unwind(|| {
            run(async { panic!("on purpose") });
        });
        assert!(panics.is_err() && AWAITED.get().is_none());
    }

    /// Rings from many threads, while a descriptor can be read all the time.
    #[test]
    fn no_ring_is_lost() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("sockets");
        theirs.write_all(&[1]).expect("written");
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        let others: Vec<_> = (0..4)
            .map(|_| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for number in 0..5000_u32 {
                        sender.send(number).expect("received");
                        if number % 64 == 0 {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        let count = run(async {
            let mut count = 0;
            while receiver.recv().await.is_some() {
                count += 1;
                if count % 3 == 0 {
                    std::future::poll_fn(|cx| Poll::Ready(awaits(cx.waker(), ours.as_fd()))).await;
                    tokio::task::yield_now().await;
                }
            }
            count
        });
        assert_eq!(count, 20_000);
        others
            .into_iter()
            .for_each(|other| other.join().expect("joined"));
        ours.read_exact(&mut [0])
            .expect("it was there all the time");
    }
}
