//! What of a batch is done, in a file that outlives this process: SQLite, in WAL mode.
//!
//! Invariant: a batch of records is in the journal, in one transaction with the length that the
//! output has after it, only once all of its output was written. So what is in the output beyond
//! that length is not in the journal, and is cut off before the batch goes on.

mod identity;
mod status;
mod store;

pub use identity::Identity;
pub use status::{Failed, Status};

use crate::chain::{Chain, Resume};
use crate::error::Error;
use crate::record::Record;
use rusqlite::Connection;
use std::fs::File;
use std::path::{Path, PathBuf};
use store::Store;

/// How a journal is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening {
    /// Goes on with a journal that exists. Without it, one that exists is refused.
    pub resume: bool,
    /// Accepts a journal that was made for something else.
    pub force: bool,
    /// Waits at each commit until it is on the disk.
    pub sync: bool,
}

/// What of a batch is done, in a file (SQLite) that outlives this process. One process at a time
/// writes it; [`Status::read`] looks into it meanwhile.
///
/// ```
/// # use std::sync::Arc;
/// # use wrun::{Mode, Runner, Task};
/// use wrun_map::{Collector, Failures, Format, Identity, Journal, Opening, Stream};
/// # use wrun_map::{Local, Map, Now, Plan, Pumped, Reader, Source, next};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let scratch = tempfile::tempdir()?;
/// # let [journal_path, output] = ["journal", "out"].map(|name| scratch.path().join(name));
/// # let words = scratch.path().join("words.txt");
/// # std::fs::write(&words, "one\ntwo\n")?;
/// # let runner = Arc::new(Runner::builder().mode(Mode::Thread).build()?);
/// # let echo = runner.blocking_load("../../guest-tasks/echo/echo.wat")?;
/// # let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
/// # for _ in 0..2 {
/// let identity = Identity { task: echo.digest(), ..Identity::default() };
/// let opening = Opening { resume: true, ..Opening::default() };
/// let journal = Journal::open(&journal_path, &identity, opening)?;
/// # let echo = echo.clone();
/// # let map = Map::new(Local::new(runner.clone(), move || Task::new(&echo)), Plan::new());
/// # let source = Source::Lines(vec![words.clone()]);
/// # let inputs = Pumped::start(|reading| source.open(Reader::default(), reading))?;
///
/// let mut records = map.journalled(journal.resume()?).run(inputs);
/// let mut collector = Collector::new(Arc::new(Failures::default()))
///     .stream(Stream::resume(&output, journal.output())?, Format::Bytes)
///     .journal(journal, false);
/// # tokio.block_on(async {
/// while let Some(record) = next(&mut records).await {
///     collector.take(&mut *record?, Now::default())?;
/// }
/// collector.finish(true, Now::default())?;
/// # Ok::<_, wrun_map::Error>(())
/// # })?;
/// # }
/// // However often this runs, and wherever it is killed:
/// assert_eq!(std::fs::read(&output)?, b"onetwo");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Journal {
    store: Store,
    /// The end of the inputs that are done, and the digest up to there.
    end: u64,
    chain: Chain,
    /// The length of the output.
    output: u64,
    ended: u64,
    failed: u64,
    id: String,
    is_new: bool,
    force: bool,
}

/// Records that are committed together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    indices: Vec<u64>,
    /// The highest of them, and the digest of the inputs up to it.
    last: Option<(u64, Chain)>,
    completed: u64,
    retries: u64,
    failed: Vec<Failed>,
    files: Vec<String>,
}

impl Batch {
    pub(crate) fn add(&mut self, record: &Record) {
        self.indices.push(record.index);
        if self.last.is_none_or(|(last, _)| last < record.index) {
            self.last = Some((record.index, record.chain));
        }
        self.retries += u64::from(record.attempts.saturating_sub(1));
        self.files.extend(record.file.clone());
        match record.is_completed() {
            true => self.completed += 1,
            false => self.failed.push(Failed {
                index: record.index,
                name: record.name.clone(),
                kind: record.kind().to_owned(),
                message: record.message(),
            }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.indices.len()
    }

    /// The positions as ranges, first and last.
    fn ranges(&mut self) -> Vec<(u64, u64)> {
        self.indices.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for index in &self.indices {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => ranges.push((*index, *index)),
            }
        }
        ranges
    }
}

/// What is known of the batch as a whole, for those who look into the journal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// How many inputs there are, if that is known.
    pub total: Option<u64>,
    /// How many tasks are submitted.
    pub in_flight: u64,
}

impl Journal {
    /// Makes a journal, or goes on with one.
    ///
    /// # Errors
    ///
    /// [`Error::Journal`] if it cannot be made, exists and is not to be resumed, is used by another
    /// process, or is damaged; [`Error::Changed`] if it was made for something else.
    pub fn open(path: &Path, identity: &Identity, opening: Opening) -> Result<Self, Error> {
        let exists = path.symlink_metadata().is_ok();
        if exists && !opening.resume {
            return Err(wrong(
                path,
                "it exists already: resume it, or remove it to start again",
            ));
        }
        if !exists {
            Store::create(path, identity)?;
        }
        let store = Store::open(path, opening.sync)?;
        let changed = identity.differences(&store.identity()?);
        if !changed.is_empty() && !opening.force {
            return Err(Error::Changed {
                path: path.to_owned(),
                what: changed.join(", "),
            });
        }
        if !changed.is_empty() {
            store.set_identity(identity)?;
        }
        let mut journal = Journal {
            id: store.id()?,
            store,
            end: 0,
            chain: Chain::default(),
            output: 0,
            ended: 0,
            failed: 0,
            is_new: !exists,
            force: opening.force,
        };
        journal.read()?;
        Ok(journal)
    }

    /// Reads how far the batch is.
    fn read(&mut self) -> Result<(), Error> {
        let last = self.store.last_batch()?;
        (self.end, self.chain, self.output) = last;
        (self.ended, self.failed) = self.store.counts()?;
        Ok(())
    }

    /// Whether it was made just now.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The length of the output, in bytes.
    pub fn output(&self) -> u64 {
        self.output
    }

    /// How many inputs have ended, and how many of them failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.ended, self.failed)
    }

    /// Its identifier, for names of temporary files.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Forgets what is not in an output of this length: the system has lost its end. Returns
    /// how many records that were.
    ///
    /// # Errors
    ///
    /// The journal cannot be read or written.
    pub fn roll_back(&mut self, length: u64) -> Result<u64, Error> {
        let before = self.ended;
        self.store.roll_back(length)?;
        self.read()?;
        Ok(before - self.ended)
    }

    /// What is left of the inputs, for [`Map::journalled`](crate::Map::journalled).
    ///
    /// # Errors
    ///
    /// The journal cannot be read.
    pub fn resume(&self) -> Result<Resume, Error> {
        let done = self.store.done()?;
        let chain = (!done.is_empty() && !self.force).then_some(self.chain);
        if done.last().map_or(0, |(_, last)| last + 1) != self.end {
            return Err(wrong(
                self.store.path(),
                "it is damaged: its last batch is not there",
            ));
        }
        Ok(Resume::new(done, chain))
    }

    /// Commits records whose output was written, which has this length now.
    pub(crate) fn commit(&mut self, mut batch: Batch, output: u64, now: Now) -> Result<(), Error> {
        if let Some((last, chain)) = batch.last
            && last >= self.end
        {
            (self.end, self.chain) = (last + 1, chain);
        }
        let ranges = batch.ranges();
        self.store
            .commit(&ranges, &batch, (self.end, self.chain, output), now)?;
        self.output = output;
        self.ended += batch.len() as u64;
        self.failed += batch.failed.len() as u64;
        Ok(())
    }

    /// Whether an input that was committed before this process has this file.
    pub(crate) fn has_file(&self, name: &str) -> Result<bool, Error> {
        match self.is_new {
            true => Ok(false),
            false => self.store.has_file(name),
        }
    }

    /// Notes that all inputs have ended.
    pub(crate) fn complete(&mut self) -> Result<(), Error> {
        self.store.set_complete()
    }
}

fn wrong(path: &Path, why: impl Into<String>) -> Error {
    Error::Journal {
        path: path.to_owned(),
        why: why.into(),
    }
}

#[cfg(test)]
mod tests;
