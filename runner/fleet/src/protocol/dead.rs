//! A buried task: a message in the stream of the dead.

use super::name::{TaskId, Token};
use super::{Answer, FIRST_VERSION, cut, now_ms};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

/// A task that was buried, with the message as it was, so that it can be queued again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadTask {
    /// The version of the protocol.
    pub v: u32,
    /// The task, if the message has a valid identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TaskId>,
    /// Its class.
    pub class: Token,
    /// Its tenant.
    pub tenant: Token,
    /// Why it was buried.
    pub why: String,
    /// How often it was delivered.
    pub deliveries: u64,
    /// The worker that buried it.
    pub worker: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The message, in base64; absent if it was longer than 512 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_base64: Option<String>,
}

impl DeadTask {
    pub(crate) fn new(
        id: Option<TaskId>,
        (class, tenant): (Token, Token),
        why: &str,
        deliveries: u64,
        worker: &str,
        message: &[u8],
    ) -> Self {
        let fits = message.len() <= super::MAX_MESSAGE;
        DeadTask {
            v: FIRST_VERSION,
            id,
            class,
            tenant,
            why: cut(why, Answer::MAX_WHY),
            deliveries,
            worker: worker.to_owned(),
            at_ms: now_ms(),
            message_base64: fits.then(|| BASE64_STANDARD.encode(message)),
        }
    }

    /// The message that was buried.
    pub(crate) fn message(&self) -> Option<Vec<u8>> {
        BASE64_STANDARD.decode(self.message_base64.as_ref()?).ok()
    }
}
