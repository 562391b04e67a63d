//! How processes ended, and the resources they used.

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};
use wrun_types::report::Usage;

/// How a child process ended, or that it was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Status(i32),
    Signal(i32),
    /// Stopped by this signal; it still exists.
    Stopped(i32),
}

/// The end of a child, with the kernel's accounting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub end: End,
    /// `None` if other code took the wait status.
    pub usage: Option<Usage>,
}

/// The processes to wait for.
#[derive(Clone, Copy)]
pub enum Whom {
    Any,
    Pid(i32),
    /// Any in this process group.
    Group(i32),
}

/// Reaps a child that has ended, or reports one that was stopped; `None` if neither
/// happened. Does not block unless `block` is set, and then only until a child ends.
///
/// # Errors
///
/// There is no such child.
#[expect(unsafe_code, reason = "only wait4 tells of usage")]
pub fn wait(whom: Whom, block: bool) -> io::Result<Option<(i32, Exit)>> {
    let pid = match whom {
        Whom::Any => -1,
        Whom::Pid(pid) => pid,
        Whom::Group(group) => -group,
    };
    let options = if block {
        0
    } else {
        libc::WNOHANG | libc::WUNTRACED
    };
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both pointers are to local variables of the right types, which outlive the
        // call. All zeroes are a valid `rusage`.
        let (waited, usage) = unsafe {
            let waited = libc::wait4(pid, &raw mut status, options, usage.as_mut_ptr());
            (waited, usage.assume_init_ref())
        };
        if waited == 0 {
            return Ok(None);
        }
        if waited < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        let exit = Exit {
            end: end_of(status),
            usage: Some(usage_of(usage)),
        };
        return Ok(Some((waited, exit)));
    }
}

/// Decodes a wait status.
pub(super) fn end_of(status: i32) -> End {
    if libc::WIFSTOPPED(status) {
        End::Stopped(libc::WSTOPSIG(status))
    } else if libc::WIFSIGNALED(status) {
        End::Signal(libc::WTERMSIG(status))
    } else {
        End::Status(libc::WEXITSTATUS(status))
    }
}

/// Whether a process is a child of this program that was not reaped, so that the number is
/// still its own. Another thread that waits for any child, or an ignored `SIGCHLD`, reaps
/// it before its owner does.
pub fn is_child(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| is_there(WaitId::Pid(pid)))
}

/// Whether a child of this program that was not reaped is in a process group, so that the
/// number is still that group's.
pub fn has_child_in(group: i32) -> bool {
    Pid::from_raw(group).is_some_and(|group| is_there(WaitId::Pgid(Some(group))))
}

fn is_there(whom: WaitId<'_>) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(whom, options).is_ok()
}

thread_local! {
    /// The last reading of the thread's clock, and when it was made.
    static LAST: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// Forgets the last reading: in a fork the clock begins anew.
pub(super) fn forget_thread_cpu() {
    LAST.set(None);
}

/// How long after a reading of its clock a thread counts as having computed since: reading the clock
/// is a call of the kernel, and takes as long as some small tasks.
const RECENT: Duration = Duration::from_micros(100);

/// The processor time of this thread so far, where it is `now`; at most 100 us more, if it had to
/// wait meanwhile.
pub fn thread_cpu(now: Instant) -> Duration {
    if let Some((at, time)) = LAST.get() {
        let since = now.saturating_duration_since(at);
        if since < RECENT {
            return time.saturating_add(since);
        }
    }
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let time = Duration::try_from(time).unwrap_or_default();
    LAST.set(Some((now, time)));
    time
}

/// What this process used so far.
pub fn own_usage() -> Usage {
    get_usage(libc::RUSAGE_SELF)
}

/// What its children that ended and were reaped have used, including their own.
pub fn children_usage() -> Usage {
    get_usage(libc::RUSAGE_CHILDREN)
}

#[expect(unsafe_code, reason = "no safe getrusage is at hand")]
fn get_usage(whose: libc::c_int) -> Usage {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: as above; a failure leaves the zeroes.
    let usage = unsafe {
        libc::getrusage(whose, usage.as_mut_ptr());
        usage.assume_init_ref()
    };
    usage_of(usage)
}

fn usage_of(usage: &libc::rusage) -> Usage {
    let time = |time: libc::timeval| {
        let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
        seconds + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
    };
    let count = |count: libc::c_long| u64::try_from(count).unwrap_or(0);
    let mut used = Usage::default();
    used.user_cpu = time(usage.ru_utime);
    used.system_cpu = time(usage.ru_stime);
    used.peak_rss_bytes = count(usage.ru_maxrss).saturating_mul(1024);
    used.minor_faults = count(usage.ru_minflt);
    used.major_faults = count(usage.ru_majflt);
    used.voluntary_switches = count(usage.ru_nvcsw);
    used.involuntary_switches = count(usage.ru_nivcsw);
    used
}
