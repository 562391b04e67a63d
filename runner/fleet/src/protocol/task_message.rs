//! A task on the queue.

use super::content::{Checked, Content};
use super::name::{Digest, TaskId};
use super::{FIRST_VERSION, MAX_MESSAGE, VERSION, cut};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;
use wrun::{Limits, Task, TaskGrant};

/// A task as it is published to `wrun.task.<class>.<tenant>`.
///
/// With serde it has the form of `docs/fleet/task.schema.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TaskMessage {
    /// The version of the protocol. What is written has at least the one that its fields need.
    pub v: u32,
    /// The task's identifier, which is the key of its result.
    pub id: TaskId,
    /// What to run.
    pub module: ModuleRef,
    /// The name in reports, and the first of the guest's arguments. Default: that of the module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Arguments, without the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The input.
    #[serde(default, skip_serializing_if = "Content::is_empty")]
    pub input: Content,
    /// Limits, below those of the worker's operator.
    #[serde(default, skip_serializing_if = "TaskLimits::is_default")]
    pub limits: TaskLimits,
    /// Names of grants that the operators of workers have defined.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<String>,
    /// What the task and its child tasks may start, under these names. From version 2 on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<String, ModuleRef>,
    /// When the task must have ended, in milliseconds since 1970. One that has not begun by then
    /// is answered `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// New attempts after the jailed process of the task crashed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// How many workers may be lost while they run it, before it is buried: 1 to 100, default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lost: Option<u32>,
    /// A subject to publish the answer to, below `_INBOX.` or `wrun.reply.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The span of the submitter, in the form of the W3C's `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Whether it may have been submitted before: a worker then looks for a result first.
    #[serde(default, skip_serializing_if = "is_false")]
    pub resubmitted: bool,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What to run: exactly one of the fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleRef {
    /// The digest of a module in the store of modules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<Digest>,
    /// The name of a module that the operators of workers have defined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl ModuleRef {
    fn check(&self, what: &str) -> Result<(), String> {
        match (&self.blake3, &self.name) {
            (Some(_), None) => Ok(()),
            (None, Some(name)) => check_name("module", name),
            _ => Err(format!("{what} must have exactly one of blake3 and name")),
        }
    }
}

impl From<Digest> for ModuleRef {
    fn from(digest: Digest) -> Self {
        ModuleRef {
            blake3: Some(digest),
            name: None,
        }
    }
}

/// Limits of a task; one that is missing is that of the worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskLimits {
    /// Time to run, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Units of fuel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// Linear memory in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<u64>,
    /// Output in bytes, stdout and stderr each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output: Option<u64>,
    /// Input in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_input: Option<u64>,
    /// Child tasks at the same time, on all levels together. From version 2 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tasks: Option<u32>,
    /// Levels of child tasks. From version 2 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_depth: Option<u32>,
}

impl TaskLimits {
    fn is_default(&self) -> bool {
        *self == TaskLimits::default()
    }

    /// Those of these limits that a message has; those of child tasks are the worker's.
    pub fn of(limits: &Limits) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        TaskLimits {
            timeout_ms: limits.timeout.map(|time| millis(time).max(1)),
            fuel: limits.fuel,
            max_memory: Some(limits.max_memory),
            max_output: limits.max_output,
            max_input: limits.max_input,
            max_tasks: None,
            max_depth: None,
        }
    }
}

/// Why bytes are not a task that this crate can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The identifier, if the message has a valid one.
    pub id: Option<TaskId>,
    /// Whether it is of a later version of the protocol.
    pub is_newer: bool,
    /// What is wrong.
    pub why: String,
}

impl TaskMessage {
    /// Maximum of arguments, and of grants: 4,096 and 64.
    pub const MAX_ARGS: usize = 4096;
    /// See [`TaskMessage::MAX_ARGS`].
    pub const MAX_GRANTS: usize = 64;
    /// The default of [`TaskMessage::max_lost`].
    pub const MAX_LOST: u32 = 3;
    const MOST_LOST: u32 = 100;
    /// Maximum of [`TaskMessage::tasks`]: 64.
    pub const MAX_TASKS: usize = 64;
    const MAX_NAME: usize = 256;

    /// A task without arguments, input, grants or limits.
    pub fn new(id: TaskId, module: ModuleRef) -> Self {
        TaskMessage {
            v: FIRST_VERSION,
            id,
            module,
            name: None,
            args: Vec::new(),
            input: Content::default(),
            limits: TaskLimits::default(),
            grants: Vec::new(),
            tasks: BTreeMap::new(),
            deadline_ms: None,
            retries: 0,
            max_lost: None,
            reply_to: None,
            traceparent: None,
            resubmitted: false,
        }
    }

    /// The bytes to publish.
    ///
    /// # Errors
    ///
    /// What a worker would refuse, in words.
    pub fn encode(&self) -> Result<Bytes, String> {
        let mut message = Cow::Borrowed(self);
        if self.v < self.needs() {
            message.to_mut().v = self.needs();
        }
        message.check()?;
        let bytes = serde_json::to_vec(&*message).map_err(|error| error.to_string())?;
        match bytes.len() <= MAX_MESSAGE {
            true => Ok(bytes.into()),
            false => Err(too_long(bytes.len())),
        }
    }

    /// Reads what was published.
    ///
    /// # Errors
    ///
    /// The bytes are not a valid message of a version up to [`VERSION`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        Self::decode_up_to(bytes, VERSION)
    }

    /// The same for a worker that knows versions up to this one.
    pub(crate) fn decode_up_to(bytes: &[u8], known: u32) -> Result<Self, Malformed> {
        /// What all versions have.
        #[derive(Deserialize)]
        struct Head {
            v: u32,
            #[serde(default)]
            id: Option<String>,
        }
        let malformed = |id, why| Malformed {
            id,
            is_newer: false,
            why,
        };
        if bytes.len() > MAX_MESSAGE {
            return Err(malformed(None, too_long(bytes.len())));
        }
        let head: Head = serde_json::from_slice(bytes)
            .map_err(|error| malformed(None, format!("not a message of wrun: {error}")))?;
        let id = head.id.and_then(|id| id.parse::<TaskId>().ok());
        if head.v > known {
            return Err(Malformed {
                id,
                is_newer: true,
                why: format!(
                    "the message has version {}, and this worker knows versions up to {known}",
                    head.v
                ),
            });
        }
        if head.v == 0 {
            return Err(malformed(id, "the version of the message is 0".into()));
        }
        let message: TaskMessage = serde_json::from_slice(bytes)
            .map_err(|error| malformed(id.clone(), error.to_string()))?;
        message.check().map_err(|why| malformed(id, why))?;
        Ok(message)
    }

    /// The least version that has all its fields.
    fn needs(&self) -> u32 {
        let limits = &self.limits;
        let has_tree =
            !self.tasks.is_empty() || limits.max_tasks.is_some() || limits.max_depth.is_some();
        if has_tree { 2 } else { FIRST_VERSION }
    }

    fn check(&self) -> Result<(), String> {
        if self.v < self.needs() {
            return Err(format!(
                "the message has version {}: tasks, max_tasks and max_depth need version {}",
                self.v,
                self.needs()
            ));
        }
        self.module.check("module")?;
        if self.tasks.len() > Self::MAX_TASKS {
            let (tasks, most) = (self.tasks.len(), Self::MAX_TASKS);
            return Err(format!("{tasks} child tasks: at most {most} are allowed"));
        }
        for (name, module) in &self.tasks {
            check_name("child task", name)?;
            if name.len() > TaskGrant::MAX_NAME {
                let most = TaskGrant::MAX_NAME;
                return Err(format!(
                    "the name of a child task has more than {most} bytes"
                ));
            }
            module.check("the module of a child task")?;
        }
        if let Some(name) = &self.name {
            check_name("task", name)?;
        }
        if self.args.len() > Self::MAX_ARGS {
            let args = self.args.len();
            return Err(format!(
                "{args} arguments: at most {} are allowed",
                Self::MAX_ARGS
            ));
        }
        if self.grants.len() > Self::MAX_GRANTS {
            let grants = self.grants.len();
            return Err(format!(
                "{grants} grants: at most {} are allowed",
                Self::MAX_GRANTS
            ));
        }
        self.grants
            .iter()
            .try_for_each(|name| check_name("grant", name))?;
        self.input.check()?;
        if self.limits.timeout_ms == Some(0) {
            return Err("timeout_ms must be greater than zero".into());
        }
        if self.retries > Task::MAX_RETRIES {
            let most = Task::MAX_RETRIES;
            return Err(format!("retries is {}: expected 0 to {most}", self.retries));
        }
        if self
            .max_lost
            .is_some_and(|lost| !(1..=Self::MOST_LOST).contains(&lost))
        {
            return Err(format!("max_lost must be 1 to {}", Self::MOST_LOST));
        }
        if self.traceparent.as_ref().is_some_and(|it| it.len() > 128) {
            return Err("traceparent has more than 128 bytes".into());
        }
        self.reply_to.as_deref().map_or(Ok(()), check_reply_to)
    }

    /// The input, which [`TaskMessage::decode`] has checked.
    pub(crate) fn checked_input(&self) -> Result<Checked, String> {
        self.input.check()
    }

    /// How many workers it may take down.
    pub(crate) fn most_lost(&self) -> u64 {
        self.max_lost.unwrap_or(Self::MAX_LOST).into()
    }
}

fn too_long(len: usize) -> String {
    format!("the message has {len} bytes: at most {MAX_MESSAGE} are allowed")
}

fn check_name(of: &str, name: &str) -> Result<(), String> {
    let is_bad =
        name.is_empty() || name.len() > TaskMessage::MAX_NAME || name.chars().any(char::is_control);
    match is_bad {
        false => Ok(()),
        true => Err(format!(
            "the name of the {of} is {:?}: expected 1 to {} bytes without control characters",
            cut(name, 64),
            TaskMessage::MAX_NAME
        )),
    }
}

/// A worker publishes there with its own rights, so it must not be a subject of the server's or
/// of the queue.
fn check_reply_to(subject: &str) -> Result<(), String> {
    let is_reply = subject.starts_with("_INBOX.") || subject.starts_with("wrun.reply.");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let has_parts = subject
        .split('.')
        .all(|part| !part.is_empty() && part.chars().all(is_plain));
    match subject.len() <= 256 && is_reply && has_parts {
        true => Ok(()),
        false => Err(format!(
            "reply_to is {:?}: expected a subject below _INBOX. or wrun.reply., without wildcards",
            cut(subject, 64)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn message() -> Value {
        json!({"v": 1, "id": "a.1", "module": {"blake3": "0".repeat(64)}})
    }

    fn decode(value: &Value) -> Result<TaskMessage, Malformed> {
        TaskMessage::decode(&serde_json::to_vec(value).expect("JSON"))
    }

    #[test]
    fn the_least_message_is_valid_and_stays_the_same() {
        let decoded = decode(&message()).expect("valid");
        let encoded = decoded.encode().expect("encoded");
        let again: Value = serde_json::from_slice(&encoded).expect("JSON");
        assert_eq!(again, message());
    }

    #[test]
    fn hostile_messages_have_words() {
        let with = |field: &str, value: Value| {
            let mut message = message();
            message[field] = value;
            decode(&message).expect_err(field)
        };
        for (field, value, words) in [
            ("v", json!(0), "version"),
            ("v", json!(-1), "not a message"),
            ("id", json!("a/../b"), "not the id"),
            ("module", json!({}), "exactly one"),
            (
                "module",
                json!({"blake3": "0".repeat(64), "name": "x"}),
                "exactly one",
            ),
            ("module", json!({"blake3": "xyz"}), "BLAKE3"),
            ("module", json!({"path": "/etc/passwd"}), "unknown field"),
            ("dirs", json!(["/"]), "unknown field"),
            ("grants", json!(["a\u{0}"]), "control"),
            ("grants", json!(vec!["a"; 65]), "65 grants"),
            ("args", json!(vec![""; 4097]), "4097 arguments"),
            (
                "input",
                json!({"text": "a", "base64": "YQ=="}),
                "more than one",
            ),
            ("input", json!({"base64": "?"}), "not base64"),
            ("input", json!({"text": "a".repeat(70_000)}), "object store"),
            ("retries", json!(101), "retries"),
            ("max_lost", json!(0), "max_lost"),
            ("reply_to", json!("$JS.API.STREAM.DELETE.x"), "reply_to"),
            ("reply_to", json!("wrun.task.high.a"), "reply_to"),
            ("reply_to", json!("_INBOX.>"), "reply_to"),
            ("limits", json!({"timeout_ms": 0}), "timeout_ms"),
            ("limits", json!({"max_memory": -5}), "invalid value"),
        ] {
            let malformed = with(field, value);
            assert!(malformed.why.contains(words), "{field}: {malformed:?}");
            assert!(!malformed.is_newer);
        }
        let object = json!({"object": {"name": "../x", "bytes": 1, "blake3": "0".repeat(64)}});
        assert!(with("input", object).why.contains("name of the object"));
        assert!(TaskMessage::decode(&vec![b' '; MAX_MESSAGE + 1]).is_err());
        assert!(TaskMessage::decode("[".repeat(100_000).as_bytes()).is_err());
        assert!(TaskMessage::decode(b"\xff").is_err());
    }

    #[test]
    fn what_has_no_child_tasks_is_readable_by_all_workers() {
        let mut decoded = decode(&message()).expect("valid");
        assert_eq!(decoded.v, 1);
        let module = decoded.module.clone();
        decoded.tasks.insert("part".into(), module);
        let bytes = decoded.encode().expect("encoded");
        assert!(
            TaskMessage::decode_up_to(&bytes, 1)
                .expect_err("new")
                .is_newer
        );
        let again = TaskMessage::decode(&bytes).expect("valid");
        assert_eq!((again.v, again.tasks.len()), (2, 1));
        let mut first = message();
        first["tasks"] = json!({"part": {"name": "x"}});
        assert!(
            decode(&first)
                .expect_err("version 1")
                .why
                .contains("need version 2")
        );
        first["v"] = json!(2);
        assert!(decode(&first).is_ok());
        for (tasks, words) in [
            (json!({"part": {}}), "exactly one"),
            (json!({"": {"name": "x"}}), "name of the child task"),
            (
                json!({"a".repeat(300): {"name": "x"}}),
                "name of the child task",
            ),
        ] {
            first["tasks"] = tasks;
            let why = decode(&first).expect_err(words).why;
            assert!(why.contains(words), "{why}");
        }
        let many = (0..65).map(|number| (number.to_string(), json!({"name": "x"})));
        first["tasks"] = Value::Object(many.collect());
        assert!(
            decode(&first)
                .expect_err("many")
                .why
                .contains("65 child tasks")
        );
    }

    #[test]
    fn a_later_version_is_not_an_error_of_the_message() {
        let mut later = message();
        (later["v"], later["colour"]) = (json!(3), json!("red"));
        let malformed = decode(&later).expect_err("later");
        assert!(malformed.is_newer);
        assert_eq!(malformed.id, "a.1".parse().ok());
    }
}
