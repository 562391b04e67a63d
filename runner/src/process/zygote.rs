//! A zygote as its runner sees it: a process that has a task loaded and jailed,
//! and forks a worker whenever it is told to.
//!
//! No guest ever runs in it, yet what it says is checked like a worker's.
//! Invariant: every worker it was asked for is answered for once, with its end or
//! with the zygote's own.

use super::channel::{Receiver, Sender};
use super::child::Child;
use super::spawn::Launch;
use super::worker::{Life, Worker};
use crate::jail::JailReport;
use crate::sys::Exit;
use crate::wire::{ControlOrder, ControlSays};
use rustix::process::{Signal, pidfd_send_signal};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

/// A fork takes a fraction of a millisecond; a zygote that has not answered by
/// then never will.
const FORK: Duration = Duration::from_secs(5);

pub(super) struct Zygote {
    orders: tokio::sync::Mutex<Sender>,
    children: Mutex<Children>,
    /// Ends the zygote, and with it every worker of it.
    end: CancellationToken,
    pub(super) jail: Arc<JailReport>,
}

#[derive(Default)]
struct Children {
    next: u64,
    entries: HashMap<u64, Entry>,
    /// The zygote is gone.
    orphaned: bool,
}

struct Entry {
    forked: Option<oneshot::Sender<io::Result<OwnedFd>>>,
    ended: Option<oneshot::Sender<Exit>>,
    _permit: OwnedSemaphorePermit,
}

/// A worker that its zygote started and reaps.
pub(super) struct Forked {
    pidfd: OwnedFd,
    ended: Option<oneshot::Receiver<Exit>>,
    exit: Option<Exit>,
    zygote: Arc<Zygote>,
}

/// Why there is no worker.
#[derive(Debug)]
pub(super) enum NotForked {
    /// The zygote is gone, or had to be ended.
    Gone,
    /// The system refused to fork.
    Refused(io::Error),
}

impl Zygote {
    /// Takes over a started process that said that it is ready to fork. Needs the
    /// context of a tokio runtime.
    pub(super) fn new(launch: Launch, jail: Arc<JailReport>) -> Arc<Self> {
        let Launch {
            child,
            orders,
            says,
            stderr,
        } = launch;
        let zygote = Arc::new(Zygote {
            orders: tokio::sync::Mutex::new(orders),
            children: Mutex::default(),
            end: CancellationToken::new(),
            jail,
        });
        let end = zygote.end.clone();
        let listening = Arc::downgrade(&zygote);
        tokio::spawn(async move {
            // Kept open: writing to it must not fail.
            let _stderr = stderr;
            tokio::select! {
                () = listen(says, &listening) => {}
                () = end.cancelled() => {}
            }
            if let Some(zygote) = listening.upgrade() {
                zygote.orphan();
            }
            reap(child).await;
        });
        zygote
    }

    /// Whether it can still fork.
    pub(super) fn is_alive(&self) -> bool {
        !self.children().orphaned
    }

    /// Ends it and all of its workers.
    pub(super) fn end(&self) {
        self.orphan();
        self.end.cancel();
    }

    /// Has it fork a worker.
    pub(super) async fn fork(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Worker, NotForked> {
        let (ours, theirs) = UnixStream::pair().map_err(NotForked::Refused)?;
        ours.set_nonblocking(true).map_err(NotForked::Refused)?;
        theirs.set_nonblocking(true).map_err(NotForked::Refused)?;
        let (forked, pidfd) = oneshot::channel();
        let (ended, exit) = oneshot::channel();
        let id = {
            let mut children = self.children();
            if children.orphaned {
                return Err(NotForked::Gone);
            }
            let id = children.next;
            children.next += 1;
            let entry = Entry {
                forked: Some(forked),
                ended: Some(ended),
                _permit: permit,
            };
            children.entries.insert(id, entry);
            id
        };
        let asked = tokio::time::timeout(FORK, async {
            let frame = Sender::frame(&ControlOrder::Fork(id)).map_err(io::Error::other)?;
            let mut orders = self.orders.lock().await;
            orders.send(&frame, &[theirs.as_fd()]).await?;
            drop(orders);
            pidfd.await.map_err(io::Error::other)
        })
        .await;
        let pidfd = match asked {
            Ok(Ok(Ok(pidfd))) => pidfd,
            Ok(Ok(Err(errno))) => return Err(NotForked::Refused(errno)),
            Ok(Err(_)) | Err(_) => {
                self.end();
                return Err(NotForked::Gone);
            }
        };
        let life = Life::Forked(Forked {
            pidfd,
            ended: Some(exit),
            exit: None,
            zygote: self.clone(),
        });
        Worker::new(life, ours).map_err(NotForked::Refused)
    }

    fn children(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers for every worker that is not answered for: nobody will say more.
    fn orphan(&self) {
        let entries = {
            let mut children = self.children();
            children.orphaned = true;
            std::mem::take(&mut children.entries)
        };
        drop(entries);
    }

    /// Takes one message; `false` when it makes no sense.
    fn heard(&self, message: ControlSays, pidfd: Option<OwnedFd>) -> bool {
        let mut children = self.children();
        match (message, pidfd) {
            (ControlSays::Forked(id), Some(pidfd)) => children
                .entries
                .get_mut(&id)
                .and_then(|entry| entry.forked.take())
                // Whoever asked may be gone: the worker's socket is closed then.
                .map(|forked| drop(forked.send(Ok(pidfd))))
                .is_some(),
            (ControlSays::NotForked(id, errno), None) => children
                .entries
                .remove(&id)
                .and_then(|entry| entry.forked)
                .map(|forked| drop(forked.send(Err(io::Error::from_raw_os_error(errno)))))
                .is_some(),
            (ControlSays::Ended(id, exit), None) => children
                .entries
                .remove(&id)
                .and_then(|mut entry| entry.ended.take())
                .map(|ended| {
                    let _ = ended.send(exit);
                })
                .is_some(),
            _ => false,
        }
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// Hears what a zygote says until it is gone or makes no sense.
async fn listen(mut says: Receiver, zygote: &std::sync::Weak<Zygote>) {
    while let Ok(message) = says.next_with_descriptors::<ControlSays>().await {
        let count = usize::from(matches!(message, ControlSays::Forked(_)));
        let Ok(mut descriptors) = says.take(count) else {
            return;
        };
        let Some(zygote) = zygote.upgrade() else {
            return;
        };
        if !zygote.heard(message, descriptors.pop()) {
            return;
        }
    }
}

/// A zygote that lost its socket ends, and takes its workers along.
async fn reap(mut child: Child) {
    child.kill();
    child.wait().await;
}

impl Forked {
    /// The worker's process number, where the kernel says.
    pub(super) fn id(&self) -> Option<u32> {
        crate::sys::pid_of(self.pidfd.as_fd())
    }

    pub(super) fn zygote(&self) -> &Arc<Zygote> {
        &self.zygote
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

    pub(super) fn kill(&self) {
        if self.ended.is_some() {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
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

impl Drop for Forked {
    fn drop(&mut self) {
        self.kill();
    }
}
