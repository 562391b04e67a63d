//! Answers that are sent piece by piece:
//!
//! | path | answer |
//! |---|---|
//! | `/` | a page that shows the events |
//! | `/events?n=10&every=100` | server-sent events, one every 100 ms; `n=0`: without end |
//! | `/big?bytes=N` | N bytes of the pattern, with their length |
//! | `/chunked?bytes=N` | the same without |
//! | `/trailers?bytes=N` | the same, with the number of bytes in a trailer |
//!
//! The pattern: the byte at position `i` is `i % 251`.

#![no_std]

extern crate alloc;

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use http_common::{Body, Gone, PLAIN, Target, begin, fields, text};
use wasip2::clocks::monotonic_clock::{now, subscribe_instant};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Events;

const BYTES: (&str, &str) = ("content-type", "application/octet-stream");
/// A multiple of 251, so that the pattern goes on in the next block.
const PATTERN: usize = 251 * 256;

/// `n` events, the first after one interval; none can be late for good, because the times are fixed.
fn events(mut body: Body, n: u64, every: u64) -> Result<(), Gone> {
    let every = every.saturating_mul(1_000_000);
    let mut due = now();
    let mut number = 0;
    while n == 0 || number < n {
        number += 1;
        due = due.saturating_add(every);
        subscribe_instant(due).block();
        body.write(format!("id: {number}\ndata: event {number}\n\n").as_bytes())?;
        body.flush()?;
    }
    // Without it, a browser connects again and begins anew.
    body.write(format!("event: end\ndata: {number}\n\n").as_bytes())?;
    body.end(None);
    Ok(())
}

fn pattern(body: &mut Body, mut bytes: u64) -> Result<(), Gone> {
    let block: Vec<u8> = (0..PATTERN).map(|at| (at % 251) as u8).collect();
    while bytes > 0 {
        let now = bytes.min(PATTERN as u64);
        body.write(&block[..now as usize])?;
        bytes -= now;
    }
    Ok(())
}

fn send(target: &Target, out: ResponseOutparam) -> Result<(), Gone> {
    let bytes = target.number("bytes", 1000);
    let length = bytes.to_string();
    let (headers, trailers): (&[_], _) = match &*target.path {
        "/" => {
            let page = include_str!("page.html");
            let html = [("content-type", "text/html; charset=utf-8")];
            http_common::answer(out, 200, &html, page.as_bytes());
            return Ok(());
        }
        "/events" => {
            let headers = [
                ("content-type", "text/event-stream"),
                ("cache-control", "no-cache"),
            ];
            let body = begin(out, 200, &headers);
            return events(body, target.number("n", 10), target.number("every", 100));
        }
        "/big" => (&[BYTES, ("content-length", &length)], None),
        "/chunked" => (&[BYTES], None),
        // Only trailers with names that are announced reach a client of HTTP/1.1.
        "/trailers" => (
            &[BYTES, ("trailer", "x-bytes")],
            Some([("x-bytes", &*length)]),
        ),
        _ => {
            text(out, 404, "not found\n");
            return Ok(());
        }
    };
    let mut body = begin(out, 200, headers);
    pattern(&mut body, bytes)?;
    body.end(trailers.map(|list| fields(&list)));
    Ok(())
}

impl Guest for Events {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        if target.method != "GET" {
            let allow = [PLAIN, ("allow", "GET")];
            return http_common::answer(out, 405, &allow, b"only GET, please\n");
        }
        // That the client is gone is not an error of this task.
        let _ = send(&target, out);
    }
}

http_common::bare!();
wasip2::http::proxy::export!(Events);
