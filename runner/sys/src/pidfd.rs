//! A process by descriptor: it never refers to another process, even after the process
//! number is used again.

use super::wait::{End, end_of};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpgid, pidfd_open, pidfd_send_signal, waitid,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A child process that its owner has not reaped yet.
pub struct Pidfd(AsyncFd<OwnedFd>);

impl Pidfd {
    /// Opens a child by its number. Needs the context of a tokio runtime.
    ///
    /// # Errors
    ///
    /// No such process, or no descriptors left.
    pub fn open(pid: u32) -> io::Result<Self> {
        Pidfd::watch(Pidfd::of_child(pid.cast_signed())?)
    }

    /// The descriptor of a child by its number, before it is watched.
    ///
    /// # Errors
    ///
    /// No such process, or no descriptors left.
    pub fn of_child(pid: i32) -> io::Result<OwnedFd> {
        let pid =
            Pid::from_raw(pid).ok_or_else(|| io::Error::other("a process without a number"))?;
        Ok(pidfd_open(pid, PidfdFlags::empty())?)
    }

    /// Watches a child by its descriptor. Needs the context of a tokio runtime.
    ///
    /// # Errors
    ///
    /// The runtime refuses.
    #[expect(unsafe_code, reason = "registering a descriptor with the runtime")]
    pub fn watch(pidfd: OwnedFd) -> io::Result<Self> {
        // SAFETY: `register_with_interest` requires that the value keeps
        // returning the same open descriptor until the `AsyncFd` is dropped. An
        // `OwnedFd` does, and nothing takes it out.
        let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        registered
            .map(Pidfd)
            .map_err(|error| io::Error::other(error.to_string()))
    }

    /// The process's number as `/proc` shows it.
    pub fn number(&self) -> Option<u32> {
        match shown(self.0.get_ref().as_fd()) {
            Ok(Shown::Number(number)) => Some(number),
            _ => None,
        }
    }

    /// Kills the process; no effect if it is dead.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(self.0.get_ref(), Signal::KILL);
    }

    /// Whether it is a child of this program that was not reaped.
    pub fn is_child(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::PidFd(self.0.get_ref().as_fd()), options).is_ok()
    }

    /// The signal that stopped the process, if it was stopped since the last call.
    pub fn stopped_by(&self) -> Option<i32> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::PidFd(self.0.get_ref().as_fd()), options).ok()??;
        status.stopping_signal()
    }

    /// How the process ended, if other code has reaped it.
    pub fn end(&self) -> Option<End> {
        end_of_reaped(self.0.get_ref().as_fd())
    }

    /// Whether the process is dead. Its owner still has to reap it.
    pub fn has_exited(&self) -> bool {
        let mut watched = [PollFd::new(self.0.get_ref(), PollFlags::IN)];
        matches!(poll(&mut watched, Some(&Timespec::default())), Ok(1..))
    }

    /// Waits until the process is dead. Its owner still has to reap it.
    pub async fn exited(&self) {
        let _ = self.0.readable().await;
    }
}

/// The process that a descriptor sent by another process refers to.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// The process of this number, which is in the group.
    Member(u32),
    /// A process that is dead and reaped: a signal has no effect.
    Gone,
    /// Another process, or not a process.
    Stranger,
}

/// Determines whether a descriptor sent by another process refers to a process of a group.
///
/// # Errors
///
/// `/proc` does not say.
pub fn member_of(group: i32, pidfd: BorrowedFd<'_>) -> io::Result<Sent> {
    let number = match shown(pidfd)? {
        Shown::Number(number) => number,
        Shown::Gone => return Ok(Sent::Gone),
        Shown::Nothing => return Ok(Sent::Stranger),
    };
    let its_group = Pid::from_raw(number.cast_signed()).map(|pid| getpgid(Some(pid)));
    // If the number is still that process's, it was so all the time.
    match (shown(pidfd)?, its_group) {
        (Shown::Gone, _) => Ok(Sent::Gone),
        (Shown::Number(_), Some(Ok(its))) if its.as_raw_nonzero().get() == group => {
            Ok(Sent::Member(number))
        }
        _ => Ok(Sent::Stranger),
    }
}

/// What `/proc` shows about a descriptor for a process.
enum Shown {
    Number(u32),
    Gone,
    /// It is not such a descriptor, or its process has no number here.
    Nothing,
}

fn shown(pidfd: BorrowedFd<'_>) -> io::Result<Shown> {
    match asked(pidfd) {
        Some(shown) => Ok(shown),
        None => read(pidfd),
    }
}

/// `PIDFD_GET_INFO` and the structure that it fills, of Linux 6.13; the header is
/// `linux/pidfd.h`.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

const GET_INFO: libc::c_ulong = 0xc040_ff0b;

/// Queries the kernel; `None` if it does not know the request, or the descriptor is for
/// something else.
#[expect(unsafe_code, reason = "an ioctl that rustix has no function for")]
fn asked(pidfd: BorrowedFd<'_>) -> Option<Shown> {
    const HAS_PID: u64 = 1;
    const { assert!(size_of::<Info>() == 64, "the size that the request names") };
    let mut info = Info {
        mask: HAS_PID,
        ..Info::default()
    };
    // SAFETY: the request's number states that it writes at most 64 bytes, which is the
    // size of `info`. On a descriptor of another kind it has no meaning: the type 0xff
    // belongs to descriptors that live in the kernel alone, and the only other requests of
    // that type are refused with ENOTTY.
    match unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) } {
        0 if info.mask & HAS_PID != 0 && info.tgid > 0 => Some(Shown::Number(info.tgid)),
        0 => None,
        _ => {
            let error = io::Error::last_os_error();
            (error.raw_os_error() == Some(libc::ESRCH)).then_some(Shown::Gone)
        }
    }
}

/// How a process ended that other code has reaped; `None` if the kernel does not keep that
/// (before Linux 6.15), or the process is not dead and reaped.
#[expect(unsafe_code, reason = "an ioctl that rustix has no function for")]
pub fn end_of_reaped(pidfd: BorrowedFd<'_>) -> Option<End> {
    const HAS_EXIT: u64 = 1 << 3;
    let mut info = Info {
        mask: HAS_EXIT,
        ..Info::default()
    };
    // SAFETY: as for `asked`.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    (done == 0 && info.mask & HAS_EXIT != 0).then(|| end_of(info.exit_code))
}

fn read(pidfd: BorrowedFd<'_>) -> io::Result<Shown> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let info = std::fs::read_to_string(path)?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    Ok(match pid.and_then(|pid| pid.trim().parse::<i64>().ok()) {
        Some(-1) => Shown::Gone,
        Some(pid) if pid > 0 => u32::try_from(pid).map_or(Shown::Nothing, Shown::Number),
        _ => Shown::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{getpgrp, getpid};

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a process to look at")]
    fn strangers_are_told_from_members() {
        let ours = getpgrp().as_raw_nonzero().get();
        let own = pidfd_open(getpid(), PidfdFlags::empty()).expect("pidfd");
        let number = getpid().as_raw_nonzero().get().cast_unsigned();
        let told = |group, fd| member_of(group, fd).expect("/proc");
        assert_eq!(told(ours, own.as_fd()), Sent::Member(number));
        assert_eq!(told(ours + 1, own.as_fd()), Sent::Stranger);
        let (pipe, _) = io::pipe().expect("pipe");
        assert_eq!(told(ours, pipe.as_fd()), Sent::Stranger);
        let mut child = std::process::Command::new("true").spawn().expect("child");
        let pid = Pid::from_raw(child.id().cast_signed()).expect("number");
        let its = pidfd_open(pid, PidfdFlags::empty()).expect("pidfd");
        child.wait().expect("ends");
        assert_eq!(told(ours, its.as_fd()), Sent::Gone);
    }
}
