//! Where a guest's output goes, the same in both modes.
//!
//! Invariant: a sink takes at most its budget; a channel holds at most [`CHANNEL`] chunks
//! of at most [`CHUNK`] bytes, so a slow reader makes the guest wait instead of filling
//! memory.

use crate::turn::Turn;
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wrun_sys::Unpoisoned;

/// Maximum size of a chunk.
pub const CHUNK: usize = 64 << 10;
/// Maximum of chunks that wait in a channel.
pub(crate) const CHANNEL: usize = 16;

/// Where a guest's output goes. Clones write to the same place; the reader of a
/// channel sees its end when the last clone is gone.
#[derive(Clone)]
pub struct Sink(Arc<SinkState>);

struct SinkState {
    target: Target,
    /// Bytes that may still be written.
    budget: AtomicU64,
    accepted: AtomicU64,
    exceeded: AtomicBool,
    /// Other writers use this channel beside a guest.
    shared: AtomicBool,
    /// Room in a shared channel that was promised to the guest.
    permit: Mutex<Option<mpsc::OwnedPermit<Bytes>>>,
}

/// Most tasks have one.
type Chunks = SmallVec<[Bytes; 1]>;

enum Target {
    Capture(Mutex<Chunks>),
    Channel(mpsc::Sender<Bytes>),
    Null,
}

/// The error inside a trap when a guest writes beyond its budget.
#[derive(Debug, thiserror::Error)]
#[error("output limit exceeded")]
pub(crate) struct OutputExceeded;

impl Sink {
    /// Keeps the output.
    pub fn capture(budget: u64) -> Self {
        Sink::new(Target::Capture(Mutex::default()), budget)
    }

    /// Passes the output on.
    pub fn channel(budget: Option<u64>) -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let sink = Sink::new(Target::Channel(sender), budget.unwrap_or(u64::MAX));
        (sink, receiver)
    }

    /// Discards the output.
    pub fn null(budget: Option<u64>) -> Self {
        Sink::new(Target::Null, budget.unwrap_or(u64::MAX))
    }

    /// Another sink with its own budget, whose bytes join those of this one in the order in
    /// which they are written; `None` if this one is not a channel.
    pub fn beside(&self, budget: Option<u64>) -> Option<Self> {
        let Target::Channel(sender) = &self.0.target else {
            return None;
        };
        let sink = Sink::new(Target::Channel(sender.clone()), budget.unwrap_or(u64::MAX));
        self.share();
        sink.share();
        Some(sink)
    }

    /// Whether its bytes join those of `other`.
    pub fn joins(&self, other: &Sink) -> bool {
        match (&self.0.target, &other.0.target) {
            (Target::Channel(ours), Target::Channel(theirs)) => ours.same_channel(theirs),
            _ => false,
        }
    }

    fn new(target: Target, budget: u64) -> Self {
        Sink(Arc::new(SinkState {
            target,
            budget: AtomicU64::new(budget),
            accepted: AtomicU64::new(0),
            exceeded: AtomicBool::new(false),
            shared: AtomicBool::new(false),
            permit: Mutex::default(),
        }))
    }

    /// The writer for tokio.
    pub(super) fn writer(&self) -> impl AsyncWrite + Send + Sync + use<> {
        SinkWriter {
            sink: self.clone(),
            waiting: None,
        }
    }

    /// From now on others write here, too: room that is promised to a guest is kept for it.
    pub fn share(&self) {
        let Target::Channel(sender) = &self.0.target else {
            return;
        };
        if !self.0.shared.swap(true, Ordering::AcqRel) {
            *lock(&self.0.permit) = sender.clone().try_reserve_owned().ok();
        }
    }

    fn is_shared(&self) -> bool {
        self.0.shared.load(Ordering::Acquire)
    }

    /// Whether more than the budget was written.
    pub fn exceeded(&self) -> bool {
        self.0.exceeded.load(Ordering::Relaxed)
    }

    /// Bytes taken so far.
    pub fn accepted(&self) -> u64 {
        self.0.accepted.load(Ordering::Relaxed)
    }

    /// Whether it keeps the output.
    pub fn is_capture(&self) -> bool {
        matches!(self.0.target, Target::Capture(_))
    }

    /// Whether writing may have to wait for a reader.
    pub fn is_channel(&self) -> bool {
        matches!(self.0.target, Target::Channel(_))
    }

    /// Whether bytes have been passed to a reader and cannot be taken back.
    pub fn has_handed_on(&self) -> bool {
        matches!(self.0.target, Target::Channel(_)) && self.accepted() > 0
    }

    /// Discards output that no reader has yet: for a new attempt, while nothing writes.
    pub fn reset(&self) {
        self.take();
        let spent = self.0.accepted.swap(0, Ordering::Relaxed);
        self.0.budget.fetch_add(spent, Ordering::Relaxed);
        self.0.exceeded.store(false, Ordering::Relaxed);
    }

    fn take_chunks(&self) -> Chunks {
        match &self.0.target {
            Target::Capture(chunks) => std::mem::take(&mut *lock(chunks)),
            Target::Channel(_) | Target::Null => Chunks::new(),
        }
    }

    /// Takes out the captured output.
    pub fn take(&self) -> Bytes {
        let mut chunks = self.take_chunks();
        match chunks.len() {
            0 => Bytes::new(),
            1 => chunks.swap_remove(0),
            _ => chunks.concat().into(),
        }
    }

    /// [`Sink::take`] on a thread that other tasks need, too.
    pub async fn take_in_turns(&self) -> Bytes {
        let mut chunks = self.take_chunks();
        if chunks.len() < 2 {
            return chunks.pop().unwrap_or_default();
        }
        let mut all = Vec::with_capacity(chunks.iter().map(Bytes::len).sum());
        let mut turn = Turn::new();
        for chunk in chunks {
            all.extend_from_slice(&chunk);
            turn.spend(chunk.len());
            turn.give_way().await;
        }
        all.into()
    }

    /// Writes all of `bytes`, waiting for room; `false` if the budget or the reader ended
    /// first.
    pub async fn put(&self, bytes: Bytes) -> bool {
        self.put_joined(None, bytes).await
    }

    /// [`Sink::put`] of bytes that may also be those of `other`, which joins this one:
    /// bytes beyond the budget of this one are taken off the budget of the other.
    pub async fn put_joined(&self, other: Option<&Sink>, mut bytes: Bytes) -> bool {
        let allowed = match other {
            Some(other) => {
                let ours = self.take_off(bytes.len());
                ours + other.spend(bytes.len() - ours)
            }
            None => self.spend(bytes.len()),
        };
        let within = allowed == bytes.len();
        bytes.truncate(allowed);
        match &self.0.target {
            Target::Null => {}
            Target::Capture(_) => self.store(bytes),
            Target::Channel(sender) => {
                while !bytes.is_empty() {
                    let chunk = bytes.split_to(bytes.len().min(CHUNK));
                    if sender.send(chunk).await.is_err() {
                        return false;
                    }
                }
            }
        }
        within
    }

    /// Takes up to `len` bytes off the budget; returns how many. Fewer means that the
    /// budget is exceeded.
    fn spend(&self, len: usize) -> usize {
        let allowed = self.take_off(len);
        if allowed < len {
            self.0.exceeded.store(true, Ordering::Relaxed);
        }
        allowed
    }

    /// Takes up to `len` bytes off the budget; returns how many.
    fn take_off(&self, len: usize) -> usize {
        let mut allowed = 0;
        let _ = self
            .0
            .budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |budget| {
                allowed = (len as u64).min(budget);
                Some(budget - allowed)
            });
        self.0.accepted.fetch_add(allowed, Ordering::Relaxed);
        usize::try_from(allowed).unwrap_or(len)
    }

    fn store(&self, bytes: Bytes) {
        let Target::Capture(chunks) = &self.0.target else {
            return;
        };
        let mut chunks = lock(chunks);
        // Small writes are merged, so that a guest that writes single bytes costs bytes and not
        // allocations; a large write is kept as it is, without a copy.
        match chunks.last_mut() {
            _ if bytes.is_empty() => {}
            Some(last) if bytes.len() < CHUNK && last.len() < CHUNK => {
                let mut merged = match std::mem::take(last).try_into_mut() {
                    Ok(merged) => merged,
                    Err(shared) => BytesMut::from(&shared[..]),
                };
                merged.extend_from_slice(&bytes);
                *last = merged.freeze();
            }
            _ => chunks.push(bytes),
        }
    }

    /// How much a guest may write now; 0 means wait.
    fn room(&self) -> Result<usize, StreamError> {
        match &self.0.target {
            Target::Channel(sender) if sender.is_closed() => Err(StreamError::Closed),
            Target::Channel(sender) if self.is_shared() => {
                let mut permit = lock(&self.0.permit);
                if permit.is_none() {
                    *permit = sender.clone().try_reserve_owned().ok();
                }
                Ok(if permit.is_some() { CHUNK } else { 0 })
            }
            Target::Channel(sender) if sender.capacity() == 0 => Ok(0),
            Target::Channel(_) => Ok(CHUNK),
            Target::Capture(_) | Target::Null => Ok(CHUNK),
        }
    }

    async fn room_ready(&self) {
        if let Target::Channel(sender) = &self.0.target {
            if self.is_shared() {
                if lock(&self.0.permit).is_none() {
                    let permit = sender.clone().reserve_owned().await.ok();
                    *lock(&self.0.permit) = permit;
                }
                return;
            }
            // The permit is returned: only this guest writes here, so the room is still there
            // when it does.
            let _ = sender.reserve().await;
        }
    }

    fn write_now(&self, mut bytes: Bytes) -> Result<(), StreamError> {
        let allowed = self.spend(bytes.len());
        let within = allowed == bytes.len();
        bytes.truncate(allowed);
        match &self.0.target {
            Target::Null => {}
            Target::Capture(_) => self.store(bytes),
            Target::Channel(sender) if !bytes.is_empty() => {
                if let Some(permit) = lock(&self.0.permit).take() {
                    permit.send(bytes);
                    return if within {
                        Ok(())
                    } else {
                        Err(StreamError::Trap(OutputExceeded.into()))
                    };
                }
                sender.try_send(bytes).map_err(|error| match error {
                    mpsc::error::TrySendError::Full(_) => {
                        StreamError::trap("write without a permit")
                    }
                    mpsc::error::TrySendError::Closed(_) => StreamError::Closed,
                })?;
            }
            Target::Channel(_) => {}
        }
        if within {
            Ok(())
        } else {
            Err(StreamError::Trap(OutputExceeded.into()))
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unpoisoned()
}

#[async_trait::async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {
        self.room_ready().await;
    }
}

impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > CHUNK {
            return Err(StreamError::trap("write beyond the permit"));
        }
        self.write_now(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.room()
    }
}

/// A sink as tokio sees it.
struct SinkWriter {
    sink: Sink,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl AsyncWrite for SinkWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            match self.sink.room() {
                Err(_) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Ok(0) => {
                    let sink = self.sink.clone();
                    self.waiting = Some(Box::pin(async move { sink.room_ready().await }));
                }
                Ok(room) => {
                    let len = bytes.len().min(room);
                    let chunk = Bytes::copy_from_slice(&bytes[..len]);
                    return Poll::Ready(match self.sink.write_now(chunk) {
                        Ok(()) => Ok(len),
                        Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
                    });
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn capture_stops_at_its_budget() {
        let sink = Sink::capture(5);
        assert!(sink.put("abc".into()).await);
        assert!(!sink.put("defg".into()).await);
        assert!(sink.exceeded());
        assert_eq!(sink.take(), "abcde");
        assert_eq!(sink.take_in_turns().await, "");
        let sink = Sink::capture(u64::MAX);
        for byte in 0..9 {
            assert!(sink.put(vec![byte; CHUNK].into()).await);
        }
        let all: Vec<u8> = (0..9).flat_map(|byte| vec![byte; CHUNK]).collect();
        assert_eq!(sink.take_in_turns().await, all);
    }

    #[tokio::test]
    async fn what_is_forgotten_costs_nothing() {
        let sink = Sink::capture(5);
        assert!(!sink.put("123456".into()).await);
        sink.reset();
        assert!(!sink.exceeded() && !sink.has_handed_on());
        assert!(sink.put("abcde".into()).await);
        assert_eq!(sink.take(), "abcde");
        let (sink, _receiver) = Sink::channel(None);
        assert!(!sink.has_handed_on());
        assert!(sink.put("x".into()).await);
        assert!(sink.has_handed_on());
    }

    #[tokio::test]
    async fn what_is_joined_keeps_its_order_and_its_budgets() {
        let (out, mut chunks) = Sink::channel(Some(4));
        let err = out.beside(Some(3)).expect("a channel");
        assert!(out.joins(&err) && err.joins(&out));
        assert!(!out.joins(&Sink::channel(None).0));
        assert!(Sink::null(None).beside(None).is_none());
        for (sink, text) in [(&out, "o1"), (&err, "e1"), (&out, "o2"), (&err, "e")] {
            assert_eq!(sink.room().expect("open"), CHUNK);
            sink.write_now(text.into()).expect("within its budget");
        }
        assert!(err.write_now("x".into()).is_err());
        assert!(err.exceeded() && !out.exceeded());
        drop((out, err));
        let mut seen = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            seen.extend_from_slice(&chunk);
        }
        assert_eq!(seen, b"o1e1o2e");

        let (out, mut chunks) = Sink::channel(Some(4));
        let err = out.beside(Some(3)).expect("a channel");
        assert!(out.put_joined(Some(&err), "123456".into()).await);
        assert!(!out.put_joined(Some(&err), "78".into()).await);
        assert!(err.exceeded() && !out.exceeded());
        drop((out, err));
        assert_eq!(chunks.recv().await.expect("first"), "123456");
        assert_eq!(chunks.recv().await.expect("second"), "7");
        assert_eq!(chunks.recv().await, None);
    }

    #[tokio::test]
    async fn a_slow_reader_makes_the_writer_wait() {
        let (sink, mut receiver) = Sink::channel(None);
        for _ in 0..CHANNEL {
            assert_eq!(sink.room().expect("open"), CHUNK);
            sink.write_now("x".into()).expect("room");
        }
        assert_eq!(sink.room().expect("open"), 0);
        assert_eq!(receiver.recv().await.expect("first"), "x");
        sink.room_ready().await;
        assert_eq!(sink.room().expect("open"), CHUNK);
        drop(receiver);
        assert!(matches!(sink.room(), Err(StreamError::Closed)));
    }
}
