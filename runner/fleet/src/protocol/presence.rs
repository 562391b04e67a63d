//! What a worker says of itself.

use super::name::TaskId;
use serde::{Deserialize, Serialize};

/// A worker that was there within the last half minute. Other programs can write such records,
/// too: do not trust them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Presence {
    /// The version of the protocol.
    pub v: u32,
    /// The worker's own identifier, which is also the key of this record: its name, and what no
    /// other worker of this name has.
    pub id: TaskId,
    /// The name of the worker in results, which others may have, too. Empty in records of
    /// workers before it was there: they are named by their `id`.
    #[serde(default)]
    pub name: String,
    /// Its host.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// The version of wrun.
    pub version: String,
    /// `process` or `thread`.
    pub mode: String,
    /// The jail: `strict`, `best-effort` or `off`; `none` in thread mode.
    pub jail: String,
    /// How many tasks it runs at the same time.
    pub jobs: u64,
    /// How many it runs now.
    pub running: u64,
    /// How many it has answered.
    pub answered: u64,
    /// How many ran in vain, because another answer was first.
    pub late: u64,
    /// How many it gave back to the queue.
    pub given_back: u64,
    /// How many it buried.
    pub buried: u64,
    /// How many modules it has compiled or taken from its cache.
    pub modules: u64,
    /// Whether it takes no more tasks.
    pub draining: bool,
    /// When it started, in milliseconds since 1970.
    pub since_ms: u64,
    /// When it said this, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Presence {
    /// A worker of this name that has done nothing yet.
    pub fn new(name: &TaskId, host: String, mode: &str, jail: &str, jobs: u64) -> Self {
        let now = super::now_ms();
        Presence {
            v: super::FIRST_VERSION,
            id: name.with_random(),
            name: name.to_string(),
            host,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: mode.to_owned(),
            jail: jail.to_owned(),
            jobs,
            running: 0,
            answered: 0,
            late: 0,
            given_back: 0,
            buried: 0,
            modules: 0,
            draining: false,
            since_ms: now,
            at_ms: now,
        }
    }

    /// The name, for people.
    pub fn shown(&self) -> &str {
        match self.name.is_empty() {
            true => self.id.as_str(),
            false => &self.name,
        }
    }
}
