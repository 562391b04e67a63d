//! A socket of a channel, and waiting for it: by looking again and again, in the kernel,
//! by the event loop.
//!
//! Invariant: what it is asked for ends by itself, whatever the other side does.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use tokio::runtime::Handle;
use wrun_sys::{self, Watched};

/// How long a thread that has nothing else to do is blocked by a call, before it looks
/// what else there is: more than an answer takes, no more than a guest may compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A millisecond. A timer for each wait costs more than the wait, where programming
    /// a timer is a matter for the hypervisor.
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

/// How long it is looked again and again before that. An answer of somebody who looks
/// the same way, on another processor, is there earlier, and nobody is to be woken.
/// Longer than waking somebody takes: else, once both were late, both stay so.
pub(super) const SPIN: Duration = Duration::from_micros(50);

/// Whether looking again and again pays: not on one processor, nor where others take
/// their time.
#[derive(Default)]
pub(super) struct Haste {
    /// This many times it is not tried.
    pause: AtomicU32,
    /// How often in a row it was in vain.
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

    /// The next time comes later and later.
    pub(super) fn was_in_vain(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(6);
        self.pause.store(8 << failures, Ordering::Relaxed);
    }
}

/// A socket, registered with the event loop once somebody waits for it.
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

    /// None when there is no event loop any more.
    pub(super) fn watched(&self) -> Option<&Watched> {
        let watched = self.watched.get_or_init(|| {
            let _context = self.handle.enter();
            wrun_sys::watch(self.fd.clone()).ok()
        });
        watched.as_ref()
    }

    pub(super) fn is(&self, events: PollFlags) -> bool {
        let mut watched = [PollFd::new(&self.fd, events)];
        // Whatever is wrong is for the call that follows to meet.
        !matches!(poll(&mut watched, Some(&Timespec::default())), Ok(0))
    }

    /// Whether the other side, or this one, has closed it.
    pub(super) fn is_hung_up(&self) -> bool {
        let mut watched = [PollFd::new(&self.fd, PollFlags::empty())];
        matches!(poll(&mut watched, Some(&Timespec::default())), Ok(1..))
    }

    /// Whether it is, or becomes so within a moment; a signal ends it.
    pub(super) fn is_soon(&self, events: PollFlags, moment: Moment) -> bool {
        let mut watched = [PollFd::new(&self.fd, events)];
        matches!(poll(&mut watched, moment.timeout().as_ref()), Ok(1..))
    }

    /// Waits for it to be readable or writable; `false` when nobody can tell.
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
