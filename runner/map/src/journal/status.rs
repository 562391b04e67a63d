//! A look into a journal, which another process may be working on.

use super::store::{check, check_file, explained, now, plain};
use super::wrong;
use crate::error::Error;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use rustix::fs::FlockOperation;
use std::path::Path;
use std::time::Duration;

/// How many failed inputs are shown.
const SHOWN: usize = 20;

/// How far a batch is, by its journal.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Status {
    /// How many inputs there are, if that is known.
    pub total: Option<u64>,
    /// How many have completed.
    pub completed: u64,
    /// How many new attempts were made.
    pub retries: u64,
    /// How many failed, by the kind of their outcomes.
    pub failed: Vec<(String, u64)>,
    /// The last that failed, the latest first.
    pub latest: Vec<Failed>,
    /// How many tasks were submitted at the last commit.
    pub in_flight: u64,
    /// Whether a process works on it.
    pub is_running: bool,
    /// Whether all inputs have ended.
    pub is_complete: bool,
    /// The time from its beginning to the last commit.
    pub took: Duration,
    /// The time since the last commit.
    pub since: Option<Duration>,
}

/// An input that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its position, from 0.
    pub index: u64,
    /// Its name.
    pub name: String,
    /// The kind of its outcome.
    pub kind: String,
    /// Why, in one line.
    pub message: String,
}

impl Status {
    /// Reads it, without a change to the journal.
    ///
    /// # Errors
    ///
    /// It is not a journal, it is damaged, or it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = check_file(path)?;
        let lock = rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared);
        let is_running = lock == Err(rustix::io::Errno::WOULDBLOCK);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(plain(path), flags);
        let connection = connection.map_err(|error| wrong(path, explained(&error)))?;
        check(&connection, path)?;
        let mut status = read(&connection).map_err(|error| wrong(path, explained(&error)))?;
        status.is_running = is_running;
        // In this order: closing the file first would end SQLite's locks.
        drop(connection);
        drop(file);
        Ok(status)
    }

    /// How many inputs have ended.
    pub fn ended(&self) -> u64 {
        self.completed + self.failed.iter().map(|(_, count)| count).sum::<u64>()
    }
}

fn read(connection: &Connection) -> rusqlite::Result<Status> {
    // One state of the journal for all that is read.
    let connection = connection.unchecked_transaction()?;
    let number = |key: &str| -> rusqlite::Result<Option<u64>> {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        let value: Option<String> = connection
            .query_row(sql, [key], |row| row.get(0))
            .optional()?;
        Ok(value.and_then(|value| value.parse().ok()))
    };
    let mut status = Status {
        total: number("total")?,
        in_flight: number("in-flight")?.unwrap_or(0),
        ..Status::default()
    };
    if let (Some(started), Some(updated)) = (number("started")?, number("updated")?) {
        status.took = Duration::from_secs(updated.saturating_sub(started));
        status.since = Some(Duration::from_secs(now().saturating_sub(updated)));
    }
    let sql = "SELECT COUNT(*) FROM meta WHERE key = 'complete'";
    status.is_complete = connection.query_row(sql, [], |row| row.get::<_, u64>(0))? > 0;
    let sql = "SELECT COALESCE(SUM(completed), 0), COALESCE(SUM(retries), 0) FROM batch";
    (status.completed, status.retries) =
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut kinds =
        connection.prepare("SELECT kind, COUNT(*) FROM failure GROUP BY kind ORDER BY kind")?;
    let rows = kinds.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    status.failed = rows.collect::<rusqlite::Result<_>>()?;
    let sql = "SELECT input, name, kind, message FROM failure ORDER BY input DESC LIMIT ?1";
    let mut latest = connection.prepare(sql)?;
    let rows = latest.query_map([SHOWN], |row| {
        Ok(Failed {
            index: row.get(0)?,
            name: row.get(1)?,
            kind: row.get(2)?,
            message: row.get(3)?,
        })
    })?;
    status.latest = rows.collect::<rusqlite::Result<_>>()?;
    drop((kinds, latest));
    Ok(status)
}
