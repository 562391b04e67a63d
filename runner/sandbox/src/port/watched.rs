//! A socket of a channel, and the ways to wait for it: by polling repeatedly, in the
//! kernel, by the event loop.
//!
//! Invariant: each wait ends by itself, whatever the other side does.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::runtime::Handle;
use wrun_sys::{self, Watched};

/// How long a call blocks a thread that has no other work, before it checks for some:
/// longer than a reply takes, not longer than a guest may compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A millisecond. On virtual machines where programming a timer traps, a timer for each
    /// wait costs more than the wait.
    Timed,
    /// Until the next signal: a timer that runs anyway sends one.
    Tick,
}

impl Moment {
    fn timeout(self) -> Option<Timespec> {
        match self {
            Moment::Timed => Some(Timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            }),
            Moment::Tick => None,
        }
    }
}

/// How long to poll repeatedly before that. A reply from a side that polls in the same way,
/// on another processor, arrives earlier, and no wake-up is needed. Longer than a wake-up
/// takes: otherwise, once both sides were late, both would stay so.
pub(super) const SPIN: Duration = Duration::from_micros(50);

/// Whether repeated polling pays: not with one processor, nor if the other side takes its
/// time.
#[derive(Default)]
pub(super) struct Haste {
    /// The number of times that it is skipped.
    pause: AtomicU32,
    /// How often in a row it failed.
    failures: AtomicU32,
}

impl Haste {
    pub(super) fn is_worth_it(&self) -> bool {
        let less = |pause: u32| pause.checked_sub(1);
        let relaxed = Ordering::Relaxed;
        self.pause.fetch_update(relaxed, relaxed, less).is_err()
    }

    pub(super) fn was_worth_it(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// Increases the pause before the next attempt.
    pub(super) fn was_in_vain(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(6);
        self.pause.store(8 << failures, Ordering::Relaxed);
    }
}

/// How long a wait for room sleeps before it looks again, if this process has no descriptor to be
/// told by.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A socket, registered with the event loop at the first wait: for what arrives, or for room.
///
/// Two registrations, because one for both would wake the event loop here whenever the other side
/// takes a message, and most messages find room.
pub(super) struct Socket {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) handle: Handle,
    readable: OnceLock<Result<Watched, Unwatched>>,
    /// By a duplicate: the event loop takes a descriptor once.
    writable: OnceLock<Result<Watched, Unwatched>>,
}

/// Why the event loop does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unwatched {
    /// There is none any more.
    NoEventLoop,
    /// This process has no descriptor left.
    NoDescriptor,
}

impl Socket {
    /// Needs the context of a tokio runtime.
    pub(super) fn new(fd: OwnedFd) -> Self {
        Socket {
            fd: Arc::new(fd),
            handle: Handle::current(),
            readable: OnceLock::new(),
            writable: OnceLock::new(),
        }
    }

    fn watched(&self, interest: Interest) -> Result<&Watched, Unwatched> {
        let watch = |fd: Arc<OwnedFd>| {
            let _context = self.handle.enter();
            wrun_sys::watch(fd, interest).map_err(|_| Unwatched::NoEventLoop)
        };
        let watched = if interest.is_readable() {
            self.readable.get_or_init(|| watch(self.fd.clone()))
        } else {
            self.writable.get_or_init(|| {
                let twin = self.fd.try_clone();
                watch(Arc::new(twin.map_err(|_| Unwatched::NoDescriptor)?))
            })
        };
        watched.as_ref().map_err(|why| *why)
    }

    /// For a wait without a descriptor.
    fn nap(&self) -> tokio::time::Sleep {
        let _context = self.handle.enter();
        tokio::time::sleep(LOOK_AGAIN)
    }

    pub(super) fn is(&self, events: PollFlags) -> bool {
        let mut watched = [PollFd::new(&self.fd, events)];
        // An error is left to the following call.
        !matches!(poll(&mut watched, Some(&Timespec::default())), Ok(0))
    }

    /// Whether the other side, or this one, has closed it.
    pub(super) fn is_hung_up(&self) -> bool {
        let mut watched = [PollFd::new(&self.fd, PollFlags::empty())];
        matches!(poll(&mut watched, Some(&Timespec::default())), Ok(1..))
    }

    /// Whether it is readable or writable, or becomes so within a moment; a signal ends the
    /// wait.
    pub(super) fn is_soon(&self, events: PollFlags, moment: Moment) -> bool {
        let mut watched = [PollFd::new(&self.fd, events)];
        matches!(poll(&mut watched, moment.timeout().as_ref()), Ok(1..))
    }

    /// Waits for it to be readable or writable; `false` if that cannot be determined.
    pub(super) async fn ready(&self, interest: Interest) -> bool {
        let watched = loop {
            match self.watched(interest) {
                Ok(watched) => break watched,
                Err(Unwatched::NoEventLoop) => return false,
                Err(Unwatched::NoDescriptor) if self.is(events(interest)) => return true,
                Err(Unwatched::NoDescriptor) => self.nap().await,
            }
        };
        loop {
            let Ok(mut guard) = watched.ready(interest).await else {
                return false;
            };
            if self.is(events(interest)) {
                return true;
            }
            guard.clear_ready();
        }
    }

    pub(super) fn poll_ready(&self, interest: Interest, cx: &mut Context<'_>) -> Poll<bool> {
        let watched = match self.watched(interest) {
            Ok(watched) => watched,
            Err(Unwatched::NoEventLoop) => return Poll::Ready(false),
            Err(Unwatched::NoDescriptor) if self.is(events(interest)) => return Poll::Ready(true),
            Err(Unwatched::NoDescriptor) => {
                let (nap, waker) = (self.nap(), cx.waker().clone());
                self.handle.spawn(async move {
                    nap.await;
                    waker.wake();
                });
                return Poll::Pending;
            }
        };
        loop {
            let guard = if interest.is_readable() {
                ready!(watched.poll_read_ready(cx))
            } else {
                ready!(watched.poll_write_ready(cx))
            };
            let Ok(mut guard) = guard else {
                return Poll::Ready(false);
            };
            if self.is(events(interest)) {
                return Poll::Ready(true);
            }
            guard.clear_ready();
        }
    }
}

pub(super) fn events(interest: Interest) -> PollFlags {
    if interest.is_readable() {
        PollFlags::IN
    } else {
        PollFlags::OUT
    }
}
