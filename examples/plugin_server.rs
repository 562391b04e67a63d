//! A web server that uses an untrusted plug-in: a client posts Markdown, the plug-in
//! renders it, and the server returns the HTML. If the plug-in misbehaves (loops, uses
//! too much memory, traps, crashes its process), this affects only the answer to one
//! client.
//!
//! ```sh
//! cargo run --release --example plugin_server -- [ADDRESS:PORT [thread|process [PLUGIN]]]
//! curl --data-binary '# Hello' http://127.0.0.1:8080/render
//! ```
//!
//! The default address is 127.0.0.1:8080. The implementation of HTTP is minimal: one
//! request for each connection, a body with a length, limits on all sizes and times.

use anyhow::Context;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use wrun::{Artifact, ErrorKind, Limit, Limits, Mode, Outcome, Runner, Task};

const MAX_CONNECTIONS: usize = 256;
const MAX_HEAD: usize = 16 << 10;
const MAX_BODY: usize = 1 << 20;
/// Maximum time to receive a whole request, and to send a whole answer.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    // In process mode this program is its own worker; this must be the first call in main.
    wrun::worker_hook();

    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let mode: Mode = match args.next() {
        Some(name) => name.parse().map_err(anyhow::Error::msg)?,
        None => Mode::default(),
    };
    let plugin = args.next().map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../guest-tasks/markdown/markdown.wasm"
            ))
        },
        PathBuf::from,
    );
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(serve(&address, mode, plugin))
}

/// The state that all connections share.
struct Server {
    runner: Runner,
    plugin: Artifact,
}

/// Becomes readable on Ctrl-C.
fn interrupt() -> std::io::Result<UnixStream> {
    let (interrupted, interrupt) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGINT, interrupt.into_std()?)?;
    Ok(interrupted)
}

async fn serve(address: &str, mode: Mode, plugin: PathBuf) -> anyhow::Result<()> {
    // A short queue: it is better to tell a client to retry than to let it wait.
    let runner = Runner::builder().mode(mode).max_queued(32).build()?;
    let plugin = runner.load(plugin).await?;
    let server = Arc::new(Server { runner, plugin });

    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    println!(
        "listening on http://{}/, {mode} mode",
        listener.local_addr()?
    );
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let interrupted = interrupt()?;
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            _ = interrupted.readable() => break,
        };
        let Ok((stream, _)) = accepted else {
            // Probably out of descriptors: wait until some are closed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let server = server.clone();
        tokio::spawn(async move {
            // An error concerns only this client.
            let _ = server.connection(stream).await;
            drop(place);
        });
    }

    // Accept no new clients; connected clients get an answer.
    drop(listener);
    let all = u32::try_from(MAX_CONNECTIONS)?;
    let _ = tokio::time::timeout(2 * PATIENCE, places.acquire_many(all)).await?;
    println!("bye");
    Ok(())
}

struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

struct Response {
    status: &'static str,
    kind: &'static str,
    body: Vec<u8>,
}

impl Response {
    fn text(status: &'static str, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.push('\n');
        Response {
            status,
            kind: "text/plain; charset=utf-8",
            body: text.into_bytes(),
        }
    }
}

impl Server {
    async fn connection(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        let response = match tokio::time::timeout(PATIENCE, read_request(&mut stream)).await {
            Ok(Ok(Ok(request))) => self.answer(request).await,
            Ok(Ok(Err(refusal))) => refusal,
            Ok(Err(error)) => return Err(error.into()),
            Err(_elapsed) => Response::text("408 Request Timeout", "too slow"),
        };
        // The plug-in is not trusted, and neither is its HTML: the policy allows no
        // scripts and no requests.
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\
             X-Content-Type-Options: nosniff\r\n\
             Content-Security-Policy: default-src 'none'; sandbox\r\n{}\r\n",
            response.status,
            response.kind,
            response.body.len(),
            if response.status.starts_with("503") {
                "Retry-After: 1\r\n"
            } else {
                ""
            },
        );
        tokio::time::timeout(PATIENCE, async {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&response.body).await?;
            stream.shutdown().await?;
            // Closing with unread bytes would discard the answer that was just sent.
            let mut rest = [0; 4096];
            let mut left = MAX_BODY;
            while left > 0 {
                match stream.read(&mut rest).await? {
                    0 => break,
                    len => left = left.saturating_sub(len),
                }
            }
            Ok(())
        })
        .await?
    }

    async fn answer(&self, request: Request) -> Response {
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/render") => self.render(request.body).await,
            (_, "/render") => Response::text("405 Method Not Allowed", "POST Markdown here"),
            _ => Response::text("404 Not Found", "POST Markdown to /render"),
        }
    }

    /// Renders one client's Markdown in one run of the plug-in. The next run sees
    /// nothing of it.
    async fn render(&self, markdown: Vec<u8>) -> Response {
        let task = Task::new(&self.plugin)
            .name("render")
            .input(markdown)
            .limits(
                Limits::default()
                    .timeout(Duration::from_secs(2))
                    .max_memory(64 << 20)
                    .max_output(8 << 20),
            );
        // Not `submit`, which would wait while the queue is full: the client retries.
        let mut handle = match self.runner.try_submit(task) {
            Ok(handle) => handle,
            Err(error) if error.kind() == ErrorKind::Overloaded => {
                return Response::text("503 Service Unavailable", "busy");
            }
            Err(error) => return failure(&error),
        };
        // If this future is dropped, so is the handle, and the task is killed.
        let report = match handle.report().await {
            Ok(report) => report,
            Err(error) => return failure(&error),
        };
        match report.outcome {
            Outcome::Completed(html) => Response {
                status: "200 OK",
                kind: "text/html; charset=utf-8",
                body: html.as_bytes().to_vec(),
            },
            Outcome::Failed(why) => Response::text("422 Unprocessable Content", why),
            Outcome::LimitExceeded(Limit::Deadline) => {
                Response::text("504 Gateway Timeout", "the plug-in took too long")
            }
            Outcome::LimitExceeded(limit) => Response::text(
                "422 Unprocessable Content",
                format!("the plug-in exceeded its {limit} limit"),
            ),
            Outcome::Cancelled => Response::text("503 Service Unavailable", "shutting down"),
            other => {
                eprintln!("the plug-in: {other}");
                Response::text("502 Bad Gateway", "the plug-in broke down")
            }
        }
    }
}

fn failure(error: &wrun::Error) -> Response {
    eprintln!("cannot run the plug-in: {error}");
    Response::text("500 Internal Server Error", "cannot run the plug-in")
}

/// Reads one request. The inner error is the answer to a refused request.
async fn read_request(stream: &mut TcpStream) -> std::io::Result<Result<Request, Response>> {
    const BAD: &str = "400 Bad Request";
    let mut bytes = Vec::with_capacity(1024);
    let head_len = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if bytes.len() > MAX_HEAD {
            let status = "431 Request Header Fields Too Large";
            return Ok(Err(Response::text(status, "headers are too large")));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let body = bytes.split_off(head_len + 4);
    let Ok(head) = std::str::from_utf8(&bytes[..head_len]) else {
        return Ok(Err(Response::text(BAD, "headers are not text")));
    };
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (first.next(), first.next(), first.next(), first.next())
    else {
        return Ok(Err(Response::text(BAD, "not a request of HTTP/1")));
    };
    let (method, path) = (method.to_owned(), path.to_owned());

    let mut length = None;
    let mut expects = false;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            return Ok(Err(Response::text(BAD, "a header without a colon")));
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") {
            let status = "501 Not Implemented";
            return Ok(Err(Response::text(status, "send a Content-Length")));
        } else if name.eq_ignore_ascii_case("content-length") {
            // Digits only, because `parse` accepts a sign. A second length is an error.
            let digits = value.bytes().all(|byte| byte.is_ascii_digit());
            match value.parse::<usize>() {
                Ok(value) if digits && length.is_none() => length = Some(value),
                _ => return Ok(Err(Response::text(BAD, "a bad Content-Length"))),
            }
        } else if name.eq_ignore_ascii_case("expect") {
            expects = true;
        }
    }
    let length = match length {
        Some(length) if length > MAX_BODY => {
            let status = "413 Content Too Large";
            return Ok(Err(Response::text(status, "at most 1 MiB")));
        }
        Some(length) => length,
        None if method == "POST" => {
            let status = "411 Length Required";
            return Ok(Err(Response::text(status, "send a Content-Length")));
        }
        None => 0,
    };
    if expects && body.len() < length {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let mut whole = body;
    whole.truncate(length);
    let missing = length - whole.len();
    let mut rest = stream.take(missing as u64);
    if rest.read_to_end(&mut whole).await? < missing {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Ok(Request {
        method,
        path,
        body: whole,
    }))
}
