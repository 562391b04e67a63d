//! `GET /?url=URL` fetches the URL, and passes on the status, some headers and the body while it comes.
//! `POST` and `PUT` send their body there first.
//! `&timeout=MS` limits the wait for the connection, for the answer and between two pieces of it.
//!
//! If the server does not allow the request, or the other side fails, the answer is 502 with the error.

#![no_std]

extern crate alloc;

use alloc::format;
use http_common::{Body, PLAIN, Target, answer, name_of, read, request, text};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, IncomingResponse, Method, OutgoingRequest,
    OutgoingResponse, RequestOptions, ResponseOutparam,
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

/// Sends a request with this body. Waits at most `timeout` milliseconds, if it is not 0, for each
/// step.
fn send(
    request: OutgoingRequest,
    from: Option<IncomingBody>,
    timeout: u64,
) -> Result<IncomingResponse, ErrorCode> {
    let mut body = Body::of(request.body().expect("the only body"));
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
    match from {
        None => body.end(None),
        // If it breaks off here, it breaks off there; what it is answered then says why.
        Some(from) => {
            if matches!(read(from, |piece| body.write(piece)), Ok(Ok(()))) {
                body.end(None);
            }
        }
    }
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
        let (method, body) = match target.method.as_str() {
            "GET" => (Method::Get, None),
            "POST" => (Method::Post, asked.consume().ok()),
            "PUT" => (Method::Put, asked.consume().ok()),
            _ => {
                let allow = [PLAIN, ("allow", "GET, POST, PUT")];
                return answer(out, 405, &allow, b"only GET, POST and PUT, please\n");
            }
        };
        let Some(url) = target.parameter("url") else {
            return text(out, 400, "?url=URL is missing\n");
        };
        let headers = Fields::new();
        copy(&asked.headers(), &PASSED_ON, &headers);
        let Some(request) = request(&method, &url, headers) else {
            return text(out, 400, &format!("{url:?} is not a URL\n"));
        };
        match send(request, body, target.number("timeout", 0)) {
            Ok(response) => pass_back(&response, out),
            Err(code) => text(out, 502, &format!("{url}: {}\n", name_of(&code))),
        }
    }
}

http_common::bare!();
wasip2::http::proxy::export!(Fetch);
