//! A thread that runs guests beside other threads, and the signal that interrupts it.
//!
//! The signal is `SIGURG`: libraries do not use it, it is ignored by default, and debuggers
//! pass it on. Go's runtime uses it for these reasons (proposal 24543, "non-cooperative goroutine
//! preemption"). If another part of the program handles it, that handler gets every signal
//! that finds its thread outside of a guest.

use super::{SHARED, tick};
use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::thread::Thread;

const INTERRUPT: libc::c_int = libc::SIGURG;

/// The handler that was there before ours: its address, and whether it takes three arguments.
static BEFORE: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
static BEFORE_IS_SIGINFO: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The handler that was there before ours is running. It needs no destructor.
    static PASSING_ON: Cell<bool> = const { Cell::new(false) };
}

/// The thread that interrupts others, to be woken when it should come sooner. Leaked: a handler
/// may be reading it.
static TICKER: AtomicPtr<Thread> = AtomicPtr::new(ptr::null_mut());

/// A thread that runs guests.
#[derive(Debug)]
pub struct GuestThread {
    id: libc::pid_t,
    /// Odd while it steps a guest.
    steps: AtomicU64,
    /// A signal came where the thread could not be left, and its guest is not in a call of the
    /// host that comes to [`point`](super::point).
    missed: AtomicBool,
}

impl GuestThread {
    /// This thread. It can be interrupted from now on; what it returns is to be kept as long as
    /// the thread steps guests.
    pub fn current() -> Arc<Self> {
        crate::signal::mask(libc::SIG_UNBLOCK, &[INTERRUPT]);
        let thread = Arc::new(GuestThread {
            // SAFETY: it takes nothing and returns this thread's number.
            id: unsafe { libc::gettid() },
            steps: AtomicU64::new(0),
            missed: AtomicBool::new(false),
        });
        SHARED.with(|shared| {
            let thread = Arc::as_ptr(&thread).cast_mut();
            shared.thread.store(thread, Ordering::Relaxed);
        });
        #[cfg(feature = "test-hooks")]
        super::storm::remember(&thread);
        thread
    }

    /// The kernel's number of it.
    #[cfg(feature = "test-hooks")]
    pub(super) fn id(&self) -> libc::pid_t {
        self.id
    }

    /// Notes that the thread begins to step a guest, or that it has.
    pub fn begin_or_end(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of the step that it is in, if it is in one.
    pub fn step(&self) -> Option<u64> {
        let steps = self.steps.load(Ordering::Relaxed);
        (steps % 2 == 1).then_some(steps)
    }

    /// Whether the last signal missed its guest, closely; once.
    pub fn was_missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed) && self.missed.swap(false, Ordering::Relaxed)
    }

    /// Has another signal come soon. For the handler: an atomic operation and a call of the
    /// kernel.
    pub(super) fn miss(&self) {
        // SAFETY: null, or a box that is never freed.
        if let Some(ticker) = unsafe { TICKER.load(Ordering::Acquire).as_ref() } {
            self.missed.store(true, Ordering::Relaxed);
            ticker.unpark();
        }
    }

    /// Sends it the signal, whose handler preempts the guest that it steps. It does nothing if
    /// the thread has ended, or steps no guest.
    pub fn interrupt(&self) {
        // SAFETY: numbers alone. A thread that got the number of one that ended is of this
        // process, too, and ignores the signal.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.id, INTERRUPT) };
    }
}

/// Makes the signal preempt guests, also if another part of the program has taken its handler
/// away since the last call.
///
/// # Errors
///
/// The handler cannot be installed.
pub fn handle_interrupts() -> io::Result<()> {
    let ours = on_interrupt as *const () as usize;
    // SAFETY: all bytes zero are a valid `sigaction`. The pointers are to local values. The
    // handler is as the one for ticks: see the module above.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(INTERRUPT, ptr::null(), &raw mut now) != 0 {
            return Err(io::Error::last_os_error());
        }
        if now.sa_sigaction == ours {
            return Ok(());
        }
        BEFORE_IS_SIGINFO.store(now.sa_flags & libc::SA_SIGINFO != 0, Ordering::Relaxed);
        BEFORE.store(now.sa_sigaction, Ordering::Relaxed);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ours;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_RESTART;
        if libc::sigaction(INTERRUPT, &raw const action, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

extern "C" fn on_interrupt(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a `ucontext_t` to handlers with `SA_SIGINFO`, and the handler
    // may change it.
    if tick(unsafe { &mut *context.cast::<libc::ucontext_t>() }) {
        return;
    }
    let before = BEFORE.load(Ordering::Relaxed);
    if before == libc::SIG_DFL || before == libc::SIG_IGN {
        return;
    }
    // One that was installed after ours may call ours in turn.
    if PASSING_ON.try_with(|passing| passing.replace(true)) != Ok(false) {
        return;
    }
    // SAFETY: it was installed as the handler of this signal, with this number of arguments.
    unsafe {
        if BEFORE_IS_SIGINFO.load(Ordering::Relaxed) {
            type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
            std::mem::transmute::<usize, Handler>(before)(signal, info, context);
        } else {
            type Handler = extern "C" fn(libc::c_int);
            std::mem::transmute::<usize, Handler>(before)(signal);
        }
    }
    let _ = PASSING_ON.try_with(|passing| passing.set(false));
}

/// Makes this thread the one that interrupts others: it is unparked when one of them
/// [was missed](GuestThread::was_missed).
pub fn interrupt_from_here() {
    let thread = Box::into_raw(Box::new(std::thread::current()));
    TICKER.store(thread, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    static CALLS: AtomicUsize = AtomicUsize::new(0);
    /// The handler that was there before the other one.
    static OURS: AtomicUsize = AtomicUsize::new(0);

    /// As libraries for signals do, it also calls the handler that was there before it.
    extern "C" fn other(
        signal: libc::c_int,
        info: *mut libc::siginfo_t,
        context: *mut libc::c_void,
    ) {
        type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
        CALLS.fetch_add(1, Ordering::Relaxed);
        let before = OURS.load(Ordering::Relaxed);
        // SAFETY: it was installed as a handler with these arguments.
        unsafe { std::mem::transmute::<usize, Handler>(before)(signal, info, context) };
    }

    #[test]
    fn another_handler_gets_each_signal_once_whoever_was_first() {
        let raised = || {
            CALLS.store(0, Ordering::Relaxed);
            // SAFETY: there is a handler for it.
            unsafe { libc::raise(INTERRUPT) };
            CALLS.load(Ordering::Relaxed)
        };
        crate::signal::mask(libc::SIG_UNBLOCK, &[INTERRUPT]);
        handle_interrupts().expect("a handler");
        assert_eq!(raised(), 0);
        // SAFETY: all bytes zero are a valid `sigaction`, and the pointers are to local values.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut before: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = other as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(INTERRUPT, ptr::null(), &raw mut before);
            OURS.store(before.sa_sigaction, Ordering::Relaxed);
            libc::sigaction(INTERRUPT, &raw const action, ptr::null_mut());
        }
        assert_eq!(raised(), 1);
        handle_interrupts().expect("ours again, in front");
        assert_eq!(raised(), 1);
        assert_eq!(raised(), 1, "and again");
    }
}
