//! A process that this one started: watched, ended, reaped.
//!
//! It may go on as another process (see [`Child::moved`]): the clone is in the
//! process group that the first one founded, and that group is what is ended and
//! reaped. Invariant: a [`Child`] that is dropped leaves no process behind.

use crate::sys::{self, Exit, Pidfd, Whom};
use rustix::process::{Pid, Signal, getpgid, kill_process_group};
use std::io;
use std::process::Child as StdChild;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// How long a process that was killed may take to be gone.
const GONE: Duration = Duration::from_secs(2);

/// A process that was started and that nobody watches yet. Dropping it kills and
/// reaps it: whoever asked for it may be gone by now.
pub(super) struct Started {
    group: i32,
    permit: Option<OwnedSemaphorePermit>,
}

impl Started {
    /// Takes over what was started as the leader of a process group.
    pub(super) fn new(child: &StdChild, permit: OwnedSemaphorePermit) -> Self {
        Started {
            group: child.id().cast_signed(),
            permit: Some(permit),
        }
    }

    /// Watches it. Needs the context of a tokio runtime.
    pub(super) fn watch(mut self) -> io::Result<Child> {
        let pidfd = Pidfd::open(self.group.cast_unsigned())?;
        let permit = self.permit.take();
        Ok(Child {
            pid: self.group,
            group: self.group,
            pidfd,
            exit: None,
            reaped: false,
            _permit: permit,
        })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.permit.is_some() {
            end_group(self.group);
        }
    }
}

pub(super) struct Child {
    pid: i32,
    group: i32,
    pidfd: Pidfd,
    exit: Option<Exit>,
    reaped: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Child {
    pub(super) fn id(&self) -> u32 {
        self.pid.cast_unsigned()
    }

    /// It goes on as another child of this process, in the same group; the first
    /// one is about to end.
    pub(super) async fn moved(&mut self, pid: i32) -> io::Result<()> {
        let other = || io::Error::other("no process of its own");
        // Numbers that mean something else to the kernel.
        if pid <= 1 || pid == self.pid {
            return Err(other());
        }
        let pidfd = Pidfd::open(pid.cast_unsigned())?;
        // Another child of this program, or any other process, is not in the
        // group that the first one founded: none of them is ever killed, or
        // waited for, because a child lied.
        let group = Pid::from_raw(pid).map(|pid| getpgid(Some(pid)));
        if !matches!(group, Some(Ok(group)) if group.as_raw_nonzero().get() == self.group) {
            return Err(other());
        }
        // Only a child of ours can be waited for.
        let ended = match sys::wait(Whom::Pid(pid), false)? {
            Some((_, exit)) if !matches!(exit.end, sys::End::Stopped(_)) => Some(exit),
            _ => None,
        };
        let first = std::mem::replace(&mut self.pidfd, pidfd);
        let first_pid = std::mem::replace(&mut self.pid, pid);
        first.exited().await;
        sys::wait(Whom::Pid(first_pid), true)?;
        if ended.is_some() {
            self.exit = ended;
            self.reaped = true;
        }
        Ok(())
    }

    /// The group in which all that it forks is; none where `/proc` shows other
    /// numbers than this process uses.
    pub(super) fn group(&self) -> Option<i32> {
        (self.pidfd.number() == Some(self.id())).then_some(self.group)
    }

    /// Whether it is dead; reaps it then.
    pub(super) fn is_dead(&mut self) -> bool {
        if self.exit.is_none() && !self.reaped {
            match sys::wait(Whom::Pid(self.pid), false) {
                Ok(None) => return false,
                Ok(Some((_, exit))) if matches!(exit.end, sys::End::Stopped(_)) => return false,
                Ok(Some((_, exit))) => {
                    self.exit = Some(exit);
                    self.reaped = true;
                }
                Err(_) => self.reaped = true,
            }
        }
        true
    }

    /// The signal that stopped it, if one has since this was last asked.
    pub(super) fn stopped_by(&mut self) -> Option<i32> {
        if self.reaped {
            return None;
        }
        match sys::wait(Whom::Pid(self.pid), false) {
            Ok(Some((_, exit))) => match exit.end {
                sys::End::Stopped(signal) => Some(signal),
                _ => {
                    self.exit = Some(exit);
                    self.reaped = true;
                    None
                }
            },
            _ => None,
        }
    }

    /// Kills it; it may be dead already.
    pub(super) fn kill(&self) {
        if !self.reaped {
            self.pidfd.kill();
        }
    }

    /// Waits for its death and reaps it; none when somebody else reaped it.
    pub(super) async fn wait(&mut self) -> Option<Exit> {
        if !self.reaped {
            self.pidfd.exited().await;
            // While the group's number is still taken.
            kill_group(self.group);
            self.exit = sys::wait(Whom::Pid(self.pid), true)
                .ok()
                .flatten()
                .map(|(_, exit)| exit);
            self.reaped = true;
        }
        self.exit
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            end_group(self.group);
        }
    }
}

/// Kills and reaps every child of ours in a group that one of them founded, and
/// kills what else is in it. A group's number is not used again while a process
/// has it, a dead one too; at least one child must not be reaped.
fn end_group(group: i32) {
    let give_up = Instant::now() + GONE;
    kill_group(group);
    while Instant::now() < give_up {
        // Before the group is empty: afterwards its number may be another's.
        match sys::wait(Whom::Group(group), false) {
            Err(_) => return,
            Ok(Some(_)) => {}
            Ok(None) => {
                kill_group(group);
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }
}

pub(super) fn kill_group(group: i32) {
    if let Some(group) = Pid::from_raw(group) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}
