//! The zygote: forks a worker for each socket it is sent, reaps the workers, and reports
//! how they ended. One thread, no guest. Its end would be the end of all its workers: if
//! the system has no descriptors or memory for another one, it reports that and continues.

use super::channel::{self, Inbox};
use super::task_main;
use crate::jail::Sealed;
use crate::wire::{self, ControlOrder, ControlSays, Spare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use wrun_sandbox::{Prepared, WarmInstance};
use wrun_sys::{self, Alone, End, Exit, Forked, Whom};

pub(super) struct Zygote {
    pub(super) alone: Alone,
    pub(super) control: OwnedFd,
    pub(super) inbox: Inbox,
    pub(super) sigchld: Sigchld,
    pub(super) prepared: Prepared,
    pub(super) sealed: Sealed,
    pub(super) tasks: u32,
    /// Each child's first sandbox.
    pub(super) warm: Option<WarmInstance>,
}

/// A child that is not reaped yet.
struct Known {
    id: u64,
    stopped: Option<Stopped>,
}

/// A child was stopped from outside, and would not be continued; unless the runner stopped
/// it together with this process, and both are continued now, this process first.
struct Stopped {
    signal: i32,
    /// Checked once since, and still stopped.
    looked: bool,
}

/// Time between two checks of a stopped child: in a running zygote, enough for a child that
/// was stopped with it to continue.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A pipe that is written to when a child ends or stops.
pub(super) struct Sigchld {
    reader: OwnedFd,
    /// The signal handler has the other end.
    writer: RawFd,
}

pub(super) fn watch_children() -> io::Result<Sigchld> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let watch = Sigchld {
        reader,
        writer: writer.as_raw_fd(),
    };
    signal_hook::low_level::pipe::register_raw(signal_hook::consts::SIGCHLD, writer)?;
    Ok(watch)
}

/// Forks and reaps until the runner closes its end; leaving ends every child.
pub(super) fn serve(mut zygote: Zygote) -> io::Result<()> {
    let mut children = HashMap::new();
    let mut look = None::<Instant>;
    loop {
        let left = look.map(|look| look.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let (ordered, reaps) = {
            let mut watched = [
                PollFd::new(&zygote.control, PollFlags::IN),
                PollFd::new(&zygote.sigchld.reader, PollFlags::IN),
            ];
            match poll(&mut watched, left.as_ref()) {
                Err(Errno::INTR) => (false, true),
                Err(error) => return Err(error.into()),
                Ok(_) => (
                    !watched[0].revents().is_empty(),
                    !watched[1].revents().is_empty(),
                ),
            }
        };
        if reaps {
            let _ = rustix::io::read(&zygote.sigchld.reader, &mut [0; 64]);
            zygote.reap(&mut children)?;
        }
        if look.is_some_and(|look| look <= Instant::now()) {
            end_stopped(&mut children);
            look = None;
        }
        if look.is_none() && children.values().any(|known| known.stopped.is_some()) {
            look = Some(Instant::now() + LOOK_EVERY);
        }
        if ordered {
            if !zygote.inbox.receive(&zygote.control)? {
                return Ok(());
            }
            while let Some(order) = zygote.inbox.next().map_err(io::Error::other)? {
                let ControlOrder::Fork { id, spare } = order else {
                    return Err(io::Error::other("started a second time"));
                };
                zygote.fork(id, spare, &mut children)?;
            }
        }
    }
}

impl Zygote {
    fn fork(
        &mut self,
        id: u64,
        spare: Option<Spare>,
        children: &mut HashMap<i32, Known>,
    ) -> io::Result<()> {
        let (Some(socket), Some(stderr)) = (self.inbox.take_one(), self.inbox.take_one()) else {
            // There was no room for them here.
            let full = io::Error::from(Errno::MFILE);
            return self.not_forked(id, &full);
        };
        match self.alone.fork() {
            Ok(Forked::Child) => self.child(socket, stderr, spare),
            Ok(Forked::Parent { pid, pidfd }) => {
                match self.say(&ControlSays::Forked(id), &[pidfd.as_fd()]) {
                    // Its pidfd cannot be sent: it is ended, and the others continue.
                    Err(error) if channel::is_want(&error) => {
                        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                        self.not_forked(id, &error)
                    }
                    said => {
                        children.insert(pid, Known { id, stopped: None });
                        said
                    }
                }
            }
            Err(error) => self.not_forked(id, &error),
        }
    }

    fn not_forked(&self, id: u64, error: &io::Error) -> io::Result<()> {
        let errno = error.raw_os_error().unwrap_or_default();
        self.say(&ControlSays::NotForked(id, errno), &[])
    }

    /// In a forked child: serves its socket and ends.
    fn child(&mut self, socket: OwnedFd, stderr: OwnedFd, spare: Option<Spare>) -> ! {
        // Whatever happens, this copy of the zygote must not continue as one.
        let _end = EndsHere;
        // A worker must not have the zygote's own descriptors: its stderr is a pipe that a
        // worker could fill, so that all others would wait.
        if rustix::stdio::dup2_stderr(stderr).is_err() {
            wrun_sys::exit_now(125)
        }
        for descriptor in [
            self.control.as_raw_fd(),
            self.sigchld.reader.as_raw_fd(),
            self.sigchld.writer,
        ] {
            if wrun_sys::blank(descriptor).is_err() {
                wrun_sys::exit_now(125)
            }
        }
        self.inbox = Inbox::default();
        let warm = self.warm.take();
        let served = task_main::serve(
            &self.prepared,
            &self.sealed,
            socket,
            self.tasks,
            spare,
            warm,
        );
        if let Err(error) = served {
            let _ = writeln!(io::stderr(), "wrun worker: {error}");
            wrun_sys::exit_now(125)
        }
        wrun_sys::exit_now(0)
    }

    fn reap(&self, children: &mut HashMap<i32, Known>) -> io::Result<()> {
        // All that have ended are reported at once: each message wakes the runner.
        let mut words = Vec::new();
        // An error means that there are no children.
        while let Ok(Some((pid, exit))) = wrun_sys::wait(Whom::Any, false) {
            if let End::Stopped(signal) = exit.end {
                if let Some(known) = children.get_mut(&pid) {
                    known.stopped = Some(Stopped {
                        signal,
                        looked: false,
                    });
                }
                continue;
            }
            if let Some(Known { id, stopped }) = children.remove(&pid) {
                let exit = match stopped {
                    Some(Stopped { signal, .. }) => Exit {
                        end: End::Stopped(signal),
                        ..exit
                    },
                    None => exit,
                };
                let ended = wire::encode(&ControlSays::Ended(id, exit));
                words.extend(ended.map_err(io::Error::other)?);
            }
        }
        match words.is_empty() {
            true => Ok(()),
            false => channel::send_bytes(&self.control, &words, &[]),
        }
    }

    fn say(&self, says: &ControlSays, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        channel::send(&self.control, says, descriptors)
    }
}

/// Kills children that were stopped and do not continue.
fn end_stopped(children: &mut HashMap<i32, Known>) {
    for (pid, known) in children {
        let Some(stopped) = &mut known.stopped else {
            continue;
        };
        // It is not reaped yet, so the number is still its own.
        let Some(child) = Pid::from_raw(*pid) else {
            continue;
        };
        let goes_on = WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
        if let Ok(Some(_)) = waitid(WaitId::Pid(child), goes_on) {
            known.stopped = None;
        } else if std::mem::replace(&mut stopped.looked, true)
            && let Ok(pidfd) = pidfd_open(child, PidfdFlags::empty())
        {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
}

/// Ends the process when it is dropped, that is, by a panic.
pub(super) struct EndsHere;

impl Drop for EndsHere {
    fn drop(&mut self) {
        wrun_sys::exit_now(101)
    }
}
