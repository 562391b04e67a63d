//! The messages of a fleet: pure data, without I/O. `docs/fleet.md` describes them for clients
//! in other languages, `docs/fleet/*.json` as JSON schemas.
//!
//! Invariant: nothing in a message is trusted. A length is checked before anything is kept, an
//! unknown field is an error, and no field can grant anything: grants are names, whose meaning
//! the operator of a worker decides.

mod answer;
mod content;
mod dead;
mod name;
mod presence;
mod task_message;

pub use answer::{Answer, AnswerKind};
pub(crate) use content::Checked;
pub use content::{Content, ObjectRef};
pub use dead::DeadTask;
pub use name::{Digest, InvalidName, TaskId, Token};
pub use presence::Presence;
pub use task_message::{Malformed, ModuleRef, TaskLimits, TaskMessage};

/// The latest version of tasks that this crate knows. Version 2 has child tasks; one that has
/// none is written as version 1, which all workers know.
pub const VERSION: u32 = 2;

/// The version of all other messages: results, workers, the dead.
pub(crate) const FIRST_VERSION: u32 = 1;

/// Maximum of a message on the queue, in bytes: 512 KiB. A server takes 1 MiB by default.
pub const MAX_MESSAGE: usize = 512 << 10;

/// Maximum of an input or an output within a message, in bytes: 64 KiB. What is larger is an
/// object.
pub const MAX_INLINE: usize = 64 << 10;

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Text for people from outside, cut to a length in bytes.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at));
    format!("{}...", &text[..end.unwrap_or(0)])
}
