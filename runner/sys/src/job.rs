//! The signals that stop a job, for a program that must act before it stops.

use super::signal::{is_ignored, set_of};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// All of them.
pub const JOB_SIGNALS: [libc::c_int; 3] = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// The thread that handles them; 0 before there is one.
static OBEYS: AtomicI32 = AtomicI32::new(0);

/// The process of that thread.
static OBEYS_IN: AtomicI32 = AtomicI32::new(0);

/// The signals that threads have got from the terminal and that are not obeyed yet, in the order
/// of [`JOB_SIGNALS`].
static FORWARDED: [AtomicBool; JOB_SIGNALS.len()] = [const { AtomicBool::new(false) }; 3];

/// The event that wakes the thread then.
static FORWARDED_TO: AtomicI32 = AtomicI32::new(-1);

/// Those of the signals that this program was not started to ignore, while they are
/// pending: when a stopped process continues (`SIGCONT`), the kernel discards the pending
/// ones, so that none stops the process afterwards.
pub struct JobSignals {
    /// Readable for the handling thread while a signal is pending.
    waiting: OwnedFd,
    /// Readable when another thread has got one from the terminal.
    forwarded: OwnedFd,
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
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let forwarded = eventfd(0, flags)?;
        let signals = JobSignals {
            waiting,
            forwarded,
            wanted,
        };
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
    /// this thread: those that a process sends as they are, those of the terminal as an event.
    pub fn obey_here(&self) {
        self.mask(libc::SIG_BLOCK, &JOB_SIGNALS);
        FORWARDED_TO.store(self.forwarded.as_raw_fd(), Ordering::SeqCst);
        OBEYS.store(gettid(), Ordering::SeqCst);
        OBEYS_IN.store(
            rustix::process::getpid().as_raw_nonzero().get(),
            Ordering::SeqCst,
        );
        self.hand_on();
    }

    /// Waits until there is a signal to obey.
    pub fn wait(&self) {
        loop {
            let mut watched = [
                PollFd::new(&self.waiting, PollFlags::IN),
                PollFd::new(&self.forwarded, PollFlags::IN),
            ];
            // The first is not read, because that would consume the signal.
            while let Ok(0) | Err(Errno::INTR) = poll(&mut watched, None) {}
            let _ = rustix::io::read(&self.forwarded, &mut [0; 8]);
            let is_forwarded = FORWARDED.iter().any(|it| it.load(Ordering::SeqCst));
            if is_ready(&self.waiting) || (is_forwarded && !is_in_foreground()) {
                return;
            }
            // Outdated: a thread that was stopped in its handler forwards a signal when the
            // process has been continued, which may have brought it to the foreground. Nothing
            // is lost: what the thread did to the terminal is repeated, and the kernel decides
            // again.
            for forwarded in &FORWARDED {
                forwarded.store(false, Ordering::SeqCst);
            }
        }
    }

    /// Lets the signals have their default effect, and returns when that is over. If no process
    /// could continue this one (an orphaned process group, the first process of a namespace)
    /// the kernel discards them.
    pub fn obey(&self) {
        for (signal, forwarded) in JOB_SIGNALS.iter().zip(&FORWARDED) {
            if forwarded.swap(false, Ordering::SeqCst) {
                // It is blocked here: if this process is continued from now on, the kernel
                // discards it.
                raise(*signal);
                if is_in_foreground() {
                    discard(*signal);
                }
            }
        }
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
extern "C" fn to_the_thread_that_obeys(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _: *mut libc::c_void,
) {
    // SAFETY: all of these may be called by a handler, which the kernel gives the signal's
    // information; `errno` is left as it was.
    unsafe {
        let errno = *libc::__errno_location();
        let thread = OBEYS.load(Ordering::SeqCst);
        // Sent by the terminal, and not by a process. It must not become pending for the
        // thread that obeys: that could stop the process after it was continued.
        let is_of_the_terminal = (*info).si_code > 0;
        let is_handled = if is_of_the_terminal && libc::getpid() == OBEYS_IN.load(Ordering::SeqCst)
        {
            for (wanted, forwarded) in JOB_SIGNALS.iter().zip(&FORWARDED) {
                if *wanted == signal {
                    forwarded.store(true, Ordering::SeqCst);
                }
            }
            let one = 1_u64;
            let event = FORWARDED_TO.load(Ordering::SeqCst);
            libc::write(event, (&raw const one).cast(), size_of::<u64>()) >= 0
                || *libc::__errno_location() == libc::EAGAIN
        } else {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) == 0
        };
        if !is_handled {
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
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK | libc::SA_SIGINFO;
    // SAFETY: the handler is the default or the one above, which may run anywhere.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
}

/// Whether the terminal is this process group's.
fn is_in_foreground() -> bool {
    let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let terminal = rustix::fs::open("/dev/tty", flags, Mode::empty());
    let group = terminal.and_then(rustix::termios::tcgetpgrp);
    group.is_ok_and(|group| group == rustix::process::getpgrp())
}

fn is_ready(descriptor: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(descriptor, PollFlags::IN)];
    poll(&mut watched, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Sends a signal to this thread.
#[expect(unsafe_code, reason = "signals are sent to threads through libc")]
fn raise(signal: libc::c_int) {
    // SAFETY: the call takes no pointers.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), gettid(), signal) };
}

/// Takes a signal that is pending for this thread, if there is one.
#[expect(unsafe_code, reason = "pending signals are taken through libc")]
fn discard(signal: libc::c_int) {
    let only = set_of(&[signal]);
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the set and the time outlive the call, and no information about the signal is
    // requested; if none is pending, the call returns at once.
    unsafe { libc::sigtimedwait(&raw const only, ptr::null_mut(), &raw const now) };
}

fn gettid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}
