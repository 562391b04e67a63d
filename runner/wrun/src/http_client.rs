//! Sends the HTTP requests of tasks: one client for all tasks of a runner, which keeps
//! connections for the next request to the same server.
//!
//! Invariant: what a task sent is checked here, in either mode, since a worker is not
//! trusted: nothing of a request concerns the connection, and no response is larger than its
//! worker takes.

use bytes::Bytes;
use http::header::{
    CONNECTION, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{Response, Version};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpConnector, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::error::Error as StdError;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use wrun_sandbox::http::{Body, BodyError, Fetch, FetchError, MAX_FETCHES, check, fits};
use wrun_types::error::{Error, ErrorKind as Kind};
use wrun_types::grant::HttpGrant;

/// How long a task waits for a connection, if it does not say so.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a task waits for anything, at most; as `wasmtime serve` has it.
const LONGEST: Duration = Duration::from_secs(600);
/// How long a connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(30);
/// Connections to one server that are kept.
const MAX_IDLE: usize = 16;
/// Bytes of the head of a response.
const MAX_HEAD: u32 = 64 << 10;
const MAX_HEADERS: usize = 256;

/// Fields that concern the connection: hyper writes its own. `host` is in the URL.
const OF_THE_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    HOST,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// See the [module](self).
pub(crate) struct HttpClient(Client<HttpsConnector<HttpConnector>, Body>);

impl HttpClient {
    /// A client that trusts the usual certificate authorities, and those in `more`, in PEM.
    pub(crate) fn new(more: &[u8]) -> Result<Self, Error> {
        let mut roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let wrong = |why: &dyn std::fmt::Display| {
            let message = format!("invalid certificate authorities for HTTP requests: {why}");
            Error::new(Kind::InvalidTask, message)
        };
        let mut any = more.is_empty();
        for certificate in CertificateDer::pem_slice_iter(more) {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
            any = true;
        }
        if !any {
            return Err(wrong(&"expected certificates in PEM"));
        }
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(MAX_IDLE)
            .http1_max_buf_size(MAX_HEAD as usize)
            .http1_max_headers(MAX_HEADERS)
            .http2_max_header_list_size(MAX_HEAD)
            .build(connector);
        Ok(HttpClient(client))
    }

    async fn send(&self, fetch: Fetch) -> Result<Response<Body>, FetchError> {
        let Fetch { mut request, waits } = fetch;
        for name in OF_THE_CONNECTION {
            request.headers_mut().remove(name);
        }
        *request.version_mut() = Version::HTTP_11;
        let connect = waits.connect.unwrap_or(CONNECT).min(LONGEST);
        let head = waits.head.unwrap_or(LONGEST).min(LONGEST);
        let mut connection = capture_connection(&mut request);
        let connected = async { drop(connection.wait_for_connection_metadata().await) };
        let mut response = std::pin::pin!(self.0.request(request));
        let response = tokio::select! {
            biased;
            response = &mut response => response,
            () = sleep(connect) => return Err(FetchError::ConnectTimeout),
            () = connected => {
                match timeout(head, response).await {
                    Ok(response) => response,
                    Err(_) => return Err(FetchError::HeadTimeout),
                }
            }
        };
        let response = response.map_err(|error| reason(&error))?;
        if !fits(response.headers()) {
            return Err(FetchError::HeadTooLarge);
        }
        Ok(response.map(|body| body.map_err(BodyError::new).boxed_unsync()))
    }
}

/// A client that is made for the first task that may send requests.
pub(crate) struct LazyClient(OnceLock<Option<Arc<HttpClient>>>);

impl LazyClient {
    /// It is made now, where it has authorities that can be wrong.
    pub(crate) fn new(authorities: &[u8]) -> Result<Self, Error> {
        let lazy = LazyClient(OnceLock::new());
        if !authorities.is_empty() {
            let client = HttpClient::new(authorities)?;
            lazy.0.get_or_init(|| Some(Arc::new(client)));
        }
        Ok(lazy)
    }

    pub(crate) fn get(&self) -> Option<Arc<HttpClient>> {
        let made = || HttpClient::new(&[]).ok().map(Arc::new);
        self.0.get_or_init(made).clone()
    }
}

/// The requests that one task may send.
pub(crate) struct TaskRequests {
    /// None if none can be made.
    client: Option<Arc<HttpClient>>,
    grants: Vec<HttpGrant>,
    slots: Arc<Semaphore>,
}

impl TaskRequests {
    pub(crate) fn new(client: Option<Arc<HttpClient>>, grants: Vec<HttpGrant>) -> Self {
        TaskRequests {
            client,
            grants,
            slots: Arc::new(Semaphore::new(MAX_FETCHES)),
        }
    }

    /// Sends a request if it is granted, once there is room for it.
    pub(crate) async fn fetch(&self, fetch: Fetch) -> Result<Response<Body>, FetchError> {
        check(fetch.request.method(), fetch.request.uri(), &self.grants)?;
        let slot = self.slots.clone().acquire_owned().await;
        let slot = slot.map_err(|_| FetchError::Runner)?;
        let client = self.client.as_ref().ok_or(FetchError::Runner)?;
        let response = client.send(fetch).await?;
        Ok(response.map(|body| Received { body, _slot: slot }.boxed_unsync()))
    }
}

/// The body of a response: its trailers are as many as a worker takes.
struct Received {
    body: Body,
    _slot: OwnedSemaphorePermit,
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) if frame.trailers_ref().is_some_and(|it| !fits(it)) => {
                Some(Err(BodyError::new("the trailers are too large")))
            }
            other => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a guest is told about a request that has no response.
fn reason(error: &hyper_util::client::legacy::Error) -> FetchError {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut found = match error.is_connect() {
        true => FetchError::Unreachable,
        false => FetchError::Ended,
    };
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            found = match error {
                error if error.is_parse_too_large() => FetchError::HeadTooLarge,
                error if error.is_parse() => FetchError::Protocol,
                error if error.is_timeout() => FetchError::HeadTimeout,
                _ => found,
            };
        } else if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return of_tls(error);
        } else if let Some(error) = error.downcast_ref::<io::Error>() {
            found = of_io(error, found);
            // Its source is that of the error in it, which would be left out.
            if let Some(inner) = error.get_ref() {
                cause = Some(inner);
                continue;
            }
        } else if error.to_string() == "dns error" {
            // The type is not public.
            return FetchError::Name;
        }
        cause = error.source();
    }
    found
}

fn of_tls(error: &rustls::Error) -> FetchError {
    match error {
        rustls::Error::InvalidCertificate(_) => FetchError::Certificate,
        _ => FetchError::Tls,
    }
}

fn of_io(error: &io::Error, otherwise: FetchError) -> FetchError {
    match error.kind() {
        ErrorKind::ConnectionRefused => FetchError::Refused,
        ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown
        | ErrorKind::AddrNotAvailable => FetchError::Unreachable,
        ErrorKind::TimedOut => FetchError::ConnectTimeout,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => FetchError::Ended,
        _ => otherwise,
    }
}
