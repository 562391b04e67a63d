//! The signals that stop a job, for a program that must act before it stops.

use super::signal::{is_ignored, set_of};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// All of them.
pub const JOB_SIGNALS: [libc::c_int; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// The thread that handles them; 0 before there is one.
static OBEYS: AtomicI32 = AtomicI32::new(0);

/// Those of the signals that this program was not started to ignore, while they are
/// pending: when a stopped process continues (`SIGCONT`), the kernel discards the pending
/// ones, so that none stops the process afterwards.
pub struct JobSignals {
    /// Readable for the handling thread while a signal is pending.
    waiting: OwnedFd,
    wanted: Vec<libc::c_int>,
}

impl JobSignals {
    /// From now on `SIGTSTP` stays pending: it is blocked in this thread and in those that
    /// it starts. `None` if all of the signals are ignored.
    ///
    /// # Errors
    ///
    /// No descriptors are left.
    #[expect(unsafe_code, reason = "rustix has no signalfd")]
    pub fn hold() -> io::Result<Option<Self>> {
        let all = JOB_SIGNALS.into_iter();
        let wanted: Vec<_> = all.filter(|signal| !is_ignored(*signal)).collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let set = set_of(&wanted);
        // SAFETY: a new descriptor, for a set that is filled and only read.
        let waiting = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) };
        if waiting < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel made it just now, and no other code owns it.
        let waiting = unsafe { OwnedFd::from_raw_fd(waiting) };
        let signals = JobSignals { waiting, wanted };
        signals.mask(libc::SIG_BLOCK, &[libc::SIGTSTP]);
        Ok(Some(signals))
    }

    /// Undoes [`JobSignals::hold`] in this thread.
    pub fn let_go() {
        super::signal::mask(libc::SIG_UNBLOCK, &[libc::SIGTSTP]);
    }

    /// Makes this thread the one that handles the signals: all of them stay pending for it.
    ///
    /// `SIGTTIN` and `SIGTTOU` must not be blocked in threads that read from or write to
    /// the terminal: the kernel would fail the call, or allow it. They are forwarded to
    /// this thread.
    pub fn obey_here(&self) {
        self.mask(libc::SIG_BLOCK, &JOB_SIGNALS);
        OBEYS.store(gettid(), Ordering::SeqCst);
        self.hand_on();
    }

    /// Waits until a signal is pending.
    pub fn wait(&self) {
        let mut watched = [PollFd::new(&self.waiting, PollFlags::IN)];
        // It is not read, because that would consume the signal.
        while let Ok(0) | Err(Errno::INTR) = poll(&mut watched, None) {}
    }

    /// Lets the pending signals have their default effect, and returns when that is over.
    /// If no process could continue this one (an orphaned process group, the first process
    /// of a namespace) the kernel discards them.
    pub fn obey(&self) {
        for signal in &self.wanted {
            set_handler(*signal, libc::SIG_DFL);
        }
        self.mask(libc::SIG_UNBLOCK, &JOB_SIGNALS);
        self.mask(libc::SIG_BLOCK, &JOB_SIGNALS);
        self.hand_on();
    }

    fn hand_on(&self) {
        for signal in self
            .wanted
            .iter()
            .filter(|signal| **signal != libc::SIGTSTP)
        {
            set_handler(
                *signal,
                to_the_thread_that_obeys as *const () as libc::sighandler_t,
            );
        }
    }

    fn mask(&self, how: libc::c_int, signals: &[libc::c_int]) {
        let wanted: Vec<_> = signals
            .iter()
            .filter(|it| self.wanted.contains(it))
            .copied()
            .collect();
        super::signal::mask(how, &wanted);
    }
}

/// A handler. In a fork, which lacks the handling thread, the signal has its default
/// effect.
#[expect(unsafe_code, reason = "a signal handler")]
extern "C" fn to_the_thread_that_obeys(signal: libc::c_int) {
    // SAFETY: all of these may be called by a handler; `errno` is left as it was.
    unsafe {
        let errno = *libc::__errno_location();
        let thread = OBEYS.load(Ordering::SeqCst);
        if libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) != 0 {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        *libc::__errno_location() = errno;
    }
}

#[expect(unsafe_code, reason = "signal dispositions are set through libc")]
fn set_handler(signal: libc::c_int, handler: libc::sighandler_t) {
    // SAFETY: all zeroes is a `sigaction`: an empty mask and no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the handler is the default or the one above, which may run anywhere.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
}

fn gettid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}
