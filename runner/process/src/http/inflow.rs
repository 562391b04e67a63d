//! A body on its way in: what arrived of it, for its reader, and what the other end is told
//! of that.

use super::Wrong;
use super::heads::map_of;
use crate::wire::{MAX_PART, Part, WINDOW, room_of};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use wrun_sandbox::http::{Body, BodyError};

/// When this many bytes were taken, the other end is told.
const TELL_AT: usize = WINDOW / 4;

type Arrived = Result<Option<Frame<Bytes>>, BodyError>;

/// Where the parts of a body arrive. Dropped before the body's end, it makes the body fail
/// for its reader.
pub(super) struct Inflow {
    /// None once the body came to an end. Bounded by the room.
    reader: Option<UnboundedSender<Arrived>>,
    reading: Arc<Reading>,
}

/// How far the reader is.
pub(super) struct Reading {
    /// The length of the body; all ones where it is not known.
    len: AtomicU64,
    /// Bytes that may arrive, where each part counts as [`room_of`] says.
    room: AtomicUsize,
    /// Bytes that were taken, counted the same way, and of which the other end was not told.
    taken: AtomicUsize,
    /// The reader is gone.
    closed: AtomicBool,
    /// The body came to an end, or the other end was told that no more is wanted.
    over: AtomicBool,
    changed: Notify,
}

/// What the reader has.
struct Arriving {
    parts: UnboundedReceiver<Arrived>,
    reading: Arc<Reading>,
    /// Bytes that may arrive once the body is wanted.
    at_first: usize,
    over: bool,
    /// Bytes that were read.
    read: u64,
}

impl Inflow {
    /// A body, and where it arrives. Where it `waits`, nothing may arrive before the body is
    /// read.
    pub(super) fn new(waits: bool) -> (Self, Body) {
        let (reader, parts) = unbounded_channel();
        let (room, at_first) = if waits { (0, WINDOW) } else { (WINDOW, 0) };
        let reading = Arc::new(Reading {
            len: AtomicU64::new(u64::MAX),
            room: AtomicUsize::new(room),
            taken: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            over: AtomicBool::new(false),
            changed: Notify::new(),
        });
        let body = Arriving {
            parts,
            reading: reading.clone(),
            at_first,
            over: false,
            read: 0,
        };
        let inflow = Inflow {
            reader: Some(reader),
            reading,
        };
        (inflow, body.boxed_unsync())
    }

    /// The body of a request, if it `has` one, and where that arrives; see [`Inflow::new`].
    pub(super) fn of_request(
        has: bool,
        waits: bool,
        head: &HeaderMap,
    ) -> Result<(Self, Body), Wrong> {
        let (mut inflow, body) = Inflow::new(waits);
        if has {
            inflow.reading.is_long(head);
            return Ok((inflow, body));
        }
        inflow.put(Part::End(None))?;
        let nothing = Empty::new().map_err(|never| match never {});
        Ok((inflow, nothing.boxed_unsync()))
    }

    pub(super) fn reading(&self) -> &Arc<Reading> {
        &self.reading
    }

    /// The body came to an end, good or bad.
    pub(super) fn is_over(&self) -> bool {
        self.reader.is_none()
    }

    /// The body came to an end, or its reader is gone.
    pub(super) fn is_done(&self) -> bool {
        self.is_over() || self.reading.closed.load(Ordering::Acquire)
    }

    /// Takes a part that arrived; the bytes of data in it.
    pub(super) fn put(&mut self, part: Part) -> Result<usize, Wrong> {
        let Some(reader) = &self.reader else {
            return Err("it sent more of an HTTP body that had ended");
        };
        let (arrived, len) = match part {
            Part::Data(data) => {
                let len = data.len();
                let room = self.reading.room.load(Ordering::Acquire);
                if len == 0 || len > MAX_PART || room_of(len) > room {
                    return Err("it sent more of an HTTP body than there was room for");
                }
                self.reading.room.fetch_sub(room_of(len), Ordering::AcqRel);
                (Ok(Some(Frame::data(data))), len)
            }
            Part::End(None) => (Ok(None), 0),
            Part::End(Some(trailers)) => (Ok(Some(Frame::trailers(map_of(trailers)?))), 0),
            Part::Failed(why) => (Err(BodyError::new(why)), 0),
            Part::Taken(_) | Part::Closed => return Err("it sent no part of an HTTP body"),
        };
        // A reader that is gone wants nothing of it.
        let _ = reader.send(arrived);
        if len == 0 {
            self.reader = None;
            self.reading.over.store(true, Ordering::Release);
        }
        Ok(len)
    }
}

impl Reading {
    /// The body is as long as its head says.
    pub(super) fn is_long(&self, head: &HeaderMap) {
        let len = head.get(CONTENT_LENGTH);
        let len = len.and_then(|len| len.to_str().ok()?.parse().ok());
        self.len.store(len.unwrap_or(u64::MAX), Ordering::Release);
    }

    /// What the other end is told next; never, where there is nothing. Cancel safe.
    pub(super) async fn next(&self) -> Part {
        while !self.over.load(Ordering::Acquire) {
            if self.closed.load(Ordering::Acquire) {
                self.over.store(true, Ordering::Release);
                return Part::Closed;
            }
            let taken = self.taken.swap(0, Ordering::AcqRel);
            if taken >= TELL_AT {
                self.room.fetch_add(taken, Ordering::AcqRel);
                return Part::Taken(u32::try_from(taken).unwrap_or(u32::MAX));
            }
            self.taken.fetch_add(taken, Ordering::AcqRel);
            self.changed.notified().await;
        }
        pending().await
    }

    fn took(&self, bytes: usize) {
        let before = self.taken.fetch_add(bytes, Ordering::AcqRel);
        if before + bytes >= TELL_AT {
            self.changed.notify_one();
        }
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let at_first = std::mem::take(&mut self.at_first);
        if at_first > 0 {
            self.reading.took(at_first);
        }
        let arrived = ready!(self.parts.poll_recv(cx));
        let arrived =
            arrived.unwrap_or_else(|| Err(BodyError::new("the task ended before the body did")));
        if let Ok(Some(frame)) = &arrived
            && let Some(data) = frame.data_ref()
        {
            let len = data.len();
            self.read = self.read.saturating_add(len as u64);
            self.reading.took(room_of(len));
        } else {
            self.over = true;
        }
        Poll::Ready(arrived.transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }

    fn size_hint(&self) -> SizeHint {
        match self.reading.len.load(Ordering::Acquire) {
            u64::MAX => SizeHint::default(),
            len => SizeHint::with_exact(len.saturating_sub(self.read)),
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.reading.closed.store(true, Ordering::Release);
        self.reading.changed.notify_one();
    }
}
