//! Reads bodies as they come, in constant memory:
//!
//! | request | answer |
//! |---|---|
//! | `PUT` or `POST /echo` | the body, while it comes |
//! | `PUT` or `POST /splice` | the same, but the server copies it |
//! | `PUT` or `POST` anything else | the SHA-256 of the body and its number of bytes |

#![no_std]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;
use http_common::{PLAIN, Target, answer, begin, read, text};
use sha2::{Digest as _, Sha256};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Digest;

fn digest(request: &IncomingRequest, out: ResponseOutparam) {
    let body = request.consume().expect("the only body");
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let whole = read(body, |piece| {
        hash.update(piece);
        bytes += piece.len() as u64;
        Ok::<_, ()>(())
    });
    match whole {
        Ok(_) => {
            let mut line = String::new();
            for byte in hash.finalize() {
                let _ = write!(line, "{byte:02x}");
            }
            let _ = writeln!(line, " {bytes}");
            text(out, 200, &line);
        }
        Err(why) => text(out, 400, &format!("the body ends after {bytes}: {why}\n")),
    }
}

/// If the body is incomplete, so is the answer.
fn echo(request: &IncomingRequest, out: ResponseOutparam, by_server: bool) {
    let kind = request.headers().get("content-type");
    let kind = kind.first().map(|kind| String::from_utf8_lossy(kind));
    let kind = kind.as_deref().unwrap_or("application/octet-stream");
    let mut answer = begin(out, 200, &[("content-type", kind)]);
    let body = request.consume().expect("the only body");
    let whole = if by_server {
        let stream = body.stream().expect("the only stream");
        answer.splice(&stream).is_ok()
    } else {
        matches!(read(body, |piece| answer.write(piece)), Ok(Ok(())))
    };
    if whole {
        answer.end(None);
    }
}

impl Guest for Digest {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        if !["PUT", "POST"].contains(&&*target.method) {
            let allow = [PLAIN, ("allow", "PUT, POST")];
            return answer(out, 405, &allow, b"only PUT and POST, please\n");
        }
        match &*target.path {
            "/echo" => echo(&request, out, false),
            "/splice" => echo(&request, out, true),
            // `curl -T FILE` adds the file's name to the path.
            _ => digest(&request, out),
        }
    }
}

http_common::bare!();
wasip2::http::proxy::export!(Digest);
