//! The schedule as a file for Perfetto or Chrome (`chrome://tracing`): what ran when, beside what.
//!
//! The format is the [Trace Event Format], as an array of asynchronous events, which a viewer
//! puts into as many rows as run at the same time.
//!
//! [Trace Event Format]: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU

use crate::error::Error;
use crate::output::Stream;
use crate::record::Record;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// A file for Perfetto (ui.perfetto.dev) or `chrome://tracing`: what ran when, beside what.
#[derive(Debug)]
pub struct Trace {
    to: Stream,
    line: Vec<u8>,
}

impl Trace {
    /// Writes to this file.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn create(path: &Path, task: &str) -> Result<Self, Error> {
        let mut to = Stream::create(path)?;
        let name = json!({"name": "process_name", "ph": "M", "pid": 1, "args": {"name": task}});
        to.write(format!("[\n{name}").as_bytes())?;
        Ok(Trace {
            to,
            line: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, record: &Record) -> Result<(), Error> {
        let Some(stats) = record.stats() else {
            return Ok(());
        };
        let ran = stats.start + stats.run;
        let began = record.ended.saturating_sub(ran).max(record.submitted);
        self.line.clear();
        let waited = began.saturating_sub(record.submitted);
        if waited > Duration::from_micros(100) {
            self.event("queue", "queued", record, (record.submitted, began));
        }
        self.event("task", record.kind(), record, (began, record.ended));
        let line = std::mem::take(&mut self.line);
        self.to.write(&line)?;
        self.line = line;
        Ok(())
    }

    fn event(&mut self, category: &str, kind: &str, record: &Record, times: (Duration, Duration)) {
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        let (began, ended) = (micros(times.0), micros(times.1));
        let id = record.index;
        let name = match category {
            "task" => &record.name,
            _ => kind,
        };
        let begin = json!({
            "name": name, "cat": category, "ph": "b", "id": id, "pid": 1, "tid": 1, "ts": began,
            "args": {
                "index": id, "outcome": kind, "attempts": record.attempts,
                "worker_pid": record.stats().and_then(|stats| stats.worker_pid),
                "input_bytes": record.input_bytes,
            },
        });
        let end = json!({
            "name": name, "cat": category, "ph": "e", "id": id, "pid": 1, "tid": 1, "ts": ended,
        });
        self.line
            .extend_from_slice(format!(",\n{begin},\n{end}").as_bytes());
    }

    /// Ends the array.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        self.to.write(b"\n]\n")?;
        self.to.flush(false).map(drop)
    }
}
