//! What became of one input, and its form in JSON.

use crate::chain::Chain;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;
use wrun::{Outcome, Report, Stats};

/// How much of a failed task's stderr its record has, in bytes: the end of it.
const STDERR: usize = 4096;

/// What became of one input.
#[derive(Debug)]
pub struct Record {
    /// The position of the input, from 0.
    pub index: u64,
    /// Its name.
    pub name: String,
    /// What was carried along with it.
    pub carried: Option<Value>,
    /// Its length in bytes, if it is known.
    pub input_bytes: Option<u64>,
    /// How often its task was run: more than once after crashes.
    pub attempts: u32,
    /// How it ended.
    pub ending: Ending,
    /// The file that has its output.
    pub file: Option<String>,
    /// When it was submitted, since the start of the batch.
    pub submitted: Duration,
    /// When it ended, since the start of the batch.
    pub ended: Duration,
    /// What stands for the input in the name of a file.
    pub(crate) text: Option<String>,
    pub(crate) chain: Chain,
}

/// How an input ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ending {
    /// The task ran.
    Ran(Box<Report>),
    /// It did not: the input could not be given to it.
    NotRun(String),
    /// The task completed, and its output could not become a file.
    NotWritten(String),
}

impl Record {
    /// The kind of the outcome: as [`Outcome::kind`], or `not-run`, or `not-written`.
    pub fn kind(&self) -> &'static str {
        match &self.ending {
            Ending::Ran(report) => report.outcome.kind(),
            Ending::NotRun(_) => "not-run",
            Ending::NotWritten(_) => "not-written",
        }
    }

    /// Whether the task completed, and its output is where it should be.
    pub fn is_completed(&self) -> bool {
        matches!(&self.ending, Ending::Ran(report) if report.outcome.is_completed())
    }

    /// The output of a completed task.
    pub fn output(&self) -> Option<&Bytes> {
        match &self.ending {
            Ending::Ran(report) => report.outcome.output().map(|output| &output.0),
            _ => None,
        }
    }

    /// The costs, if it ran.
    pub fn stats(&self) -> Option<&Stats> {
        match &self.ending {
            Ending::Ran(report) => Some(&report.stats),
            _ => None,
        }
    }

    /// How it ended, in one line for people.
    pub fn message(&self) -> String {
        match &self.ending {
            Ending::Ran(report) => report.outcome.to_string(),
            Ending::NotRun(why) | Ending::NotWritten(why) => why.clone(),
        }
    }

    /// Bytes that it keeps in memory, apart from a fixed part.
    pub(crate) fn held(&self) -> u64 {
        match &self.ending {
            Ending::Ran(report) => (report.stdout.len() + report.stderr.len()) as u64,
            _ => 0,
        }
    }

    /// Adds it to `line` as one line of JSON.
    ///
    /// # Errors
    ///
    /// None that are known: JSON has a form for everything in it.
    pub(crate) fn write_json(&self, form: Form, line: &mut Vec<u8>) -> serde_json::Result<()> {
        let (mut output, mut output_base64) = (None, None);
        if let Some(bytes) = self.output().filter(|_| form.output) {
            match std::str::from_utf8(bytes) {
                Ok(text) => output = Some(text),
                Err(_) => output_base64 = Some(BASE64_STANDARD.encode(bytes)),
            }
        }
        let stderr = match &self.ending {
            Ending::Ran(report) if !report.outcome.is_completed() => tail(&report.stderr),
            _ => None,
        };
        let line_of = Line {
            index: self.index,
            name: &self.name,
            outcome: self.outcome(),
            attempts: form.stats.then_some(self.attempts),
            input_bytes: self.input_bytes,
            stats: self.stats().filter(|_| form.stats),
            file: self.file.as_deref(),
            output,
            output_base64,
            stderr,
            row: self.carried.as_ref(),
        };
        serde_json::to_writer(&mut *line, &line_of)?;
        line.push(b'\n');
        Ok(())
    }

    fn outcome(&self) -> OutcomeForm<'_> {
        match &self.ending {
            Ending::Ran(report) => match &report.outcome {
                Outcome::Completed(_) => OutcomeForm::Plain { kind: "completed" },
                // Its form is that of a report.
                _ => OutcomeForm::Whole(report.to_json()["outcome"].take()),
            },
            Ending::NotRun(message) | Ending::NotWritten(message) => OutcomeForm::Message {
                kind: self.kind(),
                message,
            },
        }
    }
}

/// What a line of JSON has beside the outcome.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// The output.
    pub(crate) output: bool,
    /// What differs from run to run: times, attempts.
    pub(crate) stats: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    index: u64,
    name: &'a str,
    outcome: OutcomeForm<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    input_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<&'a Stats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stderr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<&'a Value>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum OutcomeForm<'a> {
    Plain { kind: &'a str },
    Message { kind: &'a str, message: &'a str },
    Whole(Value),
}

/// The end of what a task wrote to stderr.
fn tail(stderr: &[u8]) -> Option<String> {
    let start = stderr.len().saturating_sub(STDERR);
    let text = String::from_utf8_lossy(&stderr[start..]);
    (!text.is_empty()).then(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wrun::{Mode, Output, Trap, TrapKind};

    fn record(ending: Ending) -> Record {
        Record {
            index: 3,
            name: "a/b".into(),
            carried: Some(json!({"id": 1})),
            input_bytes: Some(5),
            attempts: 1,
            ending,
            file: None,
            submitted: Duration::ZERO,
            ended: Duration::ZERO,
            text: None,
            chain: [0; 32],
        }
    }

    fn ran(outcome: Outcome) -> Ending {
        let mut report = Report::new(1, "t", Mode::Thread, outcome);
        report.stderr = "words".into();
        Ending::Ran(Box::new(report))
    }

    fn json_of(record: &Record, stats: bool) -> Value {
        let mut line = Vec::new();
        let form = Form {
            output: true,
            stats,
        };
        record.write_json(form, &mut line).expect("JSON");
        assert_eq!(line.pop(), Some(b'\n'));
        serde_json::from_slice(&line).expect("JSON")
    }

    #[test]
    fn output_is_text_or_base64() {
        let completed = |bytes: &'static [u8]| ran(Outcome::Completed(Output(bytes.into())));
        let line = json_of(&record(completed(b"\"x\"\n")), false);
        let expected = json!({
            "index": 3, "name": "a/b", "outcome": {"kind": "completed"}, "input_bytes": 5,
            "output": "\"x\"\n", "row": {"id": 1},
        });
        assert_eq!(line, expected);
        let line = json_of(&record(completed(b"\xff")), true);
        assert_eq!(line["output_base64"], "/w==");
        assert!(
            line["stats"]["run_ns"].is_u64() && line["attempts"] == 1,
            "{line}"
        );
    }

    #[test]
    fn what_failed_says_why() {
        let trap = Trap::new(TrapKind::Arithmetic, "by zero");
        let line = json_of(&record(ran(Outcome::Trapped(trap))), false);
        assert_eq!(line["outcome"]["kind"], "trapped");
        assert_eq!(line["outcome"]["message"], "by zero");
        assert_eq!(line["stderr"], "words");
        assert!(line.get("output").is_none(), "{line}");
        let line = json_of(&record(Ending::NotRun("gone".into())), true);
        assert_eq!(
            line["outcome"],
            json!({"kind": "not-run", "message": "gone"})
        );
    }
}
