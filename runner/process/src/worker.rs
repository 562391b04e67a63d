//! One worker process as its runner sees it: its socket, its life, its end.
//!
//! Invariant: a [`Worker`] that is dropped is killed and reaped, by its zygote or
//! by this process.

use super::census::Counted;
use super::channel::{Receiver, Sender, split};
use super::child::Child;
use super::owners::Owners;
use super::plain::SentOrder;
use super::spawn::Launch;
use super::stderr::StderrCapture;
use super::zygote::{Born, Forked};
use std::sync::Arc;
use wrun_sys::{End, Exit};
use wrun_types::config::Start;
use wrun_types::jail_report::JailReport;
use wrun_types::outcome::Crash;

/// A worker that waits for an order, or has one.
pub(super) struct Worker {
    pub(super) life: Life,
    pub(super) orders: Sender,
    pub(super) says: Receiver,
    /// Tasks it has run.
    pub(super) tasks: u32,
    /// It was made ahead, and waits to be ended once it is done.
    pub(super) spare: bool,
    /// Memory that its walls leave a task, once they are tight.
    pub(super) memory: Option<u64>,
    /// Its order, if that was sent before the worker existed.
    pub(super) sent_order: Option<SentOrder>,
}

/// The process itself, by the process that reaps it.
pub(super) enum Life {
    Forked(Forked),
    Started {
        child: Child,
        jail: Arc<JailReport>,
        stderr: StderrCapture,
        owners: Option<Arc<Owners>>,
        _counted: Counted,
    },
}

impl Worker {
    /// A worker that its zygote has just forked.
    pub(super) fn forked(born: Born) -> Self {
        let (says, orders) = split(born.socket);
        Worker {
            life: Life::Forked(born.forked),
            orders,
            says,
            tasks: 0,
            spare: false,
            memory: None,
            sent_order: born.sent_order,
        }
    }

    /// A program that was started and reported that it is ready.
    pub(super) fn started(launch: Launch, jail: Arc<JailReport>, counted: Counted) -> Self {
        Worker {
            life: Life::Started {
                child: launch.child,
                jail,
                stderr: launch.stderr,
                owners: launch.owners,
                _counted: counted,
            },
            orders: launch.orders,
            says: launch.says,
            tasks: 0,
            spare: false,
            memory: None,
            sent_order: None,
        }
    }
}

impl Life {
    pub(super) fn id(&self) -> Option<u32> {
        match self {
            Life::Forked(forked) => forked.id(),
            Life::Started { child, .. } => Some(child.id()),
        }
    }

    pub(super) fn start(&self) -> Start {
        match self {
            Life::Forked(_) => Start::Fork,
            Life::Started { .. } => Start::Exec,
        }
    }

    pub(super) fn jail(&self) -> Arc<JailReport> {
        match self {
            Life::Forked(forked) => forked.zygote().jail.clone(),
            Life::Started { jail, .. } => jail.clone(),
        }
    }

    /// How it sees granted directories; `None` if they are as on disk.
    pub(super) fn owners(&self) -> Option<Arc<Owners>> {
        match self {
            Life::Forked(forked) => forked.zygote().owners.clone(),
            Life::Started { owners, .. } => owners.clone(),
        }
    }

    pub(super) fn is_dead(&mut self) -> bool {
        match self {
            Life::Forked(forked) => forked.is_dead(),
            Life::Started { child, .. } => child.is_dead(),
        }
    }

    /// The signal that stopped it, if nothing else checks that: a zygote ends stopped
    /// workers.
    pub(super) fn stopped_by(&mut self) -> Option<i32> {
        match self {
            Life::Forked(_) => None,
            Life::Started { child, .. } => child.stopped_by(),
        }
    }

    /// Reads what it wrote to its stderr, so that the pipe does not fill up.
    pub(super) fn read_stderr(&mut self) {
        match self {
            Life::Forked(forked) => forked.read_stderr(),
            Life::Started { stderr, .. } => stderr.read_available(),
        }
    }

    /// A crash of it, with its stderr.
    pub(super) fn crashed(&mut self, how: Crash) -> Crash {
        let stderr = match self {
            Life::Forked(forked) => forked.stderr(),
            Life::Started { stderr, .. } => stderr.text(),
        };
        how.with_words(stderr)
    }

    /// Kills it; it may be dead already.
    pub(super) fn kill(&self) {
        match self {
            Life::Forked(forked) => forked.kill(),
            Life::Started { child, .. } => child.kill(),
        }
    }

    /// Waits until it is dead and reaped; `None` if it is unknown how it ended.
    pub(super) async fn wait(&mut self) -> Option<Exit> {
        match self {
            Life::Forked(forked) => forked.wait().await,
            Life::Started { child, .. } => child.wait().await,
        }
    }
}

/// The crash for an exit.
pub(super) fn crash_of(exit: Option<Exit>) -> Crash {
    match exit.map(|exit| exit.end) {
        None => Crash::Lost,
        Some(End::Signal(signal) | End::Stopped(signal)) => Crash::Signal(signal),
        Some(End::Status(status)) => Crash::Exit(status),
    }
}
