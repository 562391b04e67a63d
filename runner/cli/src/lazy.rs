//! A blocking reader as an asynchronous one, read on demand.

use bytes::Bytes;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

/// Pieces that wait to be taken.
const QUEUE: usize = 4;
const CHUNK: usize = 64 << 10;

/// A blocking reader that is read on a separate thread, and only on demand. A blocked
/// thread does not keep the program from ending.
pub(super) struct Lazy {
    open: Option<Open>,
    chunks: Option<mpsc::Receiver<io::Result<Bytes>>>,
    rest: Bytes,
}

/// Opens the reader.
type Open = Box<dyn FnOnce() -> io::Result<Box<dyn Read + Send>> + Send>;

impl Lazy {
    pub(super) fn new(reader: Box<dyn Read + Send>) -> Self {
        Lazy::opened_by(Box::new(move || Ok(reader)))
    }

    /// For a reader whose opening may block: a named pipe.
    pub(super) fn opened_by(open: Open) -> Self {
        Lazy {
            open: Some(open),
            chunks: None,
            rest: Bytes::new(),
        }
    }
}

impl AsyncRead for Lazy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(open) = self.open.take() {
            let (sender, receiver) = mpsc::channel(QUEUE);
            let reading = move || {
                let mut reader = match open() {
                    Ok(reader) => reader,
                    Err(error) => {
                        let _ = sender.blocking_send(Err(error));
                        return;
                    }
                };
                loop {
                    let mut bytes = vec![0; CHUNK];
                    let chunk = match reader.read(&mut bytes) {
                        Ok(0) => return,
                        Ok(len) => {
                            bytes.truncate(len);
                            Ok(Bytes::from(bytes))
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => Err(error),
                    };
                    let failed = chunk.is_err();
                    if sender.blocking_send(chunk).is_err() || failed {
                        return;
                    }
                }
            };
            std::thread::Builder::new()
                .name("wrun-stdin".into())
                .spawn(reading)
                .map_err(|error| {
                    let hint = wrun::limit_hint(&error);
                    io::Error::other(format!("cannot start a thread: {error}{hint}"))
                })?;
            self.chunks = Some(receiver);
        }
        if self.rest.is_empty() {
            let Some(chunks) = &mut self.chunks else {
                return Poll::Ready(Ok(()));
            };
            match ready!(chunks.poll_recv(cx)) {
                Some(Ok(chunk)) => self.rest = chunk,
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest.split_to(len));
        Poll::Ready(Ok(()))
    }
}
