//! Signals that are turned into errors.

use std::io;
use std::marker::PhantomData;
use std::ptr;

/// Makes a write beyond the limit of a file's size fail (`EFBIG`) instead of ending the
/// process, here and in the processes that it starts.
///
/// # Errors
///
/// The kernel's error.
#[expect(unsafe_code, reason = "signal dispositions are set through libc")]
pub fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: `SIG_IGN` installs no handler, so no code can run where it must not.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes a write beyond the limit of a file's size fail (`EFBIG`) instead of ending this
/// process, unless the program has set a disposition for that signal. Programs that this
/// one executes have the default again.
#[expect(unsafe_code, reason = "signal dispositions are set through libc")]
pub fn survive_file_size_signal() {
    extern "C" fn nothing(_: libc::c_int) {}
    if !is_default(libc::SIGXFSZ) {
        return;
    }
    // SAFETY: all zeroes is a `sigaction`: an empty mask, no flags, the default.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the handler does nothing, so it may run anywhere; `action` outlives the call,
    // and the former disposition is not requested. A signal with a handler is valid to set,
    // so the call cannot fail.
    unsafe { libc::sigaction(libc::SIGXFSZ, &raw const action, ptr::null_mut()) };
}

/// Whether writing to a pipe without a reader ends this process.
pub fn dies_of_broken_pipes() -> bool {
    is_default(libc::SIGPIPE)
}

fn is_default(signal: libc::c_int) -> bool {
    disposition(signal) == Some(libc::SIG_DFL)
}

/// Whether this process ignores a signal.
pub fn is_ignored(signal: libc::c_int) -> bool {
    disposition(signal) == Some(libc::SIG_IGN)
}

/// The disposition of a signal; `None` for an unknown signal.
#[expect(unsafe_code, reason = "signal dispositions are looked at through libc")]
fn disposition(signal: libc::c_int) -> Option<libc::sighandler_t> {
    // SAFETY: as above.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: nothing is set, and `now` may be filled.
    let asked = unsafe { libc::sigaction(signal, ptr::null(), &raw mut now) };
    (asked == 0).then_some(now.sa_sigaction)
}

/// Gives a signal its default effect on this process, and returns when that is over: for
/// one that stops it, once it continues. The kernel discards those of a terminal if no
/// process could continue this one (an orphaned process group), and any to the first
/// process of a namespace. The signal's handler is restored afterwards.
#[expect(unsafe_code, reason = "signal dispositions are set through libc")]
pub fn stop_by(signal: libc::c_int) {
    // SAFETY: all zeroes is a `sigaction`, the default, and an empty set on Linux.
    let (default, mut before, mut masked): (libc::sigaction, libc::sigaction, libc::sigset_t) =
        unsafe { std::mem::zeroed() };
    let only = set_of(&[signal]);
    // SAFETY: everything outlives the calls. The default installs no handler, and the
    // former disposition is restored as the kernel gave it. Raised to this thread, which
    // does not block it, the signal has had its effect when the call returns.
    unsafe {
        libc::sigaction(signal, &raw const default, &raw mut before);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const only, &raw mut masked);
        libc::raise(signal);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const masked, ptr::null_mut());
        libc::sigaction(signal, &raw const before, ptr::null_mut());
    }
}

/// While it exists, a broken pipe is an error on this thread instead of a signal.
pub struct NoPipeSignal {
    before: libc::sigset_t,
    /// It must stay on its thread.
    _here: PhantomData<*const ()>,
}

impl NoPipeSignal {
    #[expect(unsafe_code, reason = "a thread's signal mask is set through libc")]
    pub fn new() -> Self {
        // SAFETY: all zeroes is an empty set on Linux.
        let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
        let pipe = only_pipe();
        // SAFETY: both sets outlive the call; blocking a signal has no other effect than that
        // it stays pending.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe, &raw mut before) };
        NoPipeSignal {
            before,
            _here: PhantomData,
        }
    }

    /// Until the thread ends.
    pub fn forever() {
        std::mem::forget(NoPipeSignal::new());
    }
}

impl Drop for NoPipeSignal {
    #[expect(unsafe_code, reason = "a thread's signal mask is set through libc")]
    fn drop(&mut self) {
        let pipe = only_pipe();
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `before` was filled by the kernel.
        let was_blocked = unsafe { libc::sigismember(&raw const self.before, libc::SIGPIPE) } == 1;
        if !was_blocked {
            // SAFETY: the set and the time outlive the call, and no information about the
            // signal is requested; if none is pending, the call returns at once.
            unsafe { libc::sigtimedwait(&raw const pipe, ptr::null_mut(), &raw const now) };
        }
        // SAFETY: the mask is the one that the kernel gave.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut());
        }
    }
}

fn only_pipe() -> libc::sigset_t {
    set_of(&[libc::SIGPIPE])
}

/// Blocks all signals in this thread; returns the mask before, for [`restore`].
#[expect(unsafe_code, reason = "signal masks are set through libc")]
pub(super) fn block_all() -> io::Result<libc::sigset_t> {
    // SAFETY: all zeroes is an empty set on Linux; both sets outlive the calls, of which one fills
    // the first and the other the second.
    let (set, before) = unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        let set = libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        (set, before)
    };
    match set {
        0 => Ok(before),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Undoes [`block_all`].
#[expect(unsafe_code, reason = "signal masks are set through libc")]
pub(super) fn restore(before: &libc::sigset_t) {
    // SAFETY: the set is one that the kernel gave, and only read.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, ptr::null_mut()) };
}

/// Changes the mask of this thread.
#[expect(unsafe_code, reason = "signal masks are set through libc")]
pub(super) fn mask(how: libc::c_int, signals: &[libc::c_int]) {
    let set = set_of(signals);
    // SAFETY: the set is filled, and only read; a null old one is allowed.
    unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) };
}

#[expect(unsafe_code, reason = "sets of signals are made through libc")]
pub(super) fn set_of(signals: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: all zeroes is an empty set on Linux, and the calls change a set owned here;
    // an invalid signal number is refused.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Makes this process die of broken pipes, as a host in C does.
#[cfg(any(test, feature = "test-hooks"))]
#[expect(unsafe_code, reason = "signal dispositions are set through libc")]
pub fn die_of_broken_pipes() {
    // SAFETY: the default is not a handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}
