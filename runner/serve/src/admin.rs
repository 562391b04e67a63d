//! For the operator alone: `/healthz`, `/readyz`, `/metrics`.

use crate::answer::Outgoing;
use crate::listen::Listener;
use crate::shared::Shared;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
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

/// Answers until it is told to stop.
pub(crate) async fn serve(shared: Arc<Shared>, listener: Listener, stop: CancellationToken) {
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
            let shared = shared.clone();
            let stop = stop.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let response = answer(&shared, &request);
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

fn answer(shared: &Shared, request: &Request<Incoming>) -> Response<Outgoing> {
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
        "/readyz" if shared.drain.is_cancelled() => {
            (StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n".into())
        }
        "/readyz" => {
            let version = shared.site().version;
            (StatusCode::OK, TEXT, format!("ok, version {version}\n"))
        }
        "/metrics" => match shared.books.metrics.text(&shared.runner.stats()) {
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
