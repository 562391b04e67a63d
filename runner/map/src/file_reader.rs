//! A large file as a stream, read on a thread of its own while the task reads.

use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

/// Pieces that wait to be taken.
const QUEUE: usize = 4;
const CHUNK: usize = 64 << 10;

/// See the [module](self).
pub(crate) struct FileReader {
    file: Option<File>,
    chunks: Option<mpsc::Receiver<io::Result<Bytes>>>,
    rest: Bytes,
}

impl FileReader {
    /// What was read of the file, and the file behind it.
    pub(crate) fn new(read: Vec<u8>, file: File) -> Self {
        FileReader {
            file: Some(file),
            chunks: None,
            rest: read.into(),
        }
    }

    fn start(&mut self, mut file: File) -> io::Result<()> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let reading = move || {
            loop {
                let mut bytes = vec![0; CHUNK];
                let chunk = match file.read(&mut bytes) {
                    Ok(0) => return,
                    Ok(len) => {
                        bytes.truncate(len);
                        Ok(Bytes::from(bytes))
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = chunk.is_err();
                // The task has ended if no one receives it.
                if sender.blocking_send(chunk).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("wrun-map-file".into());
        thread.spawn(reading)?;
        self.chunks = Some(receiver);
        Ok(())
    }
}

impl AsyncRead for FileReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            if let Some(file) = self.file.take() {
                self.start(file)?;
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};
    use tokio::io::AsyncReadExt;

    #[test]
    fn all_of_a_file_arrives_in_order() {
        let mut file = tempfile::tempfile().expect("a file");
        let bytes: Vec<_> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        file.write_all(&bytes).expect("written");
        file.seek(io::SeekFrom::Start(1000)).expect("at 1000");
        let mut reader = FileReader::new(bytes[..1000].to_vec(), file);
        let tokio = tokio::runtime::Builder::new_current_thread().build();
        let mut read = Vec::new();
        let reading = reader.read_to_end(&mut read);
        tokio.expect("tokio").block_on(reading).expect("read");
        assert_eq!(read, bytes);
    }
}
