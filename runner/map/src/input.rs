//! One input of a batch: its name, its bytes or its file, and what is carried along with it.

use crate::template::Subject;
use bytes::Bytes;
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;

/// One input, in the order in which the source yields it.
#[derive(Clone, Debug)]
pub struct Input {
    /// A name for people, which need not be unique: the path of a file, or the file and the
    /// number of a line.
    pub name: String,
    /// What the task gets, or why there is nothing: a file that cannot be read, a line that is
    /// too long. Such an input has a record, too.
    pub payload: Result<Payload, InputError>,
    /// What the record repeats: the other columns of a row, the other fields of an object.
    pub carried: Option<Value>,
}

impl Input {
    /// An input of these bytes.
    pub fn bytes(name: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Input {
            name: name.into(),
            payload: Ok(Payload::Bytes(bytes.into())),
            carried: None,
        }
    }

    /// An input that cannot be given to a task, for this reason.
    pub fn unusable(name: impl Into<String>, why: impl Into<String>) -> Self {
        Input {
            name: name.into(),
            payload: Err(InputError(why.into())),
            carried: None,
        }
    }

    /// Its length in bytes, if it is known.
    pub fn len(&self) -> Option<u64> {
        self.payload.as_ref().ok().map(Payload::len)
    }

    /// Whether it is known to have no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// What templates are filled in with.
    pub(crate) fn subject(&self, number: u64) -> Subject<'_> {
        let text = match &self.payload {
            Ok(Payload::Bytes(bytes)) => std::str::from_utf8(bytes).ok(),
            Ok(Payload::File(file)) => file.path.to_str(),
            Err(_) => None,
        };
        Subject { text, number }
    }
}

/// What a task gets.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A file, read when the task runs.
    File(FileInput),
}

impl Payload {
    /// Its length in bytes; that of a file when it was found.
    pub fn len(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::File(file) => file.len,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A file as it was found. A journal takes a file of another length or time of change for another
/// input.
#[derive(Clone, Debug)]
pub struct FileInput {
    /// Its path, as it was given or found in a directory.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
    /// When its content was last changed, in nanoseconds since 1970.
    pub modified: i128,
}

/// Why an input cannot be given to a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InputError(pub(crate) String);

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
