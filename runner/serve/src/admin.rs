//! For the operator alone: `/healthz`, `/readyz`, `/metrics`. Of a server, or of another program
//! that has something to say there ([`Operated`]).

use crate::answer::Outgoing;
use crate::listen::{Address, Listener};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 64;
/// How long one may last.
const TIME: Duration = Duration::from_secs(60);
/// How long its next request may take.
const HEADER_TIME: Duration = Duration::from_secs(10);

/// What an operator is told of a program.
pub trait Operated: Send + Sync + 'static {
    /// What `/readyz` says: with status 200, or as an error with 503.
    ///
    /// # Errors
    ///
    /// The program takes no more work: why.
    fn readiness(&self) -> Result<String, String>;

    /// What `/metrics` says, in the text form of OpenMetrics, up to its end `# EOF`.
    ///
    /// # Errors
    ///
    /// They cannot be written.
    fn metrics(&self) -> Result<String, fmt::Error>;
}

/// Answers `/healthz`, `/readyz` and `/metrics` to every client, until it is dropped. A
/// [`Server`](crate::Server) has its own.
#[must_use = "dropping it ends it"]
#[derive(Debug)]
pub struct Admin {
    address: Address,
    stop: CancellationToken,
}

impl Admin {
    /// Answers on this socket, on a task of the tokio runtime in whose context it is called.
    pub fn start(operated: Arc<impl Operated>, listener: Listener) -> Self {
        let address = listener.address().clone();
        let stop = CancellationToken::new();
        tokio::spawn(serve(operated, listener, stop.clone()));
        Admin { address, stop }
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Answers until it is told to stop.
pub(crate) async fn serve(
    operated: Arc<impl Operated>,
    listener: Listener,
    stop: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let operated = operated.clone();
            let stop = stop.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let response = answer(&*operated, &request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let serving = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIME)
                    .max_buf_size(8 << 10)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    _ = tokio::time::timeout(TIME, serving) => {}
                    () = stop.cancelled() => {}
                }
                drop(permit);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop.cancelled() => {}
    }
}

fn answer(operated: &impl Operated, request: &Request<Incoming>) -> Response<Outgoing> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    let (status, kind, text) = match request.uri().path() {
        _ if !is_read => (
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "expected GET\n".into(),
        ),
        "/healthz" => (StatusCode::OK, TEXT, "ok\n".into()),
        "/readyz" => match operated.readiness() {
            Ok(text) => (StatusCode::OK, TEXT, text + "\n"),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, why + "\n"),
        },
        "/metrics" => match operated.metrics() {
            Ok(text) => (StatusCode::OK, OPEN_METRICS, text),
            Err(error) => {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                (status, TEXT, format!("{error}\n"))
            }
        },
        _ => {
            let there_are = "expected /healthz, /readyz or /metrics\n";
            (StatusCode::NOT_FOUND, TEXT, there_are.into())
        }
    };
    let length = text.len();
    let body = match *request.method() == Method::HEAD {
        true => Bytes::new(),
        false => text.into(),
    };
    let mut response = Response::new(Outgoing::whole(body, None));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_LENGTH, length.into());
    response
}
