//! What is known of one request, and where it goes once it is over: the access log and the
//! metrics.

use crate::access::AccessLog;
use crate::answer::Outgoing;
use crate::metrics::Metrics;
use crate::noted::Noted;
use crate::reply::Reply;
use crate::trace::{self, TraceParent};
use http::uri::Scheme;
use http::{Method, Response, StatusCode, Version, header, request};
use http_body::Body as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};
use tracing::Span;
use wrun::{Outcome, Report};

/// Where what is known of requests goes.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) metrics: Metrics,
    pub(crate) access: Option<AccessLog>,
    pub(crate) noted: Noted,
}

/// What only the access log wants.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) at: SystemTime,
    pub(crate) remote: Option<IpAddr>,
    pub(crate) method: Method,
    pub(crate) host: String,
    /// With its query.
    pub(crate) target: String,
    pub(crate) protocol: &'static str,
    pub(crate) referer: Option<String>,
    pub(crate) user_agent: Option<String>,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) line: Option<Box<Line>>,
    pub(crate) began: Instant,
    /// The app that it is for, by the name of its route.
    pub(crate) route: Option<Arc<str>>,
    /// The version of all that is served.
    pub(crate) version: u64,
    pub(crate) status: Option<StatusCode>,
    /// The server's own reason for the status.
    pub(crate) why: Option<String>,
    /// Bytes of bodies.
    pub(crate) received: Arc<AtomicU64>,
    pub(crate) sent: u64,
    /// All of the answer was sent.
    pub(crate) complete: bool,
    pub(crate) span: Span,
    /// Its place in a trace: that of the span, or of the client.
    pub(crate) trace: Option<TraceParent>,
}

/// What a record says of a task that was not run.
pub(crate) const REFUSED: &str = "refused";
/// What a record says of a task that the runner failed to run.
pub(crate) const ERROR: &str = "error";
/// What the access log says of a client that left before it was answered.
pub(crate) const CLIENT_GONE: u16 = 499;

impl Record {
    pub(crate) fn new(
        books: &Books,
        head: &request::Parts,
        remote: Option<IpAddr>,
        scheme: &Scheme,
        began: Instant,
    ) -> Self {
        books.metrics.in_flight.inc();
        let text = |name| {
            let value = head.headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let line = books.access.as_ref().map(|_| {
            Box::new(Line {
                at: SystemTime::now()
                    .checked_sub(began.elapsed())
                    .unwrap_or(SystemTime::UNIX_EPOCH),
                remote,
                method: head.method.clone(),
                host: match head.uri.authority() {
                    Some(authority) => authority.to_string(),
                    None => text(header::HOST).unwrap_or_default(),
                },
                target: match head.uri.path_and_query() {
                    Some(target) => target.to_string(),
                    None => head.uri.to_string(),
                },
                protocol: protocol(head.version),
                referer: text(header::REFERER),
                user_agent: text(header::USER_AGENT),
            })
        });
        Record {
            line,
            began,
            route: None,
            version: 0,
            status: None,
            why: None,
            received: Arc::default(),
            sent: 0,
            complete: false,
            span: trace::span(head, scheme.as_str()),
            trace: None,
        }
    }

    /// What the client gets is of the server.
    pub(crate) fn answered(&mut self, reply: &Reply, response: &Response<Outgoing>) {
        self.status = Some(reply.status);
        self.why = Some(reply.why.clone());
        self.sent = response.body().size_hint().exact().unwrap_or(0);
        self.complete = true;
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The status as it is written: that of an answer, or that there was none.
    pub(crate) fn code(&self) -> u16 {
        self.status.map_or(CLIENT_GONE, |status| status.as_u16())
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// How the task of a request ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended<'a> {
    /// There was none.
    Refused,
    /// The runner failed.
    Error(&'a wrun::Error),
    Task(&'a Report),
}

impl Ended<'_> {
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Ended::Refused => REFUSED,
            Ended::Error(_) => ERROR,
            Ended::Task(report) => report.outcome.kind(),
        }
    }

    pub(crate) fn report(&self) -> Option<&Report> {
        match self {
            Ended::Task(report) => Some(report),
            _ => None,
        }
    }

    /// Why, where the task did not do its work.
    pub(crate) fn why(self) -> Option<String> {
        match self {
            Ended::Refused => None,
            Ended::Error(error) => Some(error.to_string()),
            Ended::Task(report) => match &report.outcome {
                Outcome::Completed(_) => None,
                outcome => Some(outcome.to_string()),
            },
        }
    }
}

impl Books {
    /// A request is over.
    pub(crate) fn close(&self, record: &Record, ended: Ended<'_>) {
        self.metrics.closed(record, ended);
        trace::ended(record, ended);
        if let (Some(route), Some(report)) = (&record.route, ended.report()) {
            self.noted.tell(route, &report.notes);
        }
        if let (Some(access), Some(line)) = (&self.access, &record.line) {
            access.write(line, record, ended);
        }
    }
}
