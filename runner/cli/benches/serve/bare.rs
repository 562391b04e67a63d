//! The floor of a server: hyper and nothing else, of the version and with the number of threads
//! that `wrun serve` has. No timeouts, no limits, no log, no guest.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use tokio::net::TcpListener;

/// The argument that makes this program one.
pub(crate) const ROLE: &str = "__bare";

pub(crate) fn serve() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            println!("listening on http://{}", listener.local_addr()?);
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                tokio::spawn(async move {
                    // A client that is gone.
                    let _ = connection.await;
                });
            }
        })
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, Infallible> {
    let body = match request.uri().path() {
        // Without its length: in chunks, as what a guest sends.
        "/echo" => StreamBody::new(BodyStream::new(request.into_body())).boxed(),
        _ => {
            let hello = Full::new(Bytes::from_static(b"hello\n"));
            hello.map_err(|never: Infallible| match never {}).boxed()
        }
    };
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}
