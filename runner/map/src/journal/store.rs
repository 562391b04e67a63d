//! The tables of a journal, and their statements.

use super::{Batch, Connection, File, Identity, Now, Path, PathBuf, wrong};
use crate::chain::Chain;
use crate::error::Error;
use rusqlite::types::FromSql;
use rusqlite::{OpenFlags, OptionalExtension, Params, params};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::io::{self, Read};
use std::time::{Duration, Instant, SystemTime};

/// In the header of the file: "wrun".
const APPLICATION: i32 = 0x7772_756e;
/// The version of the tables.
const VERSION: i32 = 1;
/// What every file of SQLite begins with.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// More gaps than a batch leaves: each is a task that was running.
const MOST_RANGES: usize = 1 << 20;

/// How long a killed process may still have the lock: a program that it was about to start has all
/// that it had, for a moment.
const LEFT: Duration = Duration::from_secs(2);

const TABLES: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
-- Records that were committed together, and what is done with them: the end of the inputs that
-- are done and the digest up to there, the length of the output.
CREATE TABLE batch(id INTEGER PRIMARY KEY, end INTEGER NOT NULL, chain BLOB NOT NULL,
  output INTEGER NOT NULL, completed INTEGER NOT NULL, failed INTEGER NOT NULL,
  retries INTEGER NOT NULL) STRICT;
-- Ranges of inputs that are done.
CREATE TABLE done(first INTEGER PRIMARY KEY, last INTEGER NOT NULL, batch INTEGER NOT NULL) STRICT;
CREATE TABLE failure(input INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL,
  message TEXT NOT NULL, batch INTEGER NOT NULL) STRICT;
-- Files of outputs: no other input may have one of them.
CREATE TABLE file(name TEXT PRIMARY KEY, batch INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Store {
    // Closed before the file, whose closing would end SQLite's locks.
    connection: Connection,
    path: PathBuf,
    _lock: File,
}

impl Store {
    /// Makes a journal, which is there as a whole or not at all.
    pub(super) fn create(path: &Path, identity: &Identity) -> Result<(), Error> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let cannot = |error: io::Error| {
            let hint = wrun::limit_hint(&error);
            wrong(path, format!("cannot make it: {error}{hint}"))
        };
        let new = tempfile::Builder::new()
            .prefix(".wrun-")
            .tempfile_in(folder);
        let new = new.map_err(cannot)?;
        let make = || -> rusqlite::Result<()> {
            let connection = Connection::open_with_flags(new.path(), flags())?;
            connection.pragma_update(None, "application_id", APPLICATION)?;
            connection.pragma_update(None, "user_version", VERSION)?;
            connection.execute_batch(&format!("BEGIN;{TABLES}COMMIT;"))?;
            let id = tempfile_name(new.path());
            let mut meta = connection.prepare("INSERT INTO meta VALUES(?1, ?2)")?;
            for (name, digest) in Identity::NAMES.iter().zip(identity.digests()) {
                meta.execute(params![name, digest])?;
            }
            meta.execute(params!["id", id])?;
            meta.execute(params!["started", now().to_string()])?;
            drop(meta);
            connection.close().map_err(|(_, error)| error)
        };
        make().map_err(|error| wrong(path, explained(&error)))?;
        new.as_file().sync_all().map_err(cannot)?;
        let kept = new.persist_noclobber(path);
        kept.map_err(|error| cannot(error.error))?;
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(cannot)
    }

    /// Opens a journal for its only writer.
    pub(super) fn open(path: &Path, sync: bool) -> Result<Self, Error> {
        let lock = check_file(path)?;
        let until = Instant::now() + LEFT;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if Instant::now() < until => {
                    std::thread::sleep(LEFT / 100);
                }
                Err(Errno::WOULDBLOCK) => return Err(wrong(path, "another process works on it")),
                Err(errno) => return Err(wrong(path, format!("cannot lock it: {errno}"))),
            }
        }
        let open = || -> rusqlite::Result<Connection> {
            let connection = Connection::open_with_flags(plain(path), flags())?;
            let mode: String =
                connection
                    .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
            if mode != "wal" {
                return Err(rusqlite::Error::InvalidQuery);
            }
            let synchronous = if sync { "FULL" } else { "NORMAL" };
            connection.pragma_update(None, "synchronous", synchronous)?;
            connection.pragma_update(None, "trusted_schema", false)?;
            Ok(connection)
        };
        let connection = open().map_err(|error| wrong(path, explained(&error)))?;
        let store = Store {
            connection,
            path: path.to_owned(),
            _lock: lock,
        };
        check(&store.connection, path)?;
        Ok(store)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, error: &rusqlite::Error) -> Error {
        wrong(&self.path, explained(error))
    }

    fn meta(&self, key: &str) -> Result<String, Error> {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        let value = self.row::<String>(sql, [key])?;
        value.ok_or_else(|| wrong(&self.path, format!("it is damaged: it has no {key}")))
    }

    fn row<T: FromSql>(&self, sql: &str, params: impl Params) -> Result<Option<T>, Error> {
        let row = self.connection.query_row(sql, params, |row| row.get(0));
        row.optional().map_err(|error| self.failed(&error))
    }

    pub(super) fn id(&self) -> Result<String, Error> {
        let id = self.meta("id")?;
        // It becomes a part of a file's name.
        match id.bytes().all(|byte| byte.is_ascii_alphanumeric()) && id.len() < 64 {
            true => Ok(id),
            false => Err(wrong(&self.path, "it is damaged: its id is not a word")),
        }
    }

    pub(super) fn identity(&self) -> Result<[String; 6], Error> {
        let mut digests = [const { String::new() }; 6];
        for (digest, name) in digests.iter_mut().zip(Identity::NAMES) {
            *digest = self.meta(name)?;
        }
        Ok(digests)
    }

    pub(super) fn set_identity(&self, identity: &Identity) -> Result<(), Error> {
        for (name, digest) in Identity::NAMES.iter().zip(identity.digests()) {
            let sql = "UPDATE meta SET value = ?2 WHERE key = ?1";
            let set = self.connection.execute(sql, params![name, digest]);
            set.map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }

    /// The end of the inputs that are done, the digest up to there, and the length of the output.
    pub(super) fn last_batch(&self) -> Result<(u64, Chain, u64), Error> {
        let sql = "SELECT end, chain, output FROM batch ORDER BY id DESC LIMIT 1";
        let row = self.connection.query_row(sql, [], |row| {
            Ok((row.get(0)?, row.get::<_, [u8; 32]>(1)?, row.get(2)?))
        });
        let row = row.optional().map_err(|error| self.failed(&error))?;
        Ok(row.unwrap_or_default())
    }

    /// How many have ended, and how many failed.
    pub(super) fn counts(&self) -> Result<(u64, u64), Error> {
        let sql =
            "SELECT COALESCE(SUM(completed + failed), 0), COALESCE(SUM(failed), 0) FROM batch";
        let row = self
            .connection
            .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
        row.map_err(|error| self.failed(&error))
    }

    /// Ranges of inputs that are done, as few as possible.
    pub(super) fn done(&self) -> Result<Vec<(u64, u64)>, Error> {
        let damaged = || wrong(&self.path, "it is damaged: its ranges of inputs overlap");
        let read = || -> rusqlite::Result<Option<Vec<(u64, u64)>>> {
            let mut statement = self
                .connection
                .prepare("SELECT first, last FROM done ORDER BY first")?;
            let mut rows = statement.query([])?;
            let mut done: Vec<(u64, u64)> = Vec::new();
            while let Some(row) = rows.next()? {
                let (first, last): (u64, u64) = (row.get(0)?, row.get(1)?);
                if last < first || done.len() > MOST_RANGES {
                    return Ok(None);
                }
                match done.last_mut() {
                    Some((_, before)) if *before >= first => return Ok(None),
                    Some((_, before)) if *before + 1 == first => *before = last,
                    _ => done.push((first, last)),
                }
            }
            Ok(Some(done))
        };
        read()
            .map_err(|error| self.failed(&error))?
            .ok_or_else(damaged)
    }

    pub(super) fn roll_back(&mut self, output: u64) -> Result<(), Error> {
        let mut roll_back = || -> rusqlite::Result<()> {
            let transaction = self.connection.transaction()?;
            for table in ["done", "failure", "file"] {
                let sql = format!(
                    "DELETE FROM {table} WHERE batch IN (SELECT id FROM batch WHERE output > ?1)"
                );
                transaction.execute(&sql, [output])?;
            }
            transaction.execute("DELETE FROM batch WHERE output > ?1", [output])?;
            transaction.commit()
        };
        roll_back().map_err(|error| wrong(&self.path, explained(&error)))
    }

    pub(super) fn commit(
        &mut self,
        ranges: &[(u64, u64)],
        batch: &Batch,
        (end, chain, output): (u64, Chain, u64),
        now_is: Now,
    ) -> Result<(), Error> {
        let mut commit = || -> rusqlite::Result<()> {
            let transaction = self.connection.transaction()?;
            let (completed, failed) = (batch.completed, batch.failed.len());
            transaction.execute(
                "INSERT INTO batch(end, chain, output, completed, failed, retries)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
                params![end, chain, output, completed, failed, batch.retries],
            )?;
            let id = transaction.last_insert_rowid();
            let mut insert = transaction.prepare("INSERT INTO done VALUES(?1, ?2, ?3)")?;
            for (first, last) in ranges {
                insert.execute(params![first, last, id])?;
            }
            drop(insert);
            let mut insert =
                transaction.prepare("INSERT INTO failure VALUES(?1, ?2, ?3, ?4, ?5)")?;
            for failed in &batch.failed {
                let (name, kind, message) = (&failed.name, &failed.kind, &failed.message);
                insert.execute(params![failed.index, name, kind, message, id])?;
            }
            drop(insert);
            let mut insert = transaction.prepare("INSERT OR REPLACE INTO file VALUES(?1, ?2)")?;
            for name in &batch.files {
                insert.execute(params![name, id])?;
            }
            let mut set = transaction.prepare("INSERT OR REPLACE INTO meta VALUES(?1, ?2)")?;
            set.execute(params!["updated", now().to_string()])?;
            set.execute(params!["in-flight", now_is.in_flight.to_string()])?;
            if let Some(total) = now_is.total {
                set.execute(params!["total", total.to_string()])?;
            }
            drop((set, insert));
            transaction.commit()
        };
        commit().map_err(|error| wrong(&self.path, explained(&error)))
    }

    /// Whether an output has this file.
    pub(super) fn has_file(&self, name: &str) -> Result<bool, Error> {
        let sql = "SELECT batch FROM file WHERE name = ?1";
        Ok(self.row::<u64>(sql, [name])?.is_some())
    }

    pub(super) fn set_complete(&mut self) -> Result<(), Error> {
        let sql = "INSERT OR REPLACE INTO meta VALUES('complete', 'yes')";
        let set = self.connection.execute(sql, []);
        set.map(drop).map_err(|error| self.failed(&error))
    }
}

fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

/// SQLite gives names that begin with a colon a meaning.
pub(super) fn plain(path: &Path) -> PathBuf {
    match path.is_absolute() {
        true => path.to_owned(),
        false => Path::new(".").join(path),
    }
}

/// Opens the file, and checks that it is one of SQLite.
pub(super) fn check_file(path: &Path) -> Result<File, Error> {
    let mut magic = [0; MAGIC.len()];
    let opened = File::open(path).and_then(|mut file| {
        let mut head = Vec::new();
        (&mut file)
            .take(MAGIC.len() as u64)
            .read_to_end(&mut head)?;
        magic[..head.len()].copy_from_slice(&head);
        Ok(file)
    });
    let file = opened.map_err(|error| wrong(path, format!("cannot open it: {error}")))?;
    match magic == *MAGIC {
        true => Ok(file),
        false => Err(wrong(
            path,
            "it is not a journal of `wrun map`, or it is damaged",
        )),
    }
}

/// Checks that it is a journal, and whole.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), Error> {
    let read = || -> rusqlite::Result<(i32, i32, String)> {
        let application =
            connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
        let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let state = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        Ok((application, version, state))
    };
    let (application, version, state) = read().map_err(|error| wrong(path, explained(&error)))?;
    if application != APPLICATION {
        return Err(wrong(path, "it is not a journal of `wrun map`"));
    }
    if version != VERSION {
        let why = format!("it has the format {version}, and this wrun reads the format {VERSION}");
        return Err(wrong(path, why));
    }
    match state.as_str() {
        "ok" => Ok(()),
        state => Err(wrong(path, format!("it is damaged: {state}"))),
    }
}

/// An error of SQLite, in words.
pub(super) fn explained(error: &rusqlite::Error) -> String {
    use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
    match error.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => format!("it is damaged: {error}"),
        Some(DiskFull) => "cannot write it: no space left on the device".to_owned(),
        _ => error.to_string(),
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The random part of a temporary file's name.
fn tempfile_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.trim_start_matches(".wrun-").to_owned()
}
