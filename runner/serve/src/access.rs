//! The access log: a line for each request, when it is over.
//!
//! Invariant: a log that is not taken holds up no request: a thread of its own writes it, and
//! lines beyond [`MAX_LINES`] are counted and lost.

use crate::metrics::LostLines;
use crate::record::{Ended, Line, Record};
use serde_json::{Map, Value, json};
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Lines that wait to be written.
const MAX_LINES: usize = 4096;

/// The form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessFormat {
    /// The combined log format of other servers, followed by what they do not have:
    /// `task=7 outcome=completed time=0.004 cpu=0.003`.
    Combined,
    /// One JSON object on each line.
    Json,
}

impl FromStr for AccessFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "combined" => Ok(AccessFormat::Combined),
            "json" => Ok(AccessFormat::Json),
            other => Err(format!(
                "unknown format {other:?}: expected combined or json"
            )),
        }
    }
}

/// The access log of a server.
#[derive(Debug)]
pub(crate) struct AccessLog {
    format: AccessFormat,
    /// None once it is closed.
    lines: Mutex<Option<SyncSender<String>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    lost: LostLines,
}

impl AccessLog {
    pub(crate) fn new(
        format: AccessFormat,
        to: Box<dyn Write + Send>,
        lost: LostLines,
    ) -> io::Result<Self> {
        let (sender, lines) = sync_channel(MAX_LINES);
        let writer = std::thread::Builder::new()
            .name("wrun-access-log".into())
            .spawn(move || write_lines(&lines, to))?;
        Ok(AccessLog {
            format,
            lines: Mutex::new(Some(sender)),
            writer: Mutex::new(Some(writer)),
            lost,
        })
    }

    pub(crate) fn write(&self, line: &Line, record: &Record, ended: Ended<'_>) {
        let text = match self.format {
            AccessFormat::Combined => combined(line, record, ended),
            AccessFormat::Json => json_line(line, record, ended),
        };
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lines) = &*lines
            && let Err(TrySendError::Full(_)) = lines.try_send(text)
        {
            self.lost.inc();
        }
    }

    /// Writes what is left, for this long at most.
    pub(crate) fn close(&self, within: Duration) {
        let lines = self
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(lines);
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let until = std::time::Instant::now() + within;
        if let Some(writer) = writer {
            while !writer.is_finished() && std::time::Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn write_lines(lines: &Receiver<String>, mut to: Box<dyn Write + Send>) {
    // A reader that is gone is gone for good: nothing else can be said there.
    while let Ok(mut text) = lines.recv() {
        while text.len() < 64 << 10
            && let Ok(more) = lines.try_recv()
        {
            text.push_str(&more);
        }
        if to
            .write_all(text.as_bytes())
            .and_then(|()| to.flush())
            .is_err()
        {
            return;
        }
    }
}

/// What a client sent, as a part of a line that no other line can be mistaken for.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

fn combined(line: &Line, record: &Record, ended: Ended<'_>) -> String {
    let mut text = String::with_capacity(256);
    match line.remote {
        Some(remote) => _ = write!(text, "{remote}"),
        None => text.push('-'),
    }
    let request = format!("{} {} {}", line.method, line.target, line.protocol);
    let or_dash = |it: &Option<String>| it.clone().unwrap_or_else(|| "-".into());
    let _ = write!(
        text,
        " - - [{}] {} {} {} {} {}",
        clf_time(line.at),
        Quoted(&request),
        record.code(),
        record.sent,
        Quoted(&or_dash(&line.referer)),
        Quoted(&or_dash(&line.user_agent)),
    );
    if let Some(report) = ended.report() {
        let _ = write!(text, " task={}", report.task_id);
    }
    let took = record.began.elapsed().as_secs_f64();
    let _ = write!(text, " outcome={} time={took:.6}", ended.outcome());
    if let Some(cpu) = ended.report().and_then(|report| report.stats.cpu) {
        let _ = write!(text, " cpu={:.6}", cpu.as_secs_f64());
    }
    if !record.complete {
        text.push_str(" incomplete");
    }
    text.push('\n');
    text
}

fn json_line(line: &Line, record: &Record, ended: Ended<'_>) -> String {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| {
        if !value.is_null() {
            fields.insert(name.to_owned(), value);
        }
    };
    let ms = |time: Duration| json!(time.as_secs_f64() * 1e3);
    set(
        "time",
        json!(humantime::format_rfc3339_micros(line.at).to_string()),
    );
    set("remote", json!(line.remote));
    set("method", json!(line.method.as_str()));
    set("host", json!(line.host));
    set("target", json!(line.target));
    set("protocol", json!(line.protocol));
    set("status", json!(record.code()));
    set("received", json!(record.received()));
    set("sent", json!(record.sent));
    set("complete", json!(record.complete));
    set("duration_ms", ms(record.began.elapsed()));
    set("referer", json!(line.referer));
    set("user_agent", json!(line.user_agent));
    set("route", json!(record.route.as_deref()));
    set("version", json!(record.version));
    if let Some(trace) = record.trace {
        set("trace_id", json!(format!("{:032x}", trace.trace_id)));
        set("span_id", json!(format!("{:016x}", trace.span_id)));
    }
    set("outcome", json!(ended.outcome()));
    set("error", json!(ended.why().or_else(|| record.why.clone())));
    if let Some(report) = ended.report() {
        let stats = &report.stats;
        set("task", json!(report.task_id));
        set("attempt", json!(report.attempt));
        set("queue_ms", ms(stats.queue));
        set("start_ms", ms(stats.start));
        set("run_ms", ms(stats.run));
        set("cpu_ms", stats.cpu.map_or(Value::Null, ms));
        set("peak_memory_bytes", json!(stats.peak_memory_bytes));
        set("fuel", json!(stats.fuel));
        set("worker_pid", json!(stats.worker_pid));
    }
    let mut text = Value::Object(fields).to_string();
    text.push('\n');
    text
}

/// `10/Oct/2000:13:55:36 +0000`.
fn clf_time(at: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    // 2000-10-10T13:55:36Z
    let text = humantime::format_rfc3339_seconds(at).to_string();
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
    let month = part(5..7).parse::<usize>().unwrap_or(1);
    let month = MONTHS.get(month.wrapping_sub(1)).unwrap_or(&"???");
    format!(
        "{}/{month}/{}:{} +0000",
        part(8..10),
        part(0..4),
        part(11..19)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::noted::Noted;
    use crate::record::Books;
    use http::uri::Scheme;
    use http::{Request, StatusCode};
    use std::time::Instant;

    fn record(metrics: Metrics) -> (Books, Record) {
        let access = AccessLog::new(
            AccessFormat::Json,
            Box::new(io::sink()),
            LostLines::default(),
        );
        let books = Books {
            metrics,
            access: Some(access.expect("a thread")),
            noted: Noted::default(),
        };
        let request = Request::builder()
            .uri("/a?b=\\c")
            .header("host", "x.org")
            .header("user-agent", "evil\"\\ agent");
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let mut record = {
            let client = Some([127, 0, 0, 1].into());
            Record::new(&books, &head, client, &Scheme::HTTP, Instant::now())
        };
        record.status = Some(StatusCode::NOT_FOUND);
        record.complete = true;
        record.sent = 14;
        (books, record)
    }

    #[test]
    fn a_line_is_a_line_whatever_the_client_sends() {
        let (_books, record) = record(Metrics::new(wrun::Mode::Thread));
        let line = record.line.as_ref().expect("a line");
        let text = combined(line, &record, Ended::Refused);
        assert!(text.starts_with("127.0.0.1 - - ["), "{text}");
        let expected =
            r#""GET /a?b=\\c HTTP/1.1" 404 14 "-" "evil\"\\ agent" outcome=refused time="#;
        assert!(text.contains(expected), "{text}");
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let text = json_line(line, &record, Ended::Refused);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["status"], json!(404));
        assert_eq!(value["user_agent"], json!("evil\"\\ agent"));
        assert_eq!(Quoted("a\nb\x1b").to_string(), r#""a\x0ab\x1b""#);
    }

    #[test]
    fn times_of_the_common_log_format() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(971_186_136);
        assert_eq!(clf_time(at), "10/Oct/2000:13:55:36 +0000");
    }
}
