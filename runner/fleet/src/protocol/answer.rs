//! What became of a task: the value of its key in the bucket of results.

use super::content::ObjectRef;
use super::name::TaskId;
use super::{FIRST_VERSION, cut, now_ms};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The one result of a task.
///
/// With serde it has the form of `docs/fleet/result.schema.json`. Unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Answer {
    /// The version of the protocol.
    pub v: u32,
    /// The task.
    pub id: TaskId,
    /// Which kind of answer it is.
    pub kind: AnswerKind,
    /// Why the task did not run, in words; absent in a report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The report, in the form of `docs/report.schema.json`; without `stdout` or `stderr` where
    /// those are objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Value>,
    /// The object that has stdout, if it is long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<ObjectRef>,
    /// The object that has stderr, if it is long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<ObjectRef>,
    /// The worker that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// How often the queue delivered the task to a worker, up to this answer.
    #[serde(default)]
    pub deliveries: u64,
    /// When it was answered, in milliseconds since 1970.
    #[serde(default)]
    pub at_ms: u64,
}

/// Kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AnswerKind {
    /// The task ran, and the report says how it ended.
    Report,
    /// It asks for what it cannot get: a grant that is not defined, a module that is none.
    Refused,
    /// Its deadline had passed before it could begin.
    Expired,
    /// It was cancelled.
    Cancelled,
    /// It took too many workers down, or the message is not valid: it is in the stream of the
    /// dead.
    Buried,
}

/// How reports say that tasks ended.
const OUTCOMES: [&str; 7] = [
    "completed",
    "failed",
    "exited",
    "trapped",
    "limit-exceeded",
    "crashed",
    "cancelled",
];

impl AnswerKind {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            AnswerKind::Report => "report",
            AnswerKind::Refused => "refused",
            AnswerKind::Expired => "expired",
            AnswerKind::Cancelled => "cancelled",
            AnswerKind::Buried => "buried",
        }
    }
}

impl Answer {
    /// Maximum of [`Answer::why`] in bytes.
    pub const MAX_WHY: usize = 4096;
    /// Maximum of an encoded answer in bytes: 768 KiB.
    pub const MAX: usize = 768 << 10;

    /// The answer with this report.
    pub(crate) fn report(id: TaskId, report: Value) -> Self {
        let mut answer = Answer::without_report(id, AnswerKind::Report, "");
        (answer.why, answer.report) = (None, Some(report));
        answer
    }

    /// An answer of another kind, and why.
    pub(crate) fn without_report(id: TaskId, kind: AnswerKind, why: &str) -> Self {
        Answer {
            v: FIRST_VERSION,
            id,
            kind,
            why: Some(cut(why, Self::MAX_WHY)),
            report: None,
            stdout: None,
            stderr: None,
            worker: None,
            deliveries: 0,
            at_ms: now_ms(),
        }
    }

    /// How the task ended, in a word of a few: what its report says, or the kind of answer.
    pub(crate) fn outcome(&self) -> &'static str {
        let Some(report) = &self.report else {
            return self.kind.name();
        };
        let kind = report.pointer("/outcome/kind").and_then(Value::as_str);
        let known = OUTCOMES.into_iter().find(|known| Some(*known) == kind);
        known.unwrap_or("other")
    }

    /// In one line for people.
    pub fn message(&self) -> String {
        let outcome = || {
            let outcome = self.report.as_ref()?.get("outcome")?;
            let kind = outcome.get("kind")?.as_str()?;
            Some(match outcome.get("message").and_then(Value::as_str) {
                Some(why) => format!("{kind}: {}", why.lines().next().unwrap_or_default()),
                None => kind.to_owned(),
            })
        };
        match (&self.why, outcome()) {
            (Some(why), _) => format!("{}: {why}", self.kind.name()),
            (None, Some(outcome)) => outcome,
            (None, None) => self.kind.name().to_owned(),
        }
    }

    /// The bytes of the value.
    pub(crate) fn encode(&self) -> Result<Bytes, String> {
        let bytes = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        match bytes.len() <= Self::MAX {
            true => Ok(bytes.into()),
            false => Err(format!(
                "the answer has {} bytes: at most {} are allowed",
                bytes.len(),
                Self::MAX
            )),
        }
    }

    /// Reads a value.
    ///
    /// # Errors
    ///
    /// The bytes are not an answer, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("not a result of wrun: {error}"))
    }
}
