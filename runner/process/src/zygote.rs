//! A zygote as its runner sees it: a process that has a task loaded and jailed, and forks a
//! worker on each order.
//!
//! No guest ever runs in it, yet its messages are checked like a worker's. Invariants:
//! every requested worker is answered for once, with its end or with the zygote's own; a
//! signal is only ever sent to its own process group, whatever it reports.

use super::breaker::Failure;
use super::census::{Census, Counted, Kind};
use super::channel::{ChannelError, Receiver, Sender, is_want};
use super::child::{Child, LOOK_EVERY};
use super::owners::Owners;
use super::plain::{Plain, SentOrder};
use super::spawn::Launch;
use super::stderr::StderrCapture;
use super::trace;
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

/// A fork takes a fraction of a millisecond; a zygote that sends nothing for this long
/// during a fork is not going to.
const FORK: Duration = Duration::from_secs(5);
/// How soon after it was killed a worker's end must be reported.
const BURIAL: Duration = Duration::from_secs(15);

pub(super) struct Zygote {
    orders: tokio::sync::Mutex<Sender>,
    children: Mutex<Children>,
    /// Ends the zygote, and with it all of its workers.
    end: CancellationToken,
    /// The process group of it and its workers; `None` if they cannot be distinguished from
    /// other processes.
    group: Option<i32>,
    pub(super) jail: Arc<JailReport>,
    /// How its workers see granted directories.
    pub(super) owners: Option<Arc<Owners>>,
    census: Arc<Census>,
}

#[derive(Default)]
struct Children {
    next: u64,
    entries: HashMap<u64, Entry>,
    /// When it will have been silent for too long.
    silent: Option<Deadline>,
    /// The zygote is gone, and how.
    orphaned: Option<Failure>,
    /// Its stderr.
    stderr: Option<String>,
}

struct Entry {
    forked: Option<oneshot::Sender<io::Result<Member>>>,
    ended: Option<oneshot::Sender<Exit>>,
    /// When its end must have been reported.
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
    stderr: StderrCapture,
    zygote: Arc<Zygote>,
    _counted: Counted,
}

/// A worker that was just forked.
pub(super) struct Born {
    pub(super) forked: Forked,
    pub(super) socket: UnixStream,
    /// Its order, if that was sent before the worker existed.
    pub(super) sent_order: Option<SentOrder>,
}

/// Why a worker was not forked.
#[derive(Debug)]
pub(super) enum NotForked {
    /// The zygote died, or had to be ended.
    Gone(Failure),
    /// The system refused to fork.
    Refused(io::Error),
}

impl Zygote {
    /// Takes over a started process that reported that it is ready to fork. Needs the
    /// context of a tokio runtime.
    pub(super) fn new(launch: Launch, jail: Arc<JailReport>, census: Arc<Census>) -> Arc<Self> {
        let Launch {
            mut child,
            orders,
            says,
            mut stderr,
            owners,
        } = launch;
        let zygote = Arc::new(Zygote {
            orders: tokio::sync::Mutex::new(orders),
            children: Mutex::default(),
            end: CancellationToken::new(),
            group: child.group(),
            jail,
            owners,
            census: census.clone(),
        });
        let pid = child.id();
        let counted = census.enter(Kind::Zygote, Some(pid));
        trace::zygote_started(pid);
        let end = zygote.end.clone();
        let listening = Arc::downgrade(&zygote);
        tokio::spawn(async move {
            let how = tokio::select! {
                how = listen(says, &listening) => how,
                how = look_after(&mut child, &mut stderr, &listening) => how,
                () = end.cancelled() => Failure::Killed,
            };
            // The pool drops a zygote that it does not need any more.
            let needed = listening.upgrade();
            if let Some(zygote) = &needed {
                zygote.children().stderr = stderr.text();
                zygote.orphan(how);
            }
            let died = needed.and_then(|zygote| zygote.children().orphaned);
            trace::zygote_ended(pid, died);
            reap(child).await;
            drop(counted);
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

    /// Forks a worker: a spare, or one whose order is there before it, so that it need not
    /// wait for it.
    pub(super) async fn fork(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        spare: Option<Spare>,
        order: Option<&Plain>,
    ) -> Result<Born, NotForked> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|errno| NotForked::Refused(errno.into()))?;
        let (stderr, its_stderr) = StderrCapture::pipe().map_err(NotForked::Refused)?;
        let sent_order = order.and_then(|order| send_order(&ours, order));
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
                    // The order was not sent, so there will be no response.
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
                // It is forking for earlier requests.
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
                _counted: self.census.enter(Kind::Worker, member.number),
                member,
                ended: Some(exit),
                exit: None,
                stderr,
                zygote: self.clone(),
            },
            socket: ours.into(),
            sent_order,
        })
    }

    /// Its stderr, after it was gone.
    pub(super) fn stderr(&self) -> Option<String> {
        self.children().stderr.clone()
    }

    fn children(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unpoisoned()
    }

    /// Answers for every worker that is not answered for: no more messages will come.
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

    /// Whether it has not reported the end of a worker that must have ended.
    fn forgets_its_dead(&self) -> bool {
        self.children()
            .entries
            .values()
            .any(|entry| entry.due.is_some_and(Deadline::has_passed))
    }

    /// A worker exists that cannot be watched; `false` if none was requested. It ends when
    /// the requester closes its socket.
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

    /// Handles one message; `false` if it is not valid.
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

    /// The process that it claims to have forked; `None` if it did not fork it. If a
    /// process cannot be distinguished from others, that is an error: no signal would be
    /// safe.
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

/// Sends an order to a worker that does not exist yet; `None` if that is not possible.
fn send_order(socket: &OwnedFd, order: &Plain) -> Option<SentOrder> {
    // It can be done and gone before its pid is known: the kernel names the sender of its
    // messages.
    sockopt::set_socket_passcred(socket, true).ok()?;
    let frame = order.frame().ok()?;
    let at = Instant::now();
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = send(socket, &frame, flags).unwrap_or(0);
    Some(SentOrder { frame, sent, at })
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

/// Handles a zygote's messages until it is gone or sends an invalid one.
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
            // This process has no room for the descriptor that identifies it: that is not a
            // fault of the zygote, nor of its other workers.
            (ControlSays::Forked(id), Err(error)) if is_want(&error) => zygote.missed(id, error),
            _ => false,
        };
        if !makes_sense {
            return Failure::Own;
        }
    }
}

/// Checks it from time to time; returns when it must be ended.
async fn look_after(
    child: &mut Child,
    stderr: &mut StderrCapture,
    zygote: &std::sync::Weak<Zygote>,
) -> Failure {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        stderr.read_available();
        // A stopped zygote neither forks nor reaps, and would not be continued.
        if child.stopped_by().is_some() {
            return Failure::Killed;
        }
        if zygote.upgrade().is_some_and(|it| it.forgets_its_dead()) {
            return Failure::Own;
        }
    }
}

/// A zygote that lost its socket ends, together with its workers.
async fn reap(mut child: Child) {
    child.kill();
    child.wait().await;
}

impl Forked {
    /// The worker's process number; `None` if it was gone before it was looked up.
    pub(super) fn id(&self) -> Option<u32> {
        self.member.number
    }

    pub(super) fn zygote(&self) -> &Arc<Zygote> {
        &self.zygote
    }

    pub(super) fn read_stderr(&mut self) {
        self.stderr.read_available();
    }

    /// Its stderr, or that of its zygote if the zygote is gone.
    pub(super) fn stderr(&mut self) -> Option<String> {
        self.stderr.text().or_else(|| self.zygote.stderr())
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

    /// Kills it, even if it is reported to have ended.
    pub(super) fn kill(&self) {
        self.member.kill();
    }

    /// Waits for its end; `None` if its zygote died first.
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
