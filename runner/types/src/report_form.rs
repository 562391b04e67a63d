//! The JSON form of a report (`docs/report.schema.json`), for serde.

use crate::config::{Jail, Mode};
use crate::jail_report::{JailReport, LayerReport};
use crate::limits::Limit;
use crate::outcome::{Crash, Outcome, Output, Trap, TrapKind};
use crate::report::{Denial, Report, Stats};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The version of the schema.
const SCHEMA: u32 = 1;

/// See the [module](self).
#[derive(Serialize, Deserialize)]
pub(crate) struct Form {
    schema: u32,
    task: TaskForm,
    mode: Mode,
    outcome: OutcomeForm,
    stats: Stats,
    jail: Option<JailForm>,
    /// If no worker reported its walls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jail_mode: Option<Jail>,
    denied: Vec<Denial>,
    notes: Vec<String>,
    stdout_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stdout: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stdout_base64: Option<String>,
    stderr_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stderr_base64: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct TaskForm {
    id: u64,
    name: String,
    attempt: u32,
}

#[derive(Serialize, Deserialize)]
struct JailForm {
    mode: Jail,
    layers: Vec<LayerReport>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum OutcomeForm {
    Completed,
    Failed {
        message: String,
    },
    Exited {
        code: u8,
    },
    Trapped {
        trap: TrapKind,
        message: String,
    },
    LimitExceeded {
        limit: Limit,
        limit_value: Option<u64>,
    },
    Crashed {
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<i32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        protocol: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker_stderr: Option<String>,
    },
    Cancelled,
}

impl From<Report> for Form {
    fn from(report: Report) -> Self {
        let outcome = match report.outcome {
            Outcome::Completed(_) => OutcomeForm::Completed,
            Outcome::Failed(message) => OutcomeForm::Failed { message },
            Outcome::Exited(code) => OutcomeForm::Exited { code },
            Outcome::Trapped(Trap { kind, message }) => OutcomeForm::Trapped {
                trap: kind,
                message,
            },
            Outcome::LimitExceeded(limit) => OutcomeForm::LimitExceeded {
                limit,
                limit_value: report.limit_value,
            },
            Outcome::Crashed(crash) => of_crash(&crash),
            Outcome::Cancelled => OutcomeForm::Cancelled,
        };
        let jail_mode = report.jail_mode.filter(|_| report.jail.is_none());
        let stdout_bytes = report.stdout.len() as u64;
        let stderr_bytes = report.stderr.len() as u64;
        let (stdout, stdout_base64) = captured(&report.stdout);
        let (stderr, stderr_base64) = captured(&report.stderr);
        Form {
            schema: SCHEMA,
            task: TaskForm {
                id: report.task_id,
                name: report.name,
                attempt: report.attempt,
            },
            mode: report.mode,
            outcome,
            stats: report.stats,
            jail: report.jail.map(|jail| JailForm {
                mode: report.jail_mode.unwrap_or_default(),
                layers: jail.layers,
            }),
            jail_mode,
            denied: report.denied,
            notes: report.notes,
            stdout_bytes,
            stdout,
            stdout_base64,
            stderr_bytes,
            stderr,
            stderr_base64,
        }
    }
}

impl TryFrom<Form> for Report {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        if form.schema != SCHEMA {
            let schema = form.schema;
            return Err(format!(
                "the report has version {schema} of the schema: expected {SCHEMA}"
            ));
        }
        let stdout = bytes("stdout", form.stdout_bytes, form.stdout, form.stdout_base64)?;
        let stderr = bytes("stderr", form.stderr_bytes, form.stderr, form.stderr_base64)?;
        let mut limit_value = None;
        let outcome = match form.outcome {
            OutcomeForm::Completed => Outcome::Completed(Output(stdout.clone())),
            OutcomeForm::Failed { message } => Outcome::Failed(message),
            OutcomeForm::Exited { code } => Outcome::Exited(code),
            OutcomeForm::Trapped { trap, message } => Outcome::Trapped(Trap::new(trap, message)),
            OutcomeForm::LimitExceeded {
                limit,
                limit_value: value,
            } => {
                limit_value = value;
                Outcome::LimitExceeded(limit)
            }
            OutcomeForm::Crashed {
                message: _,
                signal,
                status,
                protocol,
                worker_stderr,
            } => {
                let crash = match (signal, status, protocol) {
                    (Some(signal), _, _) => Crash::Signal(signal),
                    (None, Some(status), _) => Crash::Exit(status),
                    (None, None, Some(what)) => Crash::Protocol(what),
                    (None, None, None) => Crash::Lost,
                };
                Outcome::Crashed(crash.with_words(worker_stderr))
            }
            OutcomeForm::Cancelled => Outcome::Cancelled,
        };
        let jail_mode = form.jail.as_ref().map(|jail| jail.mode).or(form.jail_mode);
        let mut report = Report::new(form.task.id, &form.task.name, form.mode, outcome);
        report.attempt = form.task.attempt;
        report.limit_value = limit_value;
        report.stats = form.stats;
        report.denied = form.denied;
        report.jail_mode = jail_mode;
        report.jail = form.jail.map(|jail| JailReport::new(jail.layers));
        report.notes = form.notes;
        report.stdout = stdout;
        report.stderr = stderr;
        Ok(report)
    }
}

fn of_crash(crash: &Crash) -> OutcomeForm {
    let (mut signal, mut status, mut protocol) = (None, None, None);
    match crash.how() {
        Crash::Signal(number) => signal = Some(*number),
        Crash::Exit(number) => status = Some(*number),
        Crash::Protocol(what) => protocol = Some(what.clone()),
        // The rest is only in the message, or never that of a submitted task.
        _ => {}
    }
    OutcomeForm::Crashed {
        message: crash.to_string(),
        signal,
        status,
        protocol,
        worker_stderr: crash.words().map(str::to_owned),
    }
}

/// As text, or in base64 if it is not UTF-8; neither if it is empty.
fn captured(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok("") => (None, None),
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(BASE64_STANDARD.encode(bytes))),
    }
}

/// The reverse. Reports of streamed output have no bytes.
fn bytes(
    what: &str,
    len: u64,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Bytes, String> {
    let bytes = match (text, base64) {
        (None, None) => return Ok(Bytes::new()),
        (Some(text), _) => text.into_bytes(),
        (None, Some(text)) => BASE64_STANDARD
            .decode(text)
            .map_err(|error| format!("{what}_base64 is not base64: {error}"))?,
    };
    match bytes.len() as u64 == len {
        true => Ok(bytes.into()),
        false => Err(format!(
            "{what} has {} bytes: expected {len}, as {what}_bytes says",
            bytes.len()
        )),
    }
}

/// A duration as nanoseconds.
pub(crate) mod ns {
    use crate::report::nanos;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(
        time: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(nanos(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_nanos)
    }
}

/// The same, if it may be unknown.
pub(crate) mod optional_ns {
    use crate::report::nanos;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(nanos).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_nanos))
    }
}
