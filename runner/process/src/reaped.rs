//! A process that is waited for by the thread that started it, with all in its group.
//!
//! Invariant: a [`Reaped`] that is dropped leaves no process behind.

use super::child::kill_group;
use super::suspend::Member;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpgid, kill_process, pidfd_open, waitid,
};
use std::io;
use std::os::fd::OwnedFd;
use wrun_sys::{self, Exit, Whom};

/// A child that is killed and reaped when dropped, and all in its process group.
pub struct Reaped {
    /// The process that was started, which founded the group.
    first: i32,
    /// The process as which it continues.
    moved: Option<i32>,
    ended: bool,
    member: Option<Member>,
}

impl Reaped {
    /// Takes over a process that was started as the leader of a process group.
    pub fn new(member: Member) -> Self {
        Reaped {
            first: member.group(),
            moved: None,
            ended: false,
            member: Some(member),
        }
    }

    /// The number of the process that was started.
    pub fn id(&self) -> i32 {
        self.first
    }

    /// Records that it continues as another child of this process, in the group of the
    /// first; returns a descriptor for that one's death.
    pub fn moved(&mut self, pid: i32) -> io::Result<OwnedFd> {
        let other = || io::Error::other("no process of its own");
        // Numbers that have a special meaning for the kernel.
        if pid <= 1 || pid == self.first {
            return Err(other());
        }
        let pid = Pid::from_raw(pid).ok_or_else(other)?;
        let life = pidfd_open(pid, PidfdFlags::empty())?;
        // As for workers: no process is killed or waited for because a child lied.
        if getpgid(Some(pid))?.as_raw_nonzero().get() != self.first {
            return Err(other());
        }
        // Only a child of this process can be waited for; this does not reap it.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), look)?;
        self.moved = Some(pid.as_raw_nonzero().get());
        Ok(life)
    }

    /// Kills and reaps all of it; returns how the process ended as which it continued.
    /// `None` if other code reaped it.
    pub fn end(&mut self) -> Option<Exit> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        drop(self.member.take());
        let last = self.moved.unwrap_or(self.first);
        let mut end = None;
        let mut left = vec![self.first];
        left.extend(self.moved);
        if wrun_sys::has_child_in(self.first) {
            kill_group(self.first);
        }
        // Each by itself as well, because it may have left the group. One that other code has
        // reaped has no number any more.
        left.retain(|pid| wrun_sys::is_child(*pid));
        for pid in left.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        // Also one that was started and not reported.
        while let Ok(Some((pid, exit))) = wrun_sys::wait(Whom::Group(self.first), true) {
            left.retain(|left| *left != pid);
            if pid == last {
                end = Some(exit);
            }
        }
        for pid in left {
            if let Ok(Some((_, exit))) = wrun_sys::wait(Whom::Pid(pid), true)
                && pid == last
            {
                end = Some(exit);
            }
        }
        end
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.end();
    }
}
