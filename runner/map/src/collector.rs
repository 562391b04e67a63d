//! What is done with records: written, committed to the journal, counted.
//!
//! Invariant: the order of a commit. First all output is written (and, if that was asked for, on
//! the disk), then the journal says so.

use crate::error::Error;
use crate::fail::Failures;
use crate::journal::{Batch, Journal, Now};
use crate::output::{Folder, Format, Kept, Stream};
use crate::record::{Ending, Form, Record};
use crate::summary::Summary;
use crate::trace::Trace;
use std::sync::Arc;

/// Records that are committed together at most, and bytes of their output.
const BATCH: usize = 1000;
const BATCH_BYTES: u64 = 4 << 20;

/// Writes records, commits them to a journal, and counts them. Each commit writes all output
/// first, and the journal then.
#[derive(Debug, Default)]
#[must_use = "it does nothing without records"]
pub struct Collector {
    stream: Option<(Stream, Format)>,
    folder: Option<Folder>,
    journal: Option<Journal>,
    sync: bool,
    trace: Option<Trace>,
    failures: Arc<Failures>,
    summary: Summary,
    batch: Batch,
    batch_bytes: u64,
    line: Vec<u8>,
}

impl Collector {
    /// Keeps nothing but counts.
    pub fn new(failures: Arc<Failures>) -> Self {
        Collector {
            failures,
            ..Collector::default()
        }
    }

    /// Writes records or their outputs.
    pub fn stream(mut self, stream: Stream, format: Format) -> Self {
        self.stream = Some((stream, format));
        self
    }

    /// Writes each output to a file.
    pub fn folder(mut self, folder: Folder) -> Self {
        self.folder = Some(folder);
        self
    }

    /// Commits to a journal; with `sync`, once output is on the disk.
    pub fn journal(mut self, journal: Journal, sync: bool) -> Self {
        self.journal = Some(journal);
        self.sync = sync;
        self
    }

    /// Writes what ran when.
    pub fn trace(mut self, trace: Trace) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Takes a record. Its output is written when this or a later call commits.
    ///
    /// # Errors
    ///
    /// A result cannot be written. What was committed before stays.
    pub fn take(&mut self, record: &mut Record, now: Now) -> Result<(), Error> {
        self.keep(record)?;
        self.write(record)?;
        if let Some(trace) = &mut self.trace {
            trace.add(record)?;
        }
        self.summary.add(record);
        self.batch_bytes += record.held();
        // Without a journal nothing is kept of it.
        match &self.journal {
            Some(_) => self.batch.add(record),
            None => return Ok(()),
        }
        match self.batch.len() >= BATCH || self.batch_bytes >= BATCH_BYTES {
            true => self.commit(now),
            false => Ok(()),
        }
    }

    /// Makes its output a file.
    fn keep(&mut self, record: &mut Record) -> Result<(), Error> {
        let (Some(folder), Some(output)) = (&mut self.folder, record.output()) else {
            return Ok(());
        };
        let kept = match folder.name(record.text.as_deref(), record.index + 1) {
            Ok(name) => match &self.journal {
                Some(journal) if journal.has_file(&name)? => Kept::taken(&name),
                _ => folder.write(&name, output)?,
            },
            Err(why) => Kept::Not(why),
        };
        match kept {
            Kept::As(name) => record.file = Some(name),
            Kept::Not(why) => {
                record.ending = Ending::NotWritten(why);
                self.failures.note_failed();
            }
        }
        Ok(())
    }

    fn write(&mut self, record: &Record) -> Result<(), Error> {
        let Some((stream, format)) = &mut self.stream else {
            return Ok(());
        };
        match format {
            Format::Bytes => record
                .output()
                .map_or(Ok(()), |output| stream.write(output)),
            Format::Records { stats } => {
                self.line.clear();
                let form = Form {
                    output: self.folder.is_none(),
                    stats: *stats,
                };
                // Writing to memory does not fail, and there is a form for all that it has.
                let _ = record.write_json(form, &mut self.line);
                stream.write(&self.line)
            }
        }
    }

    /// Passes on all output, and then commits it to the journal.
    ///
    /// # Errors
    ///
    /// As [`Collector::take`].
    pub fn commit(&mut self, now: Now) -> Result<(), Error> {
        let mut length = 0;
        if let Some((stream, _)) = &mut self.stream {
            length = stream.flush(self.sync)?;
        }
        if let Some(folder) = &mut self.folder {
            folder.flush()?;
        }
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        match &mut self.journal {
            Some(journal) if batch.len() > 0 => journal.commit(batch, length, now),
            _ => Ok(()),
        }
    }

    /// How many inputs have ended, in this run and before.
    pub fn ended(&self) -> u64 {
        let before = self
            .journal
            .as_ref()
            .map(|it| it.counts().0 + self.batch.len() as u64);
        before.unwrap_or_else(|| self.summary.ended())
    }

    /// Commits the rest. `complete` says that all inputs have ended.
    ///
    /// # Errors
    ///
    /// As [`Collector::take`].
    pub fn finish(mut self, complete: bool, now: Now) -> Result<Summary, Error> {
        self.commit(now)?;
        if let Some(journal) = self.journal.as_mut().filter(|_| complete) {
            journal.complete()?;
        }
        if let Some(trace) = self.trace.take() {
            trace.finish()?;
        }
        Ok(std::mem::take(&mut self.summary))
    }
}
