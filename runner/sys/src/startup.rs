//! State that a process inherited, or that earlier code has set up, and that must be reset:
//! blocked and ignored signals, handlers, timers, a real-time priority, closed standard
//! streams.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;

/// The signals that report a guest's traps. If they were blocked, they would end the
/// process.
const TRAPS: [libc::c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];

/// Handlers that stay: the standard library's reports a stack overflow, and wasmtime chains
/// to it; the handlers of the next two are chained by later registrations.
const KEPT: [libc::c_int; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGALRM,
    libc::SIGCHLD,
];

/// For the start of a process that a runner started: clears blocked and ignored signals,
/// timers and the real-time priority, whatever its parent's were, and handlers of earlier
/// code.
pub fn start_afresh() {
    stop_timers();
    for signal in 1..=libc::SIGRTMAX() {
        // Rust ignores it; writes then fail with an error.
        if signal == libc::SIGPIPE {
            disposition(signal, libc::SIG_IGN);
            continue;
        }
        match disposition_of(signal) {
            Some(libc::SIG_DFL) | None => {}
            Some(libc::SIG_IGN) => disposition(signal, libc::SIG_DFL),
            Some(_) if KEPT.contains(&signal) => {}
            Some(_) => disposition(signal, libc::SIG_DFL),
        }
    }
    for signal in super::JOB_SIGNALS {
        // A pending one was meant for the job of its parent: ignoring the signal discards it.
        disposition(signal, libc::SIG_IGN);
        disposition(signal, libc::SIG_DFL);
    }
    let _ = unblock_all();
    leave_real_time();
}

/// For the start of a command, which needs the signals that end it, and those of its
/// children. It continues to ignore what it was started to ignore (`nohup`), except for the
/// end of children, whose status would be lost.
pub fn hear_signals() {
    if disposition_of(libc::SIGCHLD) == Some(libc::SIG_IGN) {
        disposition(libc::SIGCHLD, libc::SIG_DFL);
    }
    let _ = unblock_all();
}

/// For a thread that is about to run guests: usually once per thread.
pub fn unblock_traps() {
    thread_local! {
        static UNBLOCKED: Cell<bool> = const { Cell::new(false) };
    }
    if !UNBLOCKED.replace(true) {
        super::signal::mask(libc::SIG_UNBLOCK, &TRAPS);
    }
}

/// Opens [`null`](super::null()) for each standard stream that is closed: otherwise the
/// next opened file would get its number, and output would go into it. Rust's `main` begins
/// with that, other programs that embed this library may not.
pub fn fill_standard_streams() -> io::Result<()> {
    let streams = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    for stream in streams {
        if rustix::io::fcntl_getfd(stream) == Err(rustix::io::Errno::BADF) {
            // The lowest free number is this one, because those below are open. If another
            // thread is faster, the next stream is checked all the same.
            let null = super::null()?;
            if is_standard(&null) {
                // Standard streams do not have close-on-exec.
                rustix::io::fcntl_setfd(&null, rustix::io::FdFlags::empty())?;
                std::mem::forget(null);
            }
        }
    }
    Ok(())
}

/// Whether this process is permanently forbidden to make memory executable that was written
/// to (`PR_SET_MDWE`), as by systemd's `MemoryDenyWriteExecute=`.
#[expect(unsafe_code, reason = "a prctl that rustix has no function for")]
pub fn is_denied_code() -> bool {
    const GET_MDWE: libc::c_int = 66;
    const REFUSE_EXEC_GAIN: libc::c_int = 1;
    // SAFETY: the call takes no pointers; an older kernel refuses it.
    let set = unsafe { libc::prctl(GET_MDWE, 0_usize, 0_usize, 0_usize, 0_usize) };
    set > 0 && set & REFUSE_EXEC_GAIN != 0
}

fn is_standard(descriptor: &impl std::os::fd::AsRawFd) -> bool {
    descriptor.as_raw_fd() <= libc::STDERR_FILENO
}

#[expect(unsafe_code, reason = "signal dispositions are read through libc")]
fn disposition_of(signal: libc::c_int) -> Option<libc::sighandler_t> {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action requests the old one, which is written to a variable of the
    // right type; all zeroes are a valid value of it.
    let (asked, now) = unsafe {
        let asked = libc::sigaction(signal, std::ptr::null(), now.as_mut_ptr());
        (asked, now.assume_init())
    };
    (asked == 0).then_some(now.sa_sigaction)
}

/// Sets one of the two dispositions that are not handlers.
#[expect(unsafe_code, reason = "signal dispositions are set through libc")]
fn disposition(signal: libc::c_int, to: libc::sighandler_t) {
    // SAFETY: `SIG_DFL` and `SIG_IGN` install no handler, so no code can run where it must
    // not. The call is expected to fail for signals that are libc's own or cannot be
    // changed.
    unsafe { libc::signal(signal, to) };
}

#[expect(unsafe_code, reason = "signal masks are set through libc")]
fn unblock_all() -> io::Result<()> {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` fills the set, which the call then only reads; a null old
    // set is allowed.
    let set = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    match set {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

#[expect(unsafe_code, reason = "no safe setitimer is at hand")]
fn stop_timers() {
    let zero = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    let never = libc::itimerval {
        it_interval: zero,
        it_value: zero,
    };
    for timer in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        // SAFETY: the pointer is to a local value; null is allowed for the old one.
        unsafe { libc::setitimer(timer, &raw const never, std::ptr::null_mut()) };
    }
}

/// A guest that computes must not take precedence over everything else on the machine.
#[expect(unsafe_code, reason = "no safe sched_setscheduler is at hand")]
fn leave_real_time() {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: both calls are about this process, by the number 0; the parameter is read.
    unsafe {
        let policy = libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK;
        let ordinary = [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE];
        if policy >= 0 && !ordinary.contains(&policy) {
            libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const param);
        }
    }
}
