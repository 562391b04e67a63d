//! Inputs from a source that blocks, as a stream: read on a thread of their own, passed on in
//! batches.
//!
//! Invariant: what the source has is passed on before it waits for more, so a slow pipe delays no
//! input; and the thread is at most [`QUEUE`] batches ahead.

use crate::error::Error;
use crate::input::Input;
use futures_core::Stream;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

/// Inputs, read by blocking calls. An error is the last item.
pub type Inputs = Box<dyn Iterator<Item = Result<Input, Error>> + Send>;

type Batch = Vec<Result<Input, Error>>;

/// Batches that wait to be taken.
const QUEUE: usize = 4;
/// Inputs of a batch, and their bytes.
const BATCH: usize = 256;
const BATCH_BYTES: u64 = 256 << 10;

/// How far the source is.
#[derive(Debug, Default)]
pub struct Meter {
    read: AtomicU64,
    size: AtomicU64,
    found: AtomicU64,
    is_complete: AtomicBool,
}

impl Meter {
    /// How many inputs there are, once that is known.
    pub fn total(&self) -> Option<u64> {
        let is_complete = self.is_complete.load(Ordering::Acquire);
        is_complete.then(|| self.found())
    }

    /// How many inputs were found so far.
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    /// The part of the source that was read, if its size is known.
    pub fn fraction(&self) -> Option<f64> {
        let size = self.size.load(Ordering::Relaxed);
        (size > 0).then(|| self.read.load(Ordering::Relaxed) as f64 / size as f64)
    }

    /// A source of this size in bytes is read.
    pub(crate) fn add_size(&self, bytes: u64) {
        self.size.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Passes on what waits.
#[derive(Clone, Debug)]
pub(crate) struct Flush(Arc<Pending>);

#[derive(Debug)]
struct Pending {
    batch: Mutex<Batch>,
    sender: mpsc::Sender<Batch>,
}

impl Pending {
    /// False if no one takes them any more.
    fn pass_on(&self) -> bool {
        let batch = std::mem::take(&mut *self.batch.lock().unwrap_or_else(PoisonError::into_inner));
        batch.is_empty() || self.sender.blocking_send(batch).is_ok()
    }
}

/// A reader of a source, which passes on what waits before it waits itself.
pub(crate) struct Metered<R> {
    reader: R,
    meter: Arc<Meter>,
    flush: Option<Flush>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if let Some(flush) = &self.flush {
            flush.0.pass_on();
        }
        loop {
            match self.reader.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(len) => {
                    self.meter.read.fetch_add(len as u64, Ordering::Relaxed);
                    return Ok(len);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// What a source needs to read its files.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    meter: Arc<Meter>,
    flush: Option<Flush>,
}

impl Reading {
    /// How far it is.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    pub(crate) fn reader<R: Read>(&self, reader: R) -> Metered<R> {
        Metered {
            reader,
            meter: self.meter.clone(),
            flush: self.flush.clone(),
        }
    }
}

/// Inputs that a thread reads. Dropping it ends the thread when it next has an input.
#[derive(Debug)]
pub struct Pumped {
    batches: mpsc::Receiver<Batch>,
    batch: std::vec::IntoIter<Result<Input, Error>>,
    meter: Arc<Meter>,
}

impl Pumped {
    /// Starts the thread, on which `open` makes the inputs.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn start(open: impl FnOnce(Reading) -> Inputs + Send + 'static) -> Result<Self, Error> {
        let (sender, batches) = mpsc::channel(QUEUE);
        let meter = Arc::new(Meter::default());
        let batch = Mutex::default();
        let pending = Arc::new(Pending { batch, sender });
        let reading = Reading {
            meter: meter.clone(),
            flush: Some(Flush(pending.clone())),
        };
        let thread = std::thread::Builder::new().name("wrun-map-inputs".into());
        let counted = meter.clone();
        let pump = move || {
            let mut bytes = 0;
            for input in open(reading) {
                counted
                    .found
                    .fetch_add(u64::from(input.is_ok()), Ordering::Relaxed);
                bytes += input.as_ref().ok().and_then(Input::len).unwrap_or(0);
                let len = {
                    let mut batch = pending.batch.lock().unwrap_or_else(PoisonError::into_inner);
                    batch.push(input);
                    batch.len()
                };
                if len >= BATCH || bytes >= BATCH_BYTES {
                    bytes = 0;
                    if !pending.pass_on() {
                        return;
                    }
                }
            }
            counted.is_complete.store(true, Ordering::Release);
            pending.pass_on();
        };
        thread.spawn(pump).map_err(Error::Thread)?;
        Ok(Pumped {
            batches,
            batch: Vec::new().into_iter(),
            meter,
        })
    }

    /// How far it is.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }
}

impl Stream for Pumped {
    type Item = Result<Input, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(input) = self.batch.next() {
                return Poll::Ready(Some(input));
            }
            match ready!(self.batches.poll_recv(cx)) {
                Some(batch) => self.batch = batch.into_iter(),
                None => return Poll::Ready(None),
            }
        }
    }
}
