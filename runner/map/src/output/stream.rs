//! The one place where records or bytes go, in their order.
//!
//! Invariant: its length is known, so that a journal can say where it was.

use crate::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const BUFFER: usize = 256 << 10;

/// The one place where records or bytes go, in their order: a file, stdout, or another writer.
pub struct Stream {
    path: PathBuf,
    writer: BufWriter<To>,
    length: u64,
}

enum To {
    File(File),
    Other(Box<dyn Write + Send>),
}

impl Write for To {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            To::File(file) => file.write(bytes),
            To::Other(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            To::File(file) => file.flush(),
            To::Other(writer) => writer.flush(),
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Stream");
        debug
            .field("path", &self.path)
            .field("length", &self.length);
        debug.finish_non_exhaustive()
    }
}

impl Stream {
    /// Anything that takes bytes. `path` is its name in messages.
    pub fn to(path: impl Into<PathBuf>, writer: impl Write + Send + 'static) -> Self {
        Stream::new(path.into(), To::Other(Box::new(writer)), 0)
    }

    /// A file, which is made if it does not exist and emptied if it does.
    ///
    /// # Errors
    ///
    /// It cannot be opened for writing.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).open(path);
        let file = file.map_err(|error| cannot_write(path, error))?;
        Ok(Stream::new(path.to_owned(), To::File(file), 0))
    }

    /// A file that has `length` bytes of output already. What is behind them is cut off.
    ///
    /// # Errors
    ///
    /// It cannot be opened or cut, or is shorter.
    pub fn resume(path: &Path, length: u64) -> Result<Self, Error> {
        let is = Stream::length_of(path)?;
        if is < length {
            let why = format!("it has {is} bytes of the {length} that the journal knows");
            return Err(Error::Output {
                path: path.to_owned(),
                why,
            });
        }
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let cut = opened.and_then(|mut file| {
            file.set_len(length)?;
            file.seek(SeekFrom::Start(length))?;
            Ok(file)
        });
        let file = cut.map_err(|error| cannot_write(path, error))?;
        Ok(Stream::new(path.to_owned(), To::File(file), length))
    }

    /// The length of a regular file; 0 if there is none.
    ///
    /// # Errors
    ///
    /// It is not a regular file.
    pub fn length_of(path: &Path) -> Result<u64, Error> {
        match path.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(metadata.len()),
            Ok(_) => Err(Error::Output {
                path: path.to_owned(),
                why: "not a regular file, as the output of a batch with a journal must be".into(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(cannot_write(path, error)),
        }
    }

    fn new(path: PathBuf, to: To, length: u64) -> Self {
        Stream {
            path,
            writer: BufWriter::with_capacity(BUFFER, to),
            length,
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.length += bytes.len() as u64;
        let written = self.writer.write_all(bytes);
        written.map_err(|error| cannot_write(&self.path, error))
    }

    /// Passes on what is buffered, and with `sync` waits until it is on the disk. Returns the
    /// length.
    pub(crate) fn flush(&mut self, sync: bool) -> Result<u64, Error> {
        let flushed = self
            .writer
            .flush()
            .and_then(|()| match self.writer.get_ref() {
                To::File(file) if sync => file.sync_data(),
                _ => Ok(()),
            });
        flushed.map_err(|error| cannot_write(&self.path, error))?;
        Ok(self.length)
    }
}

pub(super) fn cannot_write(path: &Path, source: io::Error) -> Error {
    Error::Write {
        path: path.to_owned(),
        source,
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // What was not flushed is not in the journal either, and a writer that fails would fail
        // again.
        let writer = std::mem::replace(
            &mut self.writer,
            BufWriter::with_capacity(0, To::Other(Box::new(io::sink()))),
        );
        let _ = writer.into_parts();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_the_journal_does_not_know_is_cut_off() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("out");
        let mut stream = Stream::create(&path).expect("made");
        stream.write(b"one two").expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"");
        assert_eq!(stream.flush(true).expect("flushed"), 7);
        stream.write(b"never flushed").expect("written");
        drop(stream);
        assert_eq!(fs::read(&path).expect("read"), b"one two");
        let mut stream = Stream::resume(&path, 4).expect("cut");
        stream.write(b"2").expect("written");
        assert_eq!(stream.flush(false).expect("flushed"), 5);
        drop(stream);
        assert_eq!(fs::read(&path).expect("read"), b"one 2");
        assert!(Stream::resume(&path, 6).is_err());
        assert!(Stream::resume(scratch.path(), 0).is_err());
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let mut stream = Stream::create(Path::new("/dev/full")).expect("opened");
        stream.write(b"x").expect("buffered");
        let error = stream.flush(false).expect_err("full");
        let full = Some(io::ErrorKind::StorageFull);
        assert_eq!(error.io().map(io::Error::kind), full, "{error}");
    }
}
