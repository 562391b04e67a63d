//! New attempts at a task whose worker died: whether one is possible, its input, and the
//! pause before it.
//!
//! Invariant: nothing is lost or duplicated. A new attempt sees the same input from its
//! beginning, and no output of the one before was read.

use bytes::Bytes;
use rand::TryRng;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use wrun_sandbox::InputKind;
use wrun_sandbox::Progress;
use wrun_sandbox::executor::Job;
use wrun_sys::Unpoisoned;

/// The pause before the second attempt; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A task that may be attempted again.
pub(crate) struct Retry {
    /// The template of attempts; its own input is empty.
    order: Box<Job>,
    input: Replay,
    left: u32,
    pause: Duration,
    /// It had a port, over which messages may have been sent.
    talked: bool,
    /// It had a request, which may have been read or answered in part.
    exchanged: bool,
}

/// Input for one attempt after another.
enum Replay {
    Bytes(Bytes),
    Reader(Arc<Shared>),
}

struct Shared {
    reader: Mutex<Box<dyn AsyncRead + Send + Unpin>>,
    /// Bytes were taken from it, or it failed.
    begun: AtomicBool,
}

/// A reader as lent to one attempt.
struct Lent(Arc<Shared>);

impl Retry {
    /// At most `retries` attempts after the first.
    pub(crate) fn new(mut job: Box<Job>, retries: u32) -> Self {
        let input = match std::mem::replace(&mut job.stdin, InputKind::Bytes(Bytes::new())) {
            InputKind::Bytes(bytes) => Replay::Bytes(bytes),
            InputKind::Reader(reader) => Replay::Reader(Arc::new(Shared {
                reader: Mutex::new(reader),
                begun: AtomicBool::new(false),
            })),
        };
        Retry {
            talked: job.port.is_some(),
            exchanged: job.exchange.is_some(),
            order: job,
            input,
            left: retries,
            pause: FIRST_PAUSE,
        }
    }

    /// The number of the attempt that [`Retry::job`] makes, from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.order.attempt
    }

    /// The attempt.
    pub(crate) fn job(&mut self) -> Box<Job> {
        let order = &mut self.order;
        let port = order.port.take();
        Box::new(Job {
            task_id: order.task_id,
            attempt: order.attempt,
            artifact: order.artifact.clone(),
            spec: order.spec.clone(),
            deadline: order.deadline,
            stdin: match &self.input {
                Replay::Bytes(bytes) => InputKind::Bytes(bytes.clone()),
                Replay::Reader(shared) => InputKind::Reader(Box::new(Lent(shared.clone()))),
            },
            stdout: order.stdout.clone(),
            stderr: order.stderr.clone(),
            exchange: order.exchange.take(),
            cancel: order.cancel.clone(),
            kill: order.kill.clone(),
            progress: order.progress.clone(),
            port,
            services: order.services.clone(),
            alone: order.alone,
        })
    }

    /// Whether all allowed attempts were made.
    pub(crate) fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Why the task cannot be attempted again, if so.
    pub(crate) fn obstacle(&self) -> Option<&'static str> {
        if self.order.cancel.is_cancelled() {
            Some("the task was asked to stop")
        } else if self.talked {
            Some("it had a port, and messages may have been sent over it")
        } else if self.exchanged {
            Some("it had an HTTP request, some of which may have been read or answered")
        } else if self.order.services.children_started() > 0 {
            Some("it started child tasks")
        } else if self.order.services.has_joined() {
            Some("it joined a broadcast channel")
        } else if matches!(&self.input, Replay::Reader(it) if it.begun.load(Ordering::Acquire)) {
            Some("its input is a stream, and some of it was read")
        } else if self.order.stdout.has_handed_on() || self.order.stderr.has_handed_on() {
            Some("its output is a stream, and some of it was handed on")
        } else {
            None
        }
    }

    /// Releases what the previous attempt held in its runner.
    pub(crate) fn let_go(&self) {
        self.order.services.unlock_all();
    }

    /// Waits until the host requests the task to stop.
    pub(crate) fn asked_to_stop(&self) -> impl Future<Output = ()> + Send + use<> {
        self.order.cancel.clone().cancelled_owned()
    }

    /// Prepares the next attempt, as if the previous one had not happened. There must be no
    /// obstacle, and nothing left of the previous one.
    pub(crate) fn begin_next(&mut self) {
        self.left = self.left.saturating_sub(1);
        self.order.attempt = self.order.attempt.saturating_add(1);
        self.order.stdout.reset();
        self.order.stderr.reset();
        if let Some(tell) = &self.order.progress {
            tell(Progress::default());
        }
    }

    /// How long to wait now: tasks whose workers died of the same cause should not all
    /// return at the same moment.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        // Between half of it and all of it.
        let dice = rand::rngs::SysRng.try_next_u32().unwrap_or(u32::MAX);
        pause.mul_f64(0.5 + f64::from(dice) / f64::from(u32::MAX) / 2.0)
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = {
            let mut reader = self.0.reader.lock().unpoisoned();
            ready!(Pin::new(&mut **reader).poll_read(cx, buf))
        };
        // If the end came first, the next attempt sees it again.
        if polled.is_err() || buf.filled().len() > before {
            self.0.begun.store(true, Ordering::Release);
        }
        Poll::Ready(polled)
    }
}
