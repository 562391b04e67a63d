//! Answers that a server must contain, by path. `/` lists them.

#![no_std]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use http_common::{Body, Gone, PLAIN, Target, begin, fields, text};
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    ErrorCode, Fields, HeaderError, IncomingRequest, OutgoingBody, OutgoingResponse,
    ResponseOutparam,
};

struct Hostile;

const PATHS: &str = "\
/trap                traps
/panic               panics, with a message
/exit                ends the program
/stack               calls itself until the stack is full
/spin                never answers, computes
/sleep               never answers, waits
/memory              grows until it is refused, then traps
/no-answer           returns without an answer
/error               answers with an error code
/half                says 1000 bytes, sends 500, traps
/half-chunked        sends 500 bytes, traps
/stall               says 1000 bytes, sends 500, waits for ever
/unfinished          says 1000 bytes, sends 500, drops the body
/unfinished-chunked  sends 500 bytes, drops the body
/too-short           says 1000 bytes, ends the body after 500
/too-long            says 500 bytes, sends 1000
/after-trap          answers completely, then traps
/after-spin          answers completely, then computes for ever
/spam                sends without end
/bad-headers         tries headers that are not its own, and says what became of each
/many-headers        as many and as big headers as they may be: ?n=1000&bytes=1000
/status              answers with any status code: ?code=204, with ?bytes=N in the body
/count               how often this instance was called, beginning with 1
";

/// How often this instance was called.
static CALLS: AtomicU32 = AtomicU32::new(0);

fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

fn spin() -> ! {
    let mut number = 0u64;
    loop {
        number = core::hint::black_box(number).wrapping_add(1);
    }
}

fn sleep() -> ! {
    loop {
        subscribe_duration(3_600_000_000_000).block();
    }
}

fn fill() -> ! {
    const PAGES: usize = 16;
    loop {
        let at = core::arch::wasm32::memory_grow::<0>(PAGES);
        if at == usize::MAX {
            trap();
        }
        let pages = (at << 16) as *mut u8;
        // SAFETY: these pages are new, and nothing else knows them.
        unsafe { pages.write_bytes(0x5a, PAGES << 16) };
    }
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    core::hint::black_box(recurse(core::hint::black_box(depth) + 1)) + 1
}

/// Says `said` bytes if that is a length, and sends 500.
fn half(out: ResponseOutparam, said: Option<&str>) -> Result<Body, Gone> {
    let length = said.map(|said| ("content-length", said));
    let headers: Vec<_> = [PLAIN].into_iter().chain(length).collect();
    let mut body = begin(out, 200, &headers);
    body.write(&[b'x'; 500])?;
    body.flush()?;
    Ok(body)
}

fn outcome(tried: Result<(), HeaderError>) -> &'static str {
    match tried {
        Ok(()) => "taken",
        Err(HeaderError::InvalidSyntax) => "invalid",
        Err(HeaderError::Forbidden) => "forbidden",
        Err(HeaderError::Immutable) => "immutable",
    }
}

/// What was taken is sent with the answer.
fn bad_headers(request: &IncomingRequest, out: ResponseOutparam) {
    const TRIED: [(&str, &str); 16] = [
        ("connection", "close"),
        ("keep-alive", "timeout=1"),
        ("transfer-encoding", "chunked"),
        ("host", "elsewhere"),
        ("upgrade", "websocket"),
        ("proxy-connection", "close"),
        ("proxy-authenticate", "Basic"),
        ("proxy-authorization", "Basic eDp5"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
        ("te", "trailers"),
        ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("server", "not-yours"),
        ("name with spaces", "x"),
        (":status", "500"),
        ("x-line", "x\r\nset-cookie: stolen=1"),
        ("x-nul", "x\0y"),
    ];
    let headers = Fields::new();
    let mut lines = String::new();
    for (name, value) in TRIED {
        let tried = outcome(headers.append(name, value.as_bytes()));
        lines += &format!("{name} {tried}\n");
    }
    let own = outcome(request.headers().append("x-own", b"x"));
    lines += &format!("the request's {own}\n");
    let _ = headers.append(PLAIN.0, PLAIN.1.as_bytes());
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("the only body");
    ResponseOutparam::set(out, Ok(response));
    let mut body = Body::of(body);
    if body.write(lines.as_bytes()).is_ok() {
        body.end(None);
    }
}

fn many_headers(out: ResponseOutparam, n: u64, bytes: u64) {
    let value = vec![b'v'; bytes as usize];
    let headers = fields(&[PLAIN]);
    let taken = (0..n).take_while(|number| headers.append(&format!("x-{number}"), &value).is_ok());
    let line = format!("{} headers\n", taken.count());
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("the only body");
    ResponseOutparam::set(out, Ok(response));
    let mut body = Body::of(body);
    if body.write(line.as_bytes()).is_ok() {
        body.end(None);
    }
}

/// A status code that may not be one, or may not have a body.
fn status(out: ResponseOutparam, code: u64, bytes: u64) {
    let response = OutgoingResponse::new(Fields::new());
    let code = u16::try_from(code).unwrap_or(u16::MAX);
    if response.set_status_code(code).is_err() {
        return text(out, 200, &format!("{code} is refused\n"));
    }
    let body = response.body().expect("the only body");
    ResponseOutparam::set(out, Ok(response));
    if bytes == 0 {
        let _ = OutgoingBody::finish(body, None);
        return;
    }
    let mut body = Body::of(body);
    if body.write(&vec![b'x'; bytes as usize]).is_ok() {
        body.end(None);
    }
}

fn answer(target: &Target, request: &IncomingRequest, out: ResponseOutparam) -> Result<(), Gone> {
    let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    match &*target.path {
        "/" => text(out, 200, PATHS),
        "/trap" => trap(),
        "/panic" => panic!("on purpose"),
        "/exit" => wasip2::cli::exit::exit(Err(())),
        "/stack" => {
            recurse(0);
        }
        "/spin" => spin(),
        "/sleep" => sleep(),
        "/memory" => fill(),
        "/no-answer" => drop(out),
        "/error" => {
            let code = ErrorCode::InternalError(Some("on purpose".into()));
            ResponseOutparam::set(out, Err(code));
        }
        "/half" => {
            let _body = half(out, Some("1000"))?;
            trap()
        }
        "/half-chunked" => {
            let _body = half(out, None)?;
            trap()
        }
        "/stall" => {
            let _body = half(out, Some("1000"))?;
            sleep()
        }
        "/unfinished" => drop(half(out, Some("1000"))?),
        "/unfinished-chunked" => drop(half(out, None)?),
        "/too-short" => half(out, Some("1000"))?.end(None),
        "/too-long" => {
            let mut body = half(out, Some("500"))?;
            body.write(&[b'x'; 500])?;
            body.end(None);
        }
        "/after-trap" => {
            text(out, 200, "complete\n");
            trap()
        }
        "/after-spin" => {
            text(out, 200, "complete\n");
            spin()
        }
        "/spam" => {
            let mut body = begin(out, 200, &[PLAIN]);
            let block = [b'x'; 16 << 10];
            loop {
                body.write(&block)?;
            }
        }
        "/bad-headers" => bad_headers(request, out),
        "/many-headers" => {
            many_headers(out, target.number("n", 1000), target.number("bytes", 1000));
        }
        "/status" => status(out, target.number("code", 204), target.number("bytes", 0)),
        "/count" => text(out, 200, &format!("{calls}\n")),
        _ => text(out, 404, "not found\n"),
    }
    Ok(())
}

impl Guest for Hostile {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        // That the client is gone is not an error of this task.
        let _ = answer(&Target::of(&request), &request, out);
    }
}

http_common::bare!();
wasip2::http::proxy::export!(Hostile);
