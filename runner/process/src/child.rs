//! A process that this one started: watched, ended, reaped.
//!
//! It may continue as another process (see [`Child::moved`]): the clone is in the process
//! group that the first one founded, and that group is ended and reaped. Invariant: a
//! [`Child`] that is dropped leaves no process behind.

use super::spawn::Bell;
use super::suspend::{self, Member};
use super::users::User;
use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use wrun_sandbox::deadline::{Deadline, timeout};
use wrun_sys::{self, Exit, Pidfd, Whom};

/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(10);
/// How long a process that closed its socket may take to die.
pub(super) const REAP_TIMEOUT: Duration = Duration::from_secs(2);
/// How often to check a process that is not watched otherwise.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two checks of processes that were killed.
const PAUSE: Duration = Duration::from_micros(200);

/// Held by a process until it is reaped.
pub(super) struct ProcessSlot {
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) _user: Option<User>,
    /// Last: it rings when the others are returned.
    pub(super) _bell: Bell,
}

/// A process that was started and is not watched yet. Dropping it kills and reaps it,
/// because its requester may be gone by now.
pub(super) struct Started {
    group: i32,
    member: Option<Member>,
    life: Option<OwnedFd>,
    slot: Option<ProcessSlot>,
}

impl Started {
    /// Takes over a process that was started as the leader of a process group.
    pub(super) fn new(member: Member, slot: ProcessSlot) -> io::Result<Self> {
        let group = member.group();
        let mut started = Started {
            group,
            member: Some(member),
            life: None,
            slot: Some(slot),
        };
        started.life = Some(Pidfd::of_child(group)?);
        Ok(started)
    }

    /// Watches it. Needs the context of a tokio runtime.
    pub(super) fn watch(mut self) -> io::Result<Child> {
        let life = self.life.take();
        let pidfd = Pidfd::watch(life.ok_or_else(|| io::Error::other("watched already"))?)?;
        let slot = self.slot.take();
        Ok(Child {
            pid: self.group,
            group: self.group,
            member: self.member.take(),
            pidfd: Arc::new(pidfd),
            exit: None,
            reaped: false,
            burial: None,
            slot,
        })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            drop(self.member.take());
            Burial::begin(self.group, self.group, Some(slot)).leave();
        }
    }
}

/// Kills and reaps a child of this process that leads its process group and that nobody waits for.
pub(super) fn bury(pid: i32) {
    Burial::begin(pid, pid, None).leave();
}

pub(super) struct Child {
    pid: i32,
    group: i32,
    member: Option<Member>,
    pidfd: Arc<Pidfd>,
    exit: Option<Exit>,
    reaped: bool,
    burial: Option<Burial>,
    slot: Option<ProcessSlot>,
}

impl Child {
    pub(super) fn id(&self) -> u32 {
        self.pid.cast_unsigned()
    }

    /// It continues as another child of this process, in the same group; the first one is
    /// about to end.
    pub(super) async fn moved(&mut self, pid: i32) -> io::Result<()> {
        let other = || io::Error::other("no process of its own");
        // Numbers that have a special meaning for the kernel.
        if pid <= 1 || pid == self.pid {
            return Err(other());
        }
        let pidfd = Arc::new(Pidfd::open(pid.cast_unsigned())?);
        // Another child of this program, or any other process, is not in the group that the
        // first one founded: none of them is ever killed or waited for because a child lied.
        if !Pid::from_raw(pid).is_some_and(|pid| is_in(pid, self.group)) {
            return Err(other());
        }
        if !pidfd.is_child() {
            return Err(other());
        }
        let first = std::mem::replace(&mut self.pidfd, pidfd);
        let first_pid = std::mem::replace(&mut self.pid, pid);
        first.exited().await;
        // Other code may have reaped it.
        let _ = wrun_sys::wait(Whom::Pid(first_pid), true);
        Ok(())
    }

    /// The group of all that it forks; `None` if `/proc` shows other numbers than this
    /// process uses.
    pub(super) fn group(&self) -> Option<i32> {
        (self.pidfd.number() == Some(self.id())).then_some(self.group)
    }

    /// Whether it is dead; reaps it then.
    pub(super) fn is_dead(&mut self) -> bool {
        if !self.reaped && self.pidfd.has_exited() {
            // It is dead already, so this takes no time.
            drop(self.member.take());
            let (group, pid) = (self.group, self.pid);
            let burial = self
                .burial
                .get_or_insert_with(|| Burial::begin(group, pid, None));
            while !burial.is_over() {
                std::thread::sleep(PAUSE);
            }
            self.exit = burial.exit.or_else(|| self.told_end());
            self.reaped = true;
        }
        self.reaped
    }

    /// The signal that stopped it, if it was stopped since the last call, and not together
    /// with this process.
    pub(super) fn stopped_by(&self) -> Option<i32> {
        if self.reaped {
            return None;
        }
        let round = suspend::round()?;
        let signal = self.pidfd.stopped_by()?;
        (suspend::round() == Some(round)).then_some(signal)
    }

    /// Kills it; it may be dead already.
    pub(super) fn kill(&self) {
        if !self.reaped {
            self.pidfd.kill();
        }
    }

    /// How it ended, if other code has reaped it and the kernel still knows.
    fn told_end(&self) -> Option<Exit> {
        let end = self.pidfd.end()?;
        Some(Exit { end, usage: None })
    }

    /// Waits for its death and reaps it; `None` if other code reaped it and the kernel does
    /// not know how it ended.
    pub(super) async fn wait(&mut self) -> Option<Exit> {
        if !self.reaped {
            self.pidfd.exited().await;
            drop(self.member.take());
            // Kept until it is over: a caller that stops waiting and comes back must not begin
            // another.
            let (group, pid) = (self.group, self.pid);
            let burial = self
                .burial
                .get_or_insert_with(|| Burial::begin(group, pid, None));
            while !burial.is_over() {
                tokio::time::sleep(PAUSE).await;
            }
            self.exit = burial.exit.or_else(|| self.told_end());
            self.reaped = true;
        }
        self.exit
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.member.take());
        let slot = self.slot.take();
        if let Some(burial) = self.burial.take() {
            burial.with(slot).leave();
        } else if !self.reaped {
            let mut burial = Burial::begin(self.group, self.pid, slot);
            burial.pidfd = Some(self.pidfd.clone());
            burial.leave();
        }
    }
}

/// Kills and reaps a child and every child of this process in the group that the child
/// founded, and kills what else is in the group: a process may have continued as another
/// without reporting it, or have left its group. Dropping it waits until that is done.
///
/// A number is not reused while a process has it, even a dead one. If other code has reaped
/// the child (another thread of this program that waits for any child, an ignored
/// `SIGCHLD`), its number may be reused, and no signal is sent to it.
struct Burial {
    group: i32,
    pid: i32,
    /// The child is reaped; its number is no longer valid.
    reaped: bool,
    exit: Option<Exit>,
    /// Tells when it is dead; without it, that is checked from time to time.
    pidfd: Option<Arc<Pidfd>>,
    give_up: Option<Deadline>,
    over: bool,
    slot: Option<ProcessSlot>,
}

impl Burial {
    fn begin(group: i32, pid: i32, slot: Option<ProcessSlot>) -> Self {
        // The number is the group's while the child is in the group, or is the process that
        // founded it.
        let named = pid == group || Pid::from_raw(pid).is_some_and(|pid| is_in(pid, group));
        if named && wrun_sys::is_child(pid) {
            kill_group(group);
        }
        Burial {
            group,
            pid,
            reaped: false,
            exit: None,
            pidfd: None,
            give_up: Deadline::after(GONE),
            over: false,
            slot,
        }
    }

    /// The slot to free once it is over.
    fn with(mut self, slot: Option<ProcessSlot>) -> Self {
        self.slot = slot;
        self
    }

    /// Reaps what is dead; returns whether nothing is left, or what is left does not die.
    fn is_over(&mut self) -> bool {
        while !self.over {
            let waited = match wrun_sys::wait(Whom::Group(self.group), false) {
                Ok(None) => {
                    kill_group(self.group);
                    Ok(None)
                }
                Err(_) if !self.reaped => wrun_sys::wait(Whom::Pid(self.pid), false),
                waited => waited,
            };
            match waited {
                Err(_) => self.over = true,
                Ok(Some((_, its))) if matches!(its.end, wrun_sys::End::Stopped(_)) => {}
                Ok(Some((pid, its))) if pid == self.pid => {
                    self.exit = Some(its);
                    self.reaped = true;
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    // Even if it has left its group.
                    let is_there = !self.reaped && wrun_sys::is_child(self.pid);
                    if let Some(pid) = Pid::from_raw(self.pid).filter(|_| is_there) {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                    self.over = self.give_up.is_none_or(Deadline::has_passed);
                    break;
                }
            }
        }
        self.over
    }

    /// Continues in the background if possible: the caller that drops a process should not
    /// have to wait.
    fn leave(mut self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !self.is_over()
        {
            runtime.spawn(async move {
                if let Some(pidfd) = self.pidfd.take() {
                    let _ = timeout(GONE, pidfd.exited()).await;
                }
                while !self.is_over() {
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
    }
}

impl Drop for Burial {
    fn drop(&mut self) {
        while !self.is_over() {
            std::thread::sleep(PAUSE);
        }
    }
}

fn is_in(pid: Pid, group: i32) -> bool {
    matches!(getpgid(Some(pid)), Ok(its) if its.as_raw_nonzero().get() == group)
}

pub(super) fn kill_group(group: i32) {
    if let Some(group) = Pid::from_raw(group) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}
