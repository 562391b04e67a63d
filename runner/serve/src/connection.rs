//! One connection: which version of HTTP it is, its requests, its clock, and its end.
//!
//! Invariant: a connection ends when its clock says so, when the server is aborted, or when HTTP
//! says so. A client that was answered while it was still sending has time to read the answer
//! before the socket is closed: otherwise the kernel would reset the connection and the
//! client lose what it was told.

use crate::clock::{Clock, Late};
use crate::service::Service;
use crate::shared::Shared;
use crate::stream::{Accepted, Plain, Watched};
use http::uri::Scheme;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout_at;
use tokio_rustls::TlsAcceptor;

/// What a client of HTTP/2 that knows its server sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may take to read why it is not listened to any more.
const LINGER: Duration = Duration::from_secs(2);
/// How long a client of HTTP/2 may take to go once it is told to.
const GOING: Duration = Duration::from_secs(1);
/// What hyper keeps of a connection at most, each way: what it reads at once, and what waits to
/// be sent.
const BUFFER: usize = 64 << 10;
/// What an HTTP/2 client may send of one body, and of all of a connection, before the app
/// takes it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// Streams that a client opened and reset, of which the server has not noticed yet
/// (CVE-2023-44487), and streams that the server reset because of the client's errors
/// (CVE-2025-8671). Beyond them, the connection is closed.
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 128;

const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Serves a connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, accepted: Accepted, remote: Option<IpAddr>) {
    let metrics = &shared.books.metrics;
    metrics.accepted.inc();
    metrics.connections.inc();
    let cause = tokio::select! {
        cause = serve_plain(&shared, accepted, remote) => cause,
        () = shared.abort.cancelled() => Some("aborted"),
    };
    metrics.connections.dec();
    if let Some(cause) = cause {
        metrics.closed_connection(cause);
        tracing::debug!(target: "wrun::serve", cause, ?remote, "closed a connection");
    }
}

/// Why the connection was closed, where that was because of the client.
async fn serve_plain(
    shared: &Arc<Shared>,
    accepted: Accepted,
    remote: Option<IpAddr>,
) -> Option<&'static str> {
    let clock = Clock::new(&shared.limits);
    let until = tokio::time::Instant::now() + shared.limits.header_timeout;
    let tls = shared.site().tls.as_ref().map(|tls| tls.config.clone());
    let (mut stream, scheme, alpn) = match tls {
        Some(config) => {
            // Not a part of this future, which lives as long as the connection.
            let handshake = Box::pin(TlsAcceptor::from(config).accept(accepted));
            match timeout_at(until, handshake).await {
                Ok(Ok(stream)) => {
                    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    (Plain::Tls(Box::new(stream)), Scheme::HTTPS, Some(is_h2))
                }
                Ok(Err(_)) => return Some("tls"),
                Err(_) => return Some("handshake-timeout"),
            }
        }
        None => (Plain::Accepted(accepted), Scheme::HTTP, None),
    };
    let (is_h2, prefix) = match alpn {
        Some(is_h2) => (is_h2, Vec::new()),
        None => {
            let sniffed = tokio::select! {
                sniffed = timeout_at(until, sniff(&mut stream, &clock)) => sniffed,
                () = shared.drain.cancelled() => return None,
            };
            match sniffed {
                Ok(Some(sniffed)) => sniffed,
                Ok(None) => return None,
                Err(_) => return Some("header-timeout"),
            }
        }
    };
    let io = TokioIo::new(Watched::new(stream, clock.clone(), prefix));
    let service = Service {
        shared: shared.clone(),
        clock: clock.clone(),
        remote,
        scheme,
    };
    match is_h2 {
        true => {
            clock.has_streams();
            // Most connections are not of this kind, and do not need its memory.
            Box::pin(serve_h2(shared, &clock, io, service)).await
        }
        false => Box::pin(serve_h1(shared, &clock, io, service)).await,
    }
}

/// Reads what tells the version of HTTP; none where the client is gone.
async fn sniff(stream: &mut Plain, clock: &Clock) -> Option<(bool, Vec<u8>)> {
    let mut bytes = [0; PREFACE.len()];
    let mut len = 0;
    loop {
        let read = stream.read(&mut bytes[len..]).await.ok()?;
        if read == 0 {
            return None;
        }
        clock.read();
        len += read;
        let read = &bytes[..len];
        if !PREFACE.starts_with(read) {
            return Some((false, read.to_vec()));
        }
        if len == PREFACE.len() {
            return Some((true, read.to_vec()));
        }
    }
}

async fn serve_h1(
    shared: &Shared,
    clock: &Clock,
    io: TokioIo<Watched>,
    service: Service,
) -> Option<&'static str> {
    let limits = &shared.limits;
    let header_size = usize::try_from(limits.max_header_size).unwrap_or(usize::MAX);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        // The clock has a limit, and tells the client.
        .header_read_timeout(None)
        .max_header_size(header_size)
        .max_headers(limits.max_headers)
        .max_buf_size(header_size.max(BUFFER));
    let mut http = http.serve_connection(io, service);
    let end = drive(shared, clock, &mut http).await;
    let mut stream = http.into_parts().io.into_inner();
    let cause = match end {
        End::Over(Ok(())) => None,
        End::Over(Err(error)) if error.is_parse_too_large() => Some("header-too-large"),
        End::Over(Err(error)) if error.is_parse() => Some("bad-request"),
        // The client is gone, or the app failed after a part of its answer: the reader of that
        // must not take it for the whole.
        End::Over(Err(_)) => return None,
        End::Late(Late::Header) => {
            let _ = tokio::time::timeout(GOING, stream.write_all(TIMED_OUT)).await;
            Some("header-timeout")
        }
        End::Late(Late::Idle) => None,
        End::Late(Late::Send) => return Some("send-timeout"),
    };
    let lingers = clock.is_unread() || cause.is_some();
    let _ = tokio::time::timeout(LINGER, async {
        let _ = stream.shutdown().await;
        // An array would be a part of the connection while it lives.
        let mut rest = vec![0; if lingers { 4096 } else { 0 }];
        while lingers && stream.read(&mut rest).await.is_ok_and(|len| len > 0) {}
    })
    .await;
    cause
}

async fn serve_h2(
    shared: &Shared,
    clock: &Clock,
    io: TokioIo<Watched>,
    service: Service,
) -> Option<&'static str> {
    let limits = &shared.limits;
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_header_list_size(limits.max_header_size)
        .max_concurrent_streams(limits.max_streams)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(BUFFER)
        // A client that is gone without a word.
        .keep_alive_interval(limits.send_timeout)
        .keep_alive_timeout(limits.send_timeout);
    let mut http = http.serve_connection(io, service);
    match drive(shared, clock, &mut http).await {
        End::Over(Ok(())) => None,
        End::Over(Err(error)) if error.is_parse() => Some("bad-request"),
        End::Over(Err(error)) if error.is_timeout() => Some("send-timeout"),
        End::Over(Err(_)) => None,
        End::Late(Late::Send) => Some("send-timeout"),
        End::Late(Late::Idle | Late::Header) => None,
    }
}

/// How HTTP ended.
enum End {
    Over(hyper::Result<()>),
    Late(Late),
}

/// What both versions of HTTP can do.
trait Http {
    fn poll_http(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>;
    /// No more requests.
    fn finish(&mut self);
    /// Being told to go, it still has something to say.
    const SAYS_GOODBYE: bool;
}

impl Http for http1::Connection<TokioIo<Watched>, Service> {
    fn poll_http(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.poll_without_shutdown(cx)
    }

    fn finish(&mut self) {
        Pin::new(self).graceful_shutdown();
    }

    const SAYS_GOODBYE: bool = false;
}

impl Http for http2::Connection<TokioIo<Watched>, Service, TokioExecutor> {
    fn poll_http(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        Pin::new(self).poll(cx)
    }

    fn finish(&mut self) {
        Pin::new(self).graceful_shutdown();
    }

    const SAYS_GOODBYE: bool = true;
}

/// Lets HTTP run until it is over or the client late. The clock is read after each step: all
/// that changes it to the worse happens in one.
async fn drive<H: Http>(shared: &Shared, clock: &Clock, http: &mut H) -> End {
    let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
    let mut armed: Option<Instant> = None;
    let mut draining = pin!(shared.drain.cancelled());
    let mut is_draining = false;
    // Until when it may go.
    let mut going: Option<Instant> = None;
    std::future::poll_fn(|cx| {
        if !is_draining && draining.as_mut().poll(cx).is_ready() {
            is_draining = true;
            http.finish();
        }
        loop {
            if let Poll::Ready(result) = http.poll_http(cx) {
                return Poll::Ready(End::Over(result));
            }
            let (at, why) = match (clock.deadline(), going) {
                (None, _) => return Poll::Pending,
                (Some((_, Late::Idle)), Some(until)) => (until, Late::Idle),
                (Some(due), _) => due,
            };
            if at <= Instant::now() {
                if H::SAYS_GOODBYE && why == Late::Idle && going.is_none() {
                    going = Some(Instant::now() + GOING);
                    http.finish();
                    continue;
                }
                return Poll::Ready(End::Late(why));
            }
            // A timer that rings too early is set again; that is cheaper than always setting it.
            if armed.is_none_or(|armed| at < armed) {
                armed = Some(at);
                timer.as_mut().reset(at.into());
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            armed = None;
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand connections that do nothing are to cost little. Beside this, hyper has two
    /// buffers of 8 KiB for each.
    #[test]
    fn a_connection_is_small() {
        fn size<F>(_: impl FnOnce(Arc<Shared>, Accepted, Option<IpAddr>) -> F) -> usize {
            size_of::<F>()
        }
        let whole = size(serve);
        assert!(whole <= 1024, "{whole} bytes");
        let inner = size_of::<http1::Connection<TokioIo<Watched>, Service>>();
        assert!(inner <= 1024, "{inner} bytes");
    }
}
