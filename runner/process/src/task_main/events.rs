//! Events of the running guest that its worker reports, and its input, whose first read is
//! such an event.

use crate::wire::Input;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wrun_sandbox::{InputKind, Progress};
use wrun_sys::Unpoisoned;

/// The events of the running guest since the worker's last message.
#[derive(Default)]
pub(super) struct GuestEvents {
    input: AtomicBool,
    input_failed: CancellationToken,
    input_failure: Mutex<String>,
    progress: Mutex<Option<Progress>>,
    changed: Notify,
}

impl GuestEvents {
    /// The guest reported its progress.
    pub(super) fn note(&self, progress: Progress) {
        *self.latest() = Some(progress);
        self.changed.notify_one();
    }

    pub(super) fn has_progress(&self) -> bool {
        self.latest().is_some()
    }

    /// The latest progress that was not sent yet.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.latest().take()
    }

    fn latest(&self) -> MutexGuard<'_, Option<Progress>> {
        self.progress.lock().unpoisoned()
    }

    /// Whether the guest wants its input; `true` only once.
    pub(super) fn wants_input(&self) -> bool {
        self.input.swap(false, Ordering::Relaxed)
    }

    /// The rest of the input cannot be read.
    pub(super) fn fail_input(&self, why: String) {
        *self.failure() = why;
        self.input_failed.cancel();
    }

    fn failure(&self) -> MutexGuard<'_, String> {
        self.input_failure.lock().unpoisoned()
    }

    /// Waits until there may be a new event.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// The guest's input, from its order or from the pipe that came with it.
pub(super) fn input_of(
    input: Input,
    stdin: Option<OwnedFd>,
    events: &Arc<GuestEvents>,
) -> io::Result<InputKind> {
    match (input, stdin) {
        (Input::Inline(bytes), _) => Ok(InputKind::Bytes(bytes)),
        (Input::Pipe, stdin) => {
            let stdin = stdin.ok_or_else(|| io::Error::other("no pipe for the input"))?;
            Ok(InputKind::Reader(Box::new(WantedInput {
                pipe: pipe::Receiver::from_owned_fd(stdin)?,
                events: Some(events.clone()),
                failed: Box::pin(events.input_failed.clone().cancelled_owned()),
                failure: events.clone(),
            })))
        }
    }
}

/// The guest's stdin, which reports when it is first read.
struct WantedInput {
    pipe: pipe::Receiver,
    events: Option<Arc<GuestEvents>>,
    failed: Pin<Box<WaitForCancellationFutureOwned>>,
    failure: Arc<GuestEvents>,
}

impl AsyncRead for WantedInput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(events) = self.events.take() {
            events.input.store(true, Ordering::Relaxed);
            events.changed.notify_one();
        }
        if let Poll::Ready(read) = Pin::new(&mut self.pipe).poll_read(cx, buf) {
            return Poll::Ready(read);
        }
        ready!(self.failed.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::other(self.failure.failure().clone())))
    }
}
