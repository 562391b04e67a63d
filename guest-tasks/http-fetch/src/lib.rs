//! `GET /?url=URL` fetches the URL, and passes on the status, some headers and the body while it comes.
//! `&timeout=MS` limits the wait for the connection, for the answer and between two pieces of it.
//!
//! If the server does not allow the request, or the other side fails, the answer is 502 with the error.

#![no_std]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use http_common::{Body, PLAIN, Target, answer, name_of, read, text};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, IncomingResponse, OutgoingBody, OutgoingRequest,
    OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
};

struct Fetch;

/// What belongs together in a trace or a log does so on the other side, too.
const PASSED_ON: [&str; 3] = ["traceparent", "tracestate", "x-request-id"];
const PASSED_BACK: [&str; 6] = [
    "content-type",
    "content-length",
    "etag",
    "last-modified",
    "location",
    "x-request-id",
];

fn copy(from: &Fields, names: &[&str], to: &Fields) {
    for name in names {
        for value in from.get(name) {
            let _ = to.append(name, &value);
        }
    }
}

/// The request for a URL; none if it is not one.
fn request(url: &str, headers: Fields) -> Option<OutgoingRequest> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.into()),
    };
    let rest = rest.split('#').next()?;
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let path: String = match path.starts_with('/') {
        true => path.into(),
        false => format!("/{path}"),
    };
    let request = OutgoingRequest::new(headers);
    request.set_scheme(Some(&scheme)).ok()?;
    request.set_authority(Some(authority)).ok()?;
    request.set_path_with_query(Some(&path)).ok()?;
    Some(request)
}

/// Waits at most `timeout` milliseconds, if it is not 0, for each step.
fn send(request: OutgoingRequest, timeout: u64) -> Result<IncomingResponse, ErrorCode> {
    let body = request.body().expect("the only body");
    let options = (timeout > 0).then(|| {
        let options = RequestOptions::new();
        let duration = Some(timeout.saturating_mul(1_000_000));
        // Those that the server does not support have its own limits.
        let _ = options.set_connect_timeout(duration);
        let _ = options.set_first_byte_timeout(duration);
        let _ = options.set_between_bytes_timeout(duration);
        options
    });
    let response = outgoing_handler::handle(request, options)?;
    OutgoingBody::finish(body, None)?;
    response.subscribe().block();
    let response = response.get().expect("ready").expect("the only answer");
    response
}

fn pass_back(response: &IncomingResponse, out: ResponseOutparam) {
    let headers = Fields::new();
    copy(&response.headers(), &PASSED_BACK, &headers);
    let copied = OutgoingResponse::new(headers);
    let known = copied.set_status_code(response.status());
    let body = copied.body().expect("the only body");
    ResponseOutparam::set(out, Ok(copied));
    known.expect("a status code");
    let mut to = Body::of(body);
    let from = response.consume().expect("the only body");
    // If it breaks off there, it breaks off here.
    if matches!(read(from, |piece| to.write(piece)), Ok(Ok(()))) {
        to.end(None);
    }
}

impl Guest for Fetch {
    fn handle(asked: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&asked);
        if target.method != "GET" {
            let allow = [PLAIN, ("allow", "GET")];
            return answer(out, 405, &allow, b"only GET, please\n");
        }
        let Some(url) = target.parameter("url") else {
            return text(out, 400, "?url=URL is missing\n");
        };
        let headers = Fields::new();
        copy(&asked.headers(), &PASSED_ON, &headers);
        let Some(request) = request(&url, headers) else {
            return text(out, 400, &format!("{url:?} is not a URL\n"));
        };
        match send(request, target.number("timeout", 0)) {
            Ok(response) => pass_back(&response, out),
            Err(code) => text(out, 502, &format!("{url}: {}\n", name_of(&code))),
        }
    }
}

http_common::bare!();
wasip2::http::proxy::export!(Fetch);
