//! `http-get URL...` writes the body of each to stdout, one after another, as a command: it answers no
//! requests, and sends some. Exits with 1 if one is refused or its status is not 200.

use http_common::{name_of, read, request};
use std::io::Write;
use std::process::ExitCode;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, Method, OutgoingBody};

fn get(url: &str) -> Result<(), String> {
    let request = request(&Method::Get, url, Fields::new()).ok_or("it is not a URL")?;
    let body = request.body().map_err(|()| "it has no body")?;
    let response = outgoing_handler::handle(request, None).map_err(|code| name_of(&code))?;
    OutgoingBody::finish(body, None).map_err(|code| name_of(&code))?;
    response.subscribe().block();
    let response = response.get().expect("ready").expect("the only answer");
    let response = response.map_err(|code| name_of(&code))?;
    if response.status() != 200 {
        return Err(format!("status {}", response.status()));
    }
    let body = response.consume().map_err(|()| "it has no body")?;
    let mut stdout = std::io::stdout();
    match read(body, |piece| stdout.write_all(piece)) {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(why) => Err(why),
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().is_none() {
        eprintln!("usage: http-get URL...");
        return ExitCode::FAILURE;
    }
    for url in args {
        if let Err(why) = get(&url) {
            eprintln!("{url}: {why}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
