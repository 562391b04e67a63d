//! Traces: the context of a request, as W3C's `traceparent` has it, and its span.

use crate::record::{Ended, Record};
use http::{HeaderMap, HeaderName, HeaderValue, Method, request};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use tracing::Span;
use tracing::field::Empty;

/// Not in the `http` crate's list.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A place in a trace, as the header `traceparent` of W3C Trace Context writes it: which trace,
/// which span of it, and flags (1: it is recorded).
///
/// ```
/// use wrun_serve::TraceParent;
///
/// let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let parent: TraceParent = text.parse()?;
/// assert_eq!(parent.span_id, 0xb7ad_6b71_6920_3331);
/// assert_eq!(parent.to_string(), text);
/// # Ok::<(), wrun_serve::NotTraceParent>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The span that is the parent; not 0.
    pub span_id: u64,
    /// Its flags.
    pub flags: u8,
}

/// A text is not a [`TraceParent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent: expected 00-TRACE-SPAN-FLAGS, in lower-case hexadecimal digits")]
pub struct NotTraceParent;

impl FromStr for TraceParent {
    type Err = NotTraceParent;

    /// As [W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header) says: of
    /// versions after 00, the part that 00 has is read.
    fn from_str(text: &str) -> Result<Self, NotTraceParent> {
        let is_hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut parts = text.splitn(5, '-');
        let mut part = |length: usize| {
            let part = parts.next().filter(|part| part.len() == length);
            part.filter(|part| is_hex(part)).ok_or(NotTraceParent)
        };
        let (version, trace_id, span_id, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let has_more = parts.next().is_some();
        if version == "ff" || version == "00" && has_more {
            return Err(NotTraceParent);
        }
        let parent = TraceParent {
            trace_id: u128::from_str_radix(trace_id, 16).map_err(|_| NotTraceParent)?,
            span_id: u64::from_str_radix(span_id, 16).map_err(|_| NotTraceParent)?,
            flags: u8::from_str_radix(flags, 16).map_err(|_| NotTraceParent)?,
        };
        match parent.trace_id == 0 || parent.span_id == 0 {
            true => Err(NotTraceParent),
            false => Ok(parent),
        }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TraceParent {
            trace_id,
            span_id,
            flags,
        } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

impl TraceParent {
    /// That of a request. None if there is not exactly one that is valid.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        let only = all.next().filter(|_| all.next().is_none())?;
        only.to_str().ok()?.parse().ok()
    }
}

/// Gives the span of a request its place in a trace; see
/// [`Builder::trace_context`](crate::Builder::trace_context).
pub(crate) type Connect =
    Arc<dyn Fn(&Span, Option<(TraceParent, &str)>) -> Option<TraceParent> + Send + Sync>;

/// The span of a request, with the names of OpenTelemetry's semantic conventions.
pub(crate) fn span(head: &request::Parts, scheme: &str) -> Span {
    tracing::info_span!(
        target: "wrun::serve",
        "request",
        otel.name = Empty,
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method(&head.method),
        url.path = head.uri.path(),
        url.scheme = scheme,
        http.route = Empty,
        http.response.status_code = Empty,
        error.type = Empty,
        wrun.task_id = Empty,
        wrun.outcome = Empty,
    )
}

/// A method that anyone may invent would be a name for each.
fn method(method: &Method) -> &str {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::PATCH,
        Method::TRACE,
        Method::CONNECT,
    ];
    match KNOWN.contains(method) {
        true => method.as_str(),
        false => "_OTHER",
    }
}

/// Names the span of a request whose app is known, or is not to be, and gives it its place in a
/// trace. Where that is done, the app gets the span as its parent.
pub(crate) fn connect(record: &mut Record, head: &mut request::Parts, connect: Option<&Connect>) {
    let parent = TraceParent::of(&head.headers);
    record.trace = parent;
    let span = &record.span;
    if span.is_disabled() {
        return;
    }
    let method = match method(&head.method) {
        "_OTHER" => "HTTP",
        known => known,
    };
    match record.route.as_deref() {
        Some(route) => {
            span.record("http.route", route);
            span.record("otel.name", format!("{method} {route}"));
        }
        None => _ = span.record("otel.name", method),
    }
    let Some(connect) = connect else {
        return;
    };
    let states = head.headers.get_all(TRACESTATE).iter();
    let states: Vec<_> = states.filter_map(|state| state.to_str().ok()).collect();
    let states = states.join(",");
    let Some(own) = connect(span, parent.map(|parent| (parent, states.as_str()))) else {
        return;
    };
    record.trace = Some(own);
    if let Ok(value) = HeaderValue::try_from(own.to_string()) {
        head.headers.insert(TRACEPARENT, value);
    }
    // A state without the parent that it belongs to would be another trace's.
    if parent.is_none() {
        head.headers.remove(TRACESTATE);
    }
}

/// What became of a request.
pub(crate) fn ended(record: &Record, ended: Ended<'_>) {
    let span = &record.span;
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", record.code());
    span.record("wrun.outcome", ended.outcome());
    if let Some(report) = ended.report() {
        span.record("wrun.task_id", report.task_id);
    }
    let is_bad = match ended {
        Ended::Task(report) => !report.outcome.is_completed(),
        Ended::Error(_) => true,
        Ended::Refused => false,
    };
    if is_bad {
        span.record("error.type", ended.outcome());
    } else if record.code() >= 500 {
        span.record("error.type", record.code().to_string());
    }
    if is_bad || record.code() >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::noted::Noted;
    use crate::record::Books;
    use http::uri::Scheme;
    use std::time::Instant;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_a_traceparent_is() {
        let parent: TraceParent = GOOD.parse().expect("a traceparent");
        assert_eq!(parent.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!((parent.span_id, parent.flags), (0xb7ad_6b71_6920_3331, 1));
        // A version to come may have more.
        let later = GOOD.replacen("00", "cc", 1);
        assert_eq!(format!("{later}-what-ever").parse(), Ok(parent));
        assert_eq!(later.parse(), Ok(parent));
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &format!(" {GOOD}"),
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace('-', "_"),
            &GOOD.replace("b7ad", "+7ad"),
            &format!("{later}0-x"),
        ] {
            assert_eq!(bad.parse::<TraceParent>(), Err(NotTraceParent), "{bad}");
        }
    }

    fn connected(headers: &[(&'static str, &'static str)], by: Option<&Connect>) -> HeaderMap {
        let mut request = http::Request::get("/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).expect("a request").into_parts();
        let books = Books {
            metrics: Metrics::new(wrun::Mode::Thread),
            access: None,
            noted: Noted::default(),
        };
        let mut record = Record::new(&books, &head, None, &Scheme::HTTP, Instant::now());
        connect(&mut record, &mut head, by);
        head.headers
    }

    #[test]
    fn an_app_has_the_span_of_the_server_as_its_parent_or_what_its_client_says() {
        let sent = [
            ("traceparent", GOOD),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ];
        // Nothing takes spans: all stays as it is, even what is wrong.
        let never: Connect = Arc::new(|_, _| panic!("there is no span"));
        let headers = connected(&sent, Some(&never));
        assert_eq!(headers[TRACEPARENT], GOOD);
        let headers = connected(&[("traceparent", "wrong")], Some(&never));
        assert_eq!(headers[TRACEPARENT], "wrong");
        tracing::subscriber::with_default(Everything, || {
            let own: TraceParent = GOOD.replace("b7ad", "1234").parse().expect("a traceparent");
            let inside: Connect = Arc::new(move |span, parent| {
                assert!(!span.is_disabled());
                assert_eq!(parent, GOOD.parse().ok().map(|parent| (parent, "a=1,b=2")));
                Some(own)
            });
            let headers = connected(&sent, Some(&inside));
            assert_eq!(headers[TRACEPARENT], own.to_string());
            assert_eq!(headers.get_all(TRACESTATE).iter().count(), 2);
            // A new trace: the state of what is not a parent does not belong to it.
            let new: Connect = Arc::new(move |_, parent| {
                assert_eq!(parent, None);
                Some(own)
            });
            let wrong = [("traceparent", "wrong"), ("tracestate", "a=1")];
            let headers = connected(&wrong, Some(&new));
            assert_eq!(headers[TRACEPARENT], own.to_string());
            assert!(!headers.contains_key(TRACESTATE));
            assert_eq!(connected(&sent, None)[TRACEPARENT], GOOD);
        });
    }

    /// Takes all spans.
    struct Everything;

    impl tracing::Subscriber for Everything {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {}
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn two_parents_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(TraceParent::of(&headers), GOOD.parse().ok());
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(TraceParent::of(&headers), None);
    }
}
