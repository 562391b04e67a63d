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

/// A socket, registered with the event loop at the first wait.
pub(super) struct Socket {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) handle: Handle,
    watched: OnceLock<Option<Watched>>,
}

impl Socket {
    /// Needs the context of a tokio runtime.
    pub(super) fn new(fd: OwnedFd) -> Self {
        Socket {
            fd: Arc::new(fd),
            handle: Handle::current(),
            watched: OnceLock::new(),
        }
    }

    /// `None` if there is no event loop any more.
    pub(super) fn watched(&self) -> Option<&Watched> {
        let watched = self.watched.get_or_init(|| {
            let _context = self.handle.enter();
            wrun_sys::watch(self.fd.clone(), Interest::READABLE.add(Interest::WRITABLE)).ok()
        });
        watched.as_ref()
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
        let Some(watched) = self.watched() else {
            return false;
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
        let Some(watched) = self.watched() else {
            return Poll::Ready(false);
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
