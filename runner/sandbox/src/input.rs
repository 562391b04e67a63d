//! Where a guest's input comes from, the same in both modes.
//!
//! Invariant: nothing is read before the guest reads, and nothing beyond its budget reaches
//! the guest.

use super::sink::CHUNK;
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};
use wrun_sys::Unpoisoned;
use wrun_types::limits::Limit;

/// The input of a task, of any origin.
pub enum InputKind {
    Bytes(Bytes),
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

/// Where a guest's input comes from. Clones read the same stream.
#[derive(Clone)]
pub struct Source(Arc<SourceState>);

struct SourceState {
    stream: tokio::sync::Mutex<Stream>,
    exceeded: AtomicBool,
}

struct Stream {
    reader: Option<SyncReader>,
    buffer: Bytes,
    /// Bytes that may still be read.
    budget: u64,
    failed: Option<io::Error>,
}

/// Why the whole input could not be read.
#[derive(Debug)]
pub enum SourceError {
    Exceeded,
    Read(io::Error),
}

impl Source {
    pub fn new(input: InputKind, budget: Option<u64>) -> Self {
        let budget = budget.unwrap_or(u64::MAX);
        let mut exceeded = false;
        let stream = match input {
            InputKind::Bytes(mut bytes) => {
                exceeded = bytes.len() as u64 > budget;
                bytes.truncate(usize::try_from(budget).unwrap_or(usize::MAX));
                Stream {
                    reader: None,
                    buffer: bytes,
                    budget: 0,
                    failed: None,
                }
            }
            InputKind::Reader(reader) => Stream {
                reader: Some(SyncReader(Mutex::new(reader))),
                buffer: Bytes::new(),
                budget,
                failed: None,
            },
        };
        Source(Arc::new(SourceState {
            stream: tokio::sync::Mutex::new(stream),
            exceeded: AtomicBool::new(exceeded),
        }))
    }

    /// The reader for tokio.
    pub(super) fn reader(&self) -> impl AsyncRead + Send + Sync + use<> {
        SourceReader {
            source: self.clone(),
            waiting: None,
        }
    }

    /// Whether there was more input than the limit allows.
    pub fn exceeded(&self) -> Option<Limit> {
        self.0
            .exceeded
            .load(Ordering::Relaxed)
            .then_some(Limit::Input)
    }

    /// The next piece; `None` at the end. Cancel safe.
    pub async fn next_chunk(&self) -> Option<Bytes> {
        let mut stream = self.0.stream.lock().await;
        let more = stream.fill(&self.0.exceeded).await;
        more.then(|| std::mem::take(&mut stream.buffer))
    }

    /// Why there are no more pieces, if it is not the end.
    pub async fn failure(&self) -> Option<io::Error> {
        self.0.stream.lock().await.failed.take()
    }

    /// Reads to the end.
    pub async fn read_to_end(&self) -> Result<Bytes, SourceError> {
        let mut stream = self.0.stream.lock().await;
        let mut chunks = SmallVec::<[Bytes; 1]>::new();
        while stream.fill(&self.0.exceeded).await {
            chunks.push(std::mem::take(&mut stream.buffer));
        }
        if self.exceeded().is_some() {
            return Err(SourceError::Exceeded);
        }
        if let Some(error) = stream.failed.take() {
            return Err(SourceError::Read(error));
        }
        Ok(match chunks.len() {
            0 => Bytes::new(),
            1 => chunks.swap_remove(0),
            _ => {
                let mut all = Vec::new();
                let len = chunks.iter().map(Bytes::len).sum();
                all.try_reserve_exact(len)
                    .map_err(|_| SourceError::Read(io::ErrorKind::OutOfMemory.into()))?;
                for chunk in chunks {
                    all.extend_from_slice(&chunk);
                }
                all.into()
            }
        })
    }
}

impl Stream {
    /// Waits until the buffer has bytes; `false` at the end.
    ///
    /// Cancel safe: bytes are in the buffer or still in the reader.
    async fn fill(&mut self, exceeded: &AtomicBool) -> bool {
        if !self.buffer.is_empty() {
            return true;
        }
        let Some(reader) = &mut self.reader else {
            return false;
        };
        let mut buffer = BytesMut::with_capacity(CHUNK);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => {
                self.reader = None;
                false
            }
            Ok(len) => {
                self.buffer = buffer.freeze();
                if len as u64 > self.budget {
                    exceeded.store(true, Ordering::Relaxed);
                    self.buffer
                        .truncate(usize::try_from(self.budget).unwrap_or(len));
                    self.reader = None;
                }
                self.budget = self.budget.saturating_sub(len as u64);
                !self.buffer.is_empty()
            }
            Err(error) => {
                self.failed = Some(error);
                self.reader = None;
                false
            }
        }
    }
}

#[async_trait::async_trait]
impl Pollable for Source {
    async fn ready(&mut self) {
        let mut stream = self.0.stream.lock().await;
        stream.fill(&self.0.exceeded).await;
    }
}

impl InputStream for Source {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let Ok(mut stream) = self.0.stream.try_lock() else {
            return Ok(Bytes::new());
        };
        if stream.buffer.is_empty() {
            if let Some(error) = stream.failed.take() {
                return Err(StreamError::LastOperationFailed(error.into()));
            }
            return match stream.reader {
                Some(_) => Ok(Bytes::new()),
                None => Err(StreamError::Closed),
            };
        }
        let len = size.min(stream.buffer.len());
        Ok(stream.buffer.split_to(len))
    }
}

/// A source as tokio sees it.
struct SourceReader {
    source: Source,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl AsyncRead for SourceReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(cx));
                self.waiting = None;
            }
            match InputStream::read(&mut self.source, buf.remaining()) {
                Ok(bytes) if bytes.is_empty() => {
                    let source = self.source.clone();
                    self.waiting = Some(Box::pin(async move {
                        let mut stream = source.0.stream.lock().await;
                        stream.fill(&source.0.exceeded).await;
                    }));
                }
                Ok(bytes) => {
                    buf.put_slice(&bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(StreamError::Closed) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(io::Error::other(error.to_string()))),
            }
        }
    }
}

/// A reader that is accessed only through `&mut`; the mutex, which is never locked, makes
/// it `Sync`.
struct SyncReader(Mutex<Box<dyn AsyncRead + Send + Unpin>>);

impl AsyncRead for SyncReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let reader = self.0.get_mut().unpoisoned();
        Pin::new(reader).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn input_over_the_limit_is_noticed() {
        let reader = InputKind::Reader(Box::new(&b"0123456789"[..]));
        let source = Source::new(reader, Some(4));
        assert!(matches!(
            source.read_to_end().await,
            Err(SourceError::Exceeded)
        ));
        let source = Source::new(InputKind::Bytes("0123".into()), Some(4));
        assert_eq!(source.read_to_end().await.expect("fits"), "0123");
    }
}
