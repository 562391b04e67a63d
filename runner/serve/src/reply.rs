//! The server's own answers: which status, and what they say.
//!
//! Invariant: without `debug`, a body says the status and nothing of the inside.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode, Version};
use wrun::{Limit, Outcome, Report};

/// The status for a task that ended without an answer.
fn of_outcome(outcome: &Outcome) -> StatusCode {
    match outcome {
        Outcome::LimitExceeded(Limit::Deadline) => StatusCode::GATEWAY_TIMEOUT,
        Outcome::Crashed(_) => StatusCode::BAD_GATEWAY,
        // Only the end of the server kills a task whose client is there.
        Outcome::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The status for a task that the runner could not run.
fn of_error(error: &wrun::Error) -> StatusCode {
    match error.kind() {
        wrun::ErrorKind::ShutDown => StatusCode::SERVICE_UNAVAILABLE,
        _ if error.is_retryable() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The answer for a task that ended without one.
pub(crate) fn of_report(report: &Result<Report, wrun::Error>) -> Reply {
    match report {
        Ok(report) => {
            let said = match &report.outcome {
                Outcome::Completed(_) => "the app did not answer".to_owned(),
                Outcome::Trapped(trap) => format!("trapped: {}", trap.message),
                outcome => outcome.to_string(),
            };
            Reply::new(of_outcome(&report.outcome), said)
        }
        Err(error) => Reply::new(of_error(error), error.to_string()),
    }
}

/// An answer of the server itself.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// What people see who debug.
    pub(crate) why: String,
    /// The client is not to send more on this connection.
    pub(crate) closes: bool,
}

impl Reply {
    pub(crate) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Reply {
            status,
            why: why.into(),
            closes: false,
        }
    }

    /// After it, the connection is closed.
    pub(crate) fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// As a response to a request of this version and method.
    pub(crate) fn response(
        &self,
        debug: bool,
        version: Version,
        method: &Method,
    ) -> Response<Bytes> {
        let mut text = self.status.to_string();
        if debug && !self.why.is_empty() {
            let is_shown = |c: char| c == '\n' || !c.is_control();
            let shown = |c| if is_shown(c) { c } else { '\u{fffd}' };
            text.push_str("\n\n");
            text.extend(self.why.chars().take(4096).map(shown));
        }
        text.push('\n');
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = self.status;
        let length = response.body().len();
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, length.into());
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, plain);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.closes && version < Version::HTTP_2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if method == Method::HEAD {
            *response.body_mut() = Bytes::new();
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wrun::{ErrorKind, Output};

    #[test]
    fn statuses_of_outcomes() {
        for (outcome, expected) in [
            (Outcome::Completed(Output::default()), 500),
            (Outcome::Failed("x".into()), 500),
            (Outcome::Exited(1), 500),
            (Outcome::LimitExceeded(Limit::Memory), 500),
            (Outcome::LimitExceeded(Limit::Deadline), 504),
            (Outcome::Cancelled, 503),
        ] {
            assert_eq!(of_outcome(&outcome).as_u16(), expected, "{outcome}");
        }
        for (kind, expected) in [
            (ErrorKind::Overloaded, 503),
            (ErrorKind::ShutDown, 503),
            (ErrorKind::CrashLoop, 503),
            (ErrorKind::InvalidTask, 500),
        ] {
            let error = wrun::Error::new(kind, "why");
            assert_eq!(of_error(&error).as_u16(), expected, "{kind:?}");
        }
    }

    #[test]
    fn an_answer_says_nothing_of_the_inside_unless_debugged() {
        let reply = Reply::new(StatusCode::BAD_GATEWAY, "died of \x1b[1m signal 11");
        let plain = reply.response(false, Version::HTTP_11, &Method::GET);
        assert_eq!(plain.body(), "502 Bad Gateway\n");
        let debug = reply.response(true, Version::HTTP_11, &Method::GET);
        assert_eq!(
            debug.body(),
            "502 Bad Gateway\n\ndied of \u{fffd}[1m signal 11\n"
        );
        assert!(!debug.headers().contains_key(CONNECTION));
    }

    #[test]
    fn an_answer_tells_what_to_do() {
        let busy = Reply::new(StatusCode::SERVICE_UNAVAILABLE, "").closing();
        let head = busy.response(false, Version::HTTP_11, &Method::HEAD);
        assert_eq!(head.headers()[RETRY_AFTER], "1");
        assert_eq!(head.headers()[CONNECTION], "close");
        assert_eq!(head.headers()[CONTENT_LENGTH], "24");
        assert!(head.body().is_empty());
        let second = busy.response(false, Version::HTTP_2, &Method::GET);
        assert!(!second.headers().contains_key(CONNECTION));
    }
}
