//! A body on its way out: read as far as the other end has room for it.

use super::Wrong;
use super::heads::fields_of;
use crate::wire::{MAX_PART, MIN_ROOM, Part, WINDOW, room_of};
use bytes::Bytes;
use http_body::Body as _;
use http_body_util::BodyExt;
use std::error::Error;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::Notify;
use wrun_sandbox::http::{Body, MAX_FIELDS};

pub(super) struct Outflow {
    /// None once its end was passed on, or it is not wanted any more.
    body: Option<Body>,
    /// Read, and not passed on yet.
    pending: Bytes,
    credit: Arc<Credit>,
}

/// What the other end has room for.
pub(super) struct Credit {
    room: AtomicUsize,
    closed: AtomicBool,
    over: AtomicBool,
    changed: Notify,
}

impl Credit {
    /// `room` is what the other end has room for now.
    pub(super) fn new(room: usize) -> Arc<Self> {
        Arc::new(Credit {
            room: AtomicUsize::new(room),
            closed: AtomicBool::new(false),
            over: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// The other end took as many bytes.
    pub(super) fn taken(&self, bytes: u32) -> Result<(), Wrong> {
        let bytes = bytes as usize;
        let before = self.room.fetch_add(bytes, Ordering::AcqRel);
        if bytes == 0 || before.saturating_add(bytes) > WINDOW {
            return Err("it took more of an HTTP body than was sent");
        }
        self.changed.notify_one();
        Ok(())
    }

    /// The other end wants no more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// The end of the body was passed on, or is not wanted.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire) || self.closed.load(Ordering::Acquire)
    }
}

impl Outflow {
    /// `room` is what the other end has room for now.
    pub(super) fn new(body: Body, room: usize) -> Self {
        Outflow::with(Credit::new(room), body)
    }

    pub(super) fn with(credit: Arc<Credit>, body: Body) -> Self {
        let body = (!body.is_end_stream()).then_some(body);
        if body.is_none() {
            credit.over.store(true, Ordering::Release);
        }
        Outflow {
            credit,
            body,
            pending: Bytes::new(),
        }
    }

    pub(super) fn credit(&self) -> &Arc<Credit> {
        &self.credit
    }

    /// The next part; never, where none may be sent. Cancel safe.
    pub(super) async fn next(&mut self) -> Part {
        loop {
            if self.credit.closed.load(Ordering::Acquire) {
                self.body = None;
                self.pending = Bytes::new();
            }
            let Some(body) = &mut self.body else {
                return pending().await;
            };
            if self.pending.is_empty() {
                // A body that is read is one that its client is asked for (`expect:
                // 100-continue`): not before the other end wants it.
                if self.credit.room.load(Ordering::Acquire) < MIN_ROOM {
                    self.credit.changed.notified().await;
                    continue;
                }
                let frame = tokio::select! {
                    biased;
                    frame = body.frame() => frame,
                    () = self.credit.changed.notified() => continue,
                };
                let part = match frame {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => {
                            self.pending = data;
                            continue;
                        }
                        Err(frame) => match frame.into_trailers() {
                            Ok(trailers) if trailers.len() > MAX_FIELDS => {
                                Part::Failed("it has too many trailers".to_owned())
                            }
                            Ok(trailers) => Part::End(Some(fields_of(&trailers))),
                            Err(_) => Part::End(None),
                        },
                    },
                    None => Part::End(None),
                    Some(Err(error)) => Part::Failed(described(&error)),
                };
                self.body = None;
                self.credit.over.store(true, Ordering::Release);
                return part;
            }
            let room = self.credit.room.load(Ordering::Acquire);
            if room >= MIN_ROOM {
                let len = self.pending.len().min(MAX_PART).min(room);
                self.credit.room.fetch_sub(room_of(len), Ordering::AcqRel);
                return Part::Data(self.pending.split_to(len));
            }
            self.credit.changed.notified().await;
        }
    }
}

/// An error with its causes, of bounded length.
fn described(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text.truncate(text.floor_char_boundary(1_000));
    text
}
