//! A zygote as its runner sees it: a process that has a task loaded and jailed,
//! and forks a worker whenever it is told to.
//!
//! No guest ever runs in it, yet what it says is checked like a worker's.
//! Invariants: every worker it was asked for is answered for once, with its end or
//! with the zygote's own; a signal goes to nobody but its own process group,
//! whatever it says.

use super::breaker::Failure;
use super::channel::{ChannelError, Receiver, Sender, is_want};
use super::child::{Child, LOOK_EVERY};
use super::owners::Owners;
use super::plain::{Plain, Told};
use super::spawn::Launch;
use super::trace;
use super::words::Words;
use crate::wire::{ControlOrder, ControlSays, Spare};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair, sockopt};
use rustix::process::{Signal, pidfd_send_signal};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;
use wrun_sandbox::deadline::{Deadline, timeout};
use wrun_sys::Unpoisoned;
use wrun_sys::{self, End, Exit, Sent};
use wrun_types::jail_report::JailReport;

/// A fork takes a fraction of a millisecond; a zygote that has said nothing for
/// this long while it was to fork never will.
const FORK: Duration = Duration::from_secs(5);
/// How long after it was killed a worker's end must be told.
const BURIAL: Duration = Duration::from_secs(15);

pub(super) struct Zygote {
    orders: tokio::sync::Mutex<Sender>,
    children: Mutex<Children>,
    /// Ends the zygote, and with it every worker of it.
    end: CancellationToken,
    /// Its process group and its workers'; none where they cannot be told from
    /// other processes.
    group: Option<i32>,
    pub(super) jail: Arc<JailReport>,
    /// How its workers see granted directories.
    pub(super) owners: Option<Arc<Owners>>,
}

#[derive(Default)]
struct Children {
    next: u64,
    entries: HashMap<u64, Entry>,
    /// When it will have been silent for too long.
    silent: Option<Deadline>,
    /// The zygote is gone, and how.
    orphaned: Option<Failure>,
    /// What it said before.
    words: Option<String>,
}

struct Entry {
    forked: Option<oneshot::Sender<io::Result<Member>>>,
    ended: Option<oneshot::Sender<Exit>>,
    /// When its end must have been told.
    due: Option<Deadline>,
    _permit: OwnedSemaphorePermit,
}

/// A process of the zygote's group, or one that is gone.
struct Member {
    pidfd: OwnedFd,
    number: Option<u32>,
}

/// A worker that its zygote started and reaps.
pub(super) struct Forked {
    id: u64,
    member: Member,
    ended: Option<oneshot::Receiver<Exit>>,
    exit: Option<Exit>,
    words: Words,
    zygote: Arc<Zygote>,
}

/// A worker that was just forked.
pub(super) struct Born {
    pub(super) forked: Forked,
    pub(super) socket: UnixStream,
    /// Its order, where that was sent before it was there.
    pub(super) told: Option<Told>,
}

/// Why there is no worker.
#[derive(Debug)]
pub(super) enum NotForked {
    /// The zygote died, or had to be ended.
    Gone(Failure),
    /// The system refused to fork.
    Refused(io::Error),
}

impl Zygote {
    /// Takes over a started process that said that it is ready to fork. Needs the
    /// context of a tokio runtime.
    pub(super) fn new(launch: Launch, jail: Arc<JailReport>) -> Arc<Self> {
        let Launch {
            mut child,
            orders,
            says,
            mut words,
            owners,
        } = launch;
        let zygote = Arc::new(Zygote {
            orders: tokio::sync::Mutex::new(orders),
            children: Mutex::default(),
            end: CancellationToken::new(),
            group: child.group(),
            jail,
            owners,
        });
        let pid = child.id();
        trace::zygote_started(pid);
        let end = zygote.end.clone();
        let listening = Arc::downgrade(&zygote);
        tokio::spawn(async move {
            let how = tokio::select! {
                how = listen(says, &listening) => how,
                how = look_after(&mut child, &mut words, &listening) => how,
                () = end.cancelled() => Failure::Killed,
            };
            // The one that does not need it any more has dropped it.
            let needed = listening.upgrade();
            if let Some(zygote) = &needed {
                zygote.children().words = words.told();
                zygote.orphan(how);
            }
            let died = needed.and_then(|zygote| zygote.children().orphaned);
            trace::zygote_ended(pid, died);
            reap(child).await;
        });
        zygote
    }

    /// Whether it can still fork.
    pub(super) fn is_alive(&self) -> bool {
        self.children().orphaned.is_none()
    }

    /// Ends it and all of its workers.
    fn end(&self) {
        self.orphan(Failure::Own);
        self.end.cancel();
    }

    /// Has it fork a worker: a spare, or one that finds its order when it is there, and
    /// need not wait for it.
    pub(super) async fn fork(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        spare: Option<Spare>,
        order: Option<&Plain>,
    ) -> Result<Born, NotForked> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|errno| NotForked::Refused(errno.into()))?;
        let (words, its_stderr) = Words::pipe().map_err(NotForked::Refused)?;
        let told = order.and_then(|order| tell(&ours, order));
        let (forked, member) = oneshot::channel();
        let (ended, exit) = oneshot::channel();
        let id = {
            let mut children = self.children();
            if let Some(how) = children.orphaned {
                return Err(NotForked::Gone(how));
            }
            let id = children.next;
            children.next += 1;
            let entry = Entry {
                forked: Some(forked),
                ended: Some(ended),
                due: None,
                _permit: permit,
            };
            children.entries.insert(id, entry);
            id
        };
        let mut asked = std::pin::pin!(async {
            let frame =
                Sender::frame(&ControlOrder::Fork { id, spare }).map_err(io::Error::other)?;
            let mut orders = self.orders.lock().await;
            let sent = orders
                .send(&frame, &[theirs.as_fd(), its_stderr.as_fd()])
                .await;
            drop(orders);
            match sent {
                Err(error) if is_want(&error) => {
                    // It was not asked, and will say nothing.
                    self.children().entries.remove(&id);
                    Ok(Err(error))
                }
                sent => {
                    sent?;
                    member.await.map_err(io::Error::other)
                }
            }
        });
        let asked = loop {
            match timeout(FORK, &mut asked).await {
                Ok(asked) => break Some(asked),
                // It forks for others that asked before.
                Err(_) if !self.is_silent() => {}
                Err(_) => break None,
            }
        };
        let member = match asked {
            Some(Ok(Ok(member))) => member,
            Some(Ok(Err(error))) => return Err(NotForked::Refused(error)),
            Some(Err(_)) | None => {
                // Unless it is known to be gone already.
                self.end();
                let how = self.children().orphaned.unwrap_or(Failure::Own);
                return Err(NotForked::Gone(how));
            }
        };
        Ok(Born {
            forked: Forked {
                id,
                member,
                ended: Some(exit),
                exit: None,
                words,
                zygote: self.clone(),
            },
            socket: ours.into(),
            told,
        })
    }

    /// What it said before it was gone.
    pub(super) fn words(&self) -> Option<String> {
        self.children().words.clone()
    }

    fn children(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unpoisoned()
    }

    /// Answers for every worker that is not answered for: nobody will say more.
    fn orphan(&self, how: Failure) {
        let entries = {
            let mut children = self.children();
            children.orphaned.get_or_insert(how);
            std::mem::take(&mut children.entries)
        };
        drop(entries);
    }

    fn is_silent(&self) -> bool {
        self.children().silent.is_none_or(Deadline::has_passed)
    }

    /// Whether it has not told the end of a worker that must have ended.
    fn forgets_its_dead(&self) -> bool {
        self.children()
            .entries
            .values()
            .any(|entry| entry.due.is_some_and(Deadline::has_passed))
    }

    /// A worker is there that cannot be watched; `false` where none was asked for. It ends
    /// when the requester closes its socket.
    fn missed(&self, id: u64, error: io::Error) -> bool {
        let mut children = self.children();
        children.silent = Deadline::after(FORK);
        let Some(entry) = children.entries.get_mut(&id) else {
            return false;
        };
        entry.due = Deadline::after(BURIAL);
        match entry.forked.take() {
            Some(forked) => {
                let _ = forked.send(Err(error));
                true
            }
            None => false,
        }
    }

    /// Takes one message; `false` when it makes no sense.
    fn heard(&self, message: ControlSays, pidfd: Option<OwnedFd>) -> bool {
        let member = match pidfd.map(|pidfd| self.member(pidfd)) {
            Some(None) => return false,
            Some(Some(member)) => Some(member),
            None => None,
        };
        let mut children = self.children();
        children.silent = Deadline::after(FORK);
        match (message, member) {
            (ControlSays::Forked(id), Some(member)) => {
                let Some(entry) = children.entries.get_mut(&id) else {
                    return false;
                };
                let Some(forked) = entry.forked.take() else {
                    return false;
                };
                // The requester may be gone.
                if let Err(Ok(member)) = forked.send(member) {
                    member.kill();
                    entry.due = Deadline::after(BURIAL);
                }
                true
            }
            (ControlSays::NotForked(id, errno), None) => children
                .entries
                .remove(&id)
                .and_then(|entry| entry.forked)
                .map(|forked| drop(forked.send(Err(io::Error::from_raw_os_error(errno)))))
                .is_some(),
            (ControlSays::Ended(id, exit), None) if is_possible(exit.end) => children
                .entries
                .remove(&id)
                .filter(|entry| entry.forked.is_none())
                .and_then(|entry| entry.ended)
                .map(|ended| {
                    let _ = ended.send(exit);
                })
                .is_some(),
            _ => false,
        }
    }

    /// Who it says it forked; none for somebody whom it did not. That a process
    /// cannot be told from others is an error: no signal would be safe.
    fn member(&self, pidfd: OwnedFd) -> Option<io::Result<Member>> {
        let Some(group) = self.group else {
            return Some(Err(io::Error::other("/proc shows other numbers")));
        };
        match wrun_sys::member_of(group, pidfd.as_fd()) {
            Ok(Sent::Member(number)) => Some(Ok(Member {
                pidfd,
                number: Some(number),
            })),
            Ok(Sent::Gone) => Some(Ok(Member {
                pidfd,
                number: None,
            })),
            Ok(Sent::Stranger) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// Leaves an order where its worker will find it; none where it cannot be.
fn tell(socket: &OwnedFd, order: &Plain) -> Option<Told> {
    // It can be done and gone before anybody has looked who it is: the kernel says who
    // speaks.
    sockopt::set_socket_passcred(socket, true).ok()?;
    let frame = order.frame().ok()?;
    let at = Instant::now();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = send(socket, &frame, flags).unwrap_or(0);
    Some(Told { frame, sent, at })
}

/// Whether a process can end like this.
fn is_possible(end: End) -> bool {
    match end {
        End::Status(status) => (0..=255).contains(&status),
        End::Signal(signal) | End::Stopped(signal) => (1..=64).contains(&signal),
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Hears what a zygote says until it is gone or makes no sense.
async fn listen(mut says: Receiver, zygote: &std::sync::Weak<Zygote>) -> Failure {
    loop {
        let message = match says.next_with_descriptors::<ControlSays>().await {
            Ok(message) => message,
            Err(ChannelError::Closed | ChannelError::Io(_)) => return Failure::Killed,
            Err(_) => return Failure::Own,
        };
        let count = usize::from(matches!(message, ControlSays::Forked(_)));
        let descriptors = says.take(count);
        let Some(zygote) = zygote.upgrade() else {
            return Failure::Killed;
        };
        let makes_sense = match (message, descriptors) {
            (message, Ok(mut descriptors)) => zygote.heard(message, descriptors.pop()),
            // This process has no room for what tells who it is: that is no fault of
            // the zygote, nor of its other workers.
            (ControlSays::Forked(id), Err(error)) if is_want(&error) => zygote.missed(id, error),
            _ => false,
        };
        if !makes_sense {
            return Failure::Own;
        }
    }
}

/// Looks now and then; returns when it has to end.
async fn look_after(
    child: &mut Child,
    words: &mut Words,
    zygote: &std::sync::Weak<Zygote>,
) -> Failure {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        words.overhear();
        // One that somebody stopped forks and reaps no more; nobody is there to
        // let it go on.
        if child.stopped_by().is_some() {
            return Failure::Killed;
        }
        if zygote.upgrade().is_some_and(|it| it.forgets_its_dead()) {
            return Failure::Own;
        }
    }
}

/// A zygote that lost its socket ends, and takes its workers along.
async fn reap(mut child: Child) {
    child.kill();
    child.wait().await;
}

impl Forked {
    /// The worker's process number; none when it was gone before it was looked
    /// for.
    pub(super) fn id(&self) -> Option<u32> {
        self.member.number
    }

    pub(super) fn zygote(&self) -> &Arc<Zygote> {
        &self.zygote
    }

    pub(super) fn overhear(&mut self) {
        self.words.overhear();
    }

    /// What it said, or its zygote, where that is gone.
    pub(super) fn words(&mut self) -> Option<String> {
        self.words.told().or_else(|| self.zygote.words())
    }

    /// Whether it is dead.
    pub(super) fn is_dead(&mut self) -> bool {
        if let Some(ended) = &mut self.ended {
            match ended.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return false,
                Ok(exit) => self.exit = Some(exit),
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
            self.ended = None;
        }
        true
    }

    /// Kills it, also when it is said to have ended.
    pub(super) fn kill(&self) {
        self.member.kill();
    }

    /// Waits for its end; none when its zygote died first.
    pub(super) async fn wait(&mut self) -> Option<Exit> {
        if let Some(ended) = &mut self.ended {
            self.exit = ended.await.ok();
            self.ended = None;
        }
        self.exit
    }
}

impl Member {
    fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        self.kill();
        if let Some(entry) = self.zygote.children().entries.get_mut(&self.id) {
            entry.due = Deadline::after(BURIAL);
        }
    }
}
