//! A request that a guest sends: what its runner gets of it, and how it may fail.

use super::exchange::{Body, BodyError};
use super::fetch_error::FetchError;
use super::guest_body::GuestBody;
use crate::services::Services;
use http::header::HeaderMap;
use http::{Method, Request, Response, Uri};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};
use wrun_types::grant::HttpGrant;

/// Requests of one task that are sent at a time; others wait until a response is read or
/// dropped.
pub const MAX_FETCHES: usize = 64;
/// Requests that may be sent or wait.
const MAX_OPEN: usize = 256;
/// Header fields of one message, at most: more than a guest has room for.
pub const MAX_FIELDS: usize = 2_048;
/// Bytes of the names and values in one collection of header fields. Servers in use take
/// between 8 KiB and 64 KiB.
pub(super) const MAX_FIELD_BYTES: usize = 64 << 10;

/// A request that a guest sends, and how long it waits.
#[derive(Debug)]
pub struct Fetch {
    pub request: Request<Body>,
    pub waits: Waits,
}

/// How long a guest waits for a response, where it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// Until there is a connection.
    pub connect: Option<Duration>,
    /// From there until the head of the response.
    pub head: Option<Duration>,
}

impl From<FetchError> for Error {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Denied => Error::HttpRequestDenied,
            FetchError::Url => Error::HttpRequestUriInvalid,
            FetchError::Method => Error::HttpRequestMethodInvalid,
            FetchError::Name => Error::DnsError {
                rcode: None,
                info_code: None,
            },
            FetchError::Refused => Error::ConnectionRefused,
            FetchError::Unreachable => Error::DestinationUnavailable,
            FetchError::ConnectTimeout => Error::ConnectionTimeout,
            FetchError::HeadTimeout => Error::HttpResponseTimeout,
            FetchError::Certificate => Error::TlsCertificateError,
            FetchError::Tls => Error::TlsProtocolError,
            FetchError::Ended => Error::ConnectionTerminated,
            FetchError::Protocol => Error::HttpProtocolError,
            FetchError::HeadTooLarge => Error::HttpResponseHeaderSectionSize(None),
            FetchError::TooMany => Error::ConnectionLimitReached,
            FetchError::Runner => Error::InternalError(None),
        }
    }
}

/// Whether a request may be sent to this URL.
///
/// # Errors
///
/// No grant includes it, or it is not one that can be sent.
pub fn check(method: &Method, url: &Uri, grants: &[HttpGrant]) -> Result<(), FetchError> {
    let authority = url.authority().ok_or(FetchError::Url)?;
    let tls = match url.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(FetchError::Url),
    };
    // A name and a password before the host would reach logs of others.
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(FetchError::Url);
    }
    let rest = authority.as_str().strip_prefix(authority.host());
    let port = match rest.ok_or(FetchError::Url)?.strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| FetchError::Url)?,
        None if tls => 443,
        None => 80,
    };
    let mut grants = grants.iter();
    if !grants.any(|grant| grant.includes(authority.host(), port, tls)) {
        return Err(FetchError::Denied);
    }
    match *method {
        // It would open a tunnel.
        Method::CONNECT => Err(FetchError::Method),
        _ => Ok(()),
    }
}

/// Whether a head has as few fields as it may have.
pub fn fits(fields: &HeaderMap) -> bool {
    let bytes = fields.iter();
    let bytes: usize = bytes
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    fields.len() <= MAX_FIELDS && bytes <= MAX_FIELD_BYTES
}

/// Sends the requests of one guest.
pub(super) struct Fetcher {
    pub(super) services: Arc<dyn Services>,
    /// Made for the first request.
    open: OnceLock<Arc<Semaphore>>,
}

impl Fetcher {
    pub(super) fn new(services: Arc<dyn Services>) -> Self {
        Fetcher {
            services,
            open: OnceLock::new(),
        }
    }

    /// Sends a request that is granted.
    pub(super) fn send(
        &self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> impl Future<Output = Result<Response<WasiBody>, FetchError>> + Send + use<> {
        let open = self.open.get_or_init(|| Arc::new(Semaphore::new(MAX_OPEN)));
        let permit = open.clone().try_acquire_owned();
        let services = self.services.clone();
        let options = options.unwrap_or_default();
        async move {
            let permit = permit.map_err(|_| FetchError::TooMany)?;
            let waits = Waits {
                connect: options.connect_timeout,
                head: options.first_byte_timeout,
            };
            let request = request.map(|body| GuestBody::of(body, None).boxed_unsync());
            let response = services.fetch(Fetch { request, waits }).await?;
            let body = |body| Fetched {
                body,
                between: options.between_bytes_timeout,
                overdue: None,
                _permit: permit,
            };
            Ok(response.map(|it| body(it).boxed_unsync()))
        }
    }
}

/// The body of a response, with the time that the guest waits between two of its frames.
struct Fetched {
    body: Body,
    between: Option<Duration>,
    overdue: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Fetched {
    type Data = bytes::Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.overdue = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        let Some(between) = self.between else {
            return Poll::Pending;
        };
        let overdue = self.overdue.get_or_insert_with(|| {
            let far = Instant::now() + Duration::from_secs(1 << 30);
            Box::pin(sleep_until(
                Instant::now().checked_add(between).unwrap_or(far),
            ))
        });
        overdue
            .as_mut()
            .poll(cx)
            .map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl From<BodyError> for Error {
    /// The guest is told that the connection ended: the sender of the body is at fault, or
    /// gone.
    fn from(_: BodyError) -> Self {
        Error::ConnectionTerminated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_granted_is_sent() {
        let grants = ["a.org", "b.org:8080", "[::1]"].map(|it| it.parse().expect(it));
        let sent = |method: Method, url: &str| match url.parse() {
            Ok(url) => check(&method, &url, &grants),
            Err(_) => Err(FetchError::Url),
        };
        for url in [
            "http://a.org",
            "https://A.org:443/x?y",
            "http://b.org:8080/",
            "http://[::1]/",
        ] {
            assert_eq!(sent(Method::GET, url), Ok(()), "{url}");
        }
        for url in [
            "http://a.org:443",
            "https://b.org",
            "http://c.org",
            "http://a.org.c.org/",
        ] {
            assert_eq!(sent(Method::GET, url), Err(FetchError::Denied), "{url}");
        }
        let bad = [
            "/x",
            "a.org",
            "ftp://a.org/",
            "http://a.org@c.org/",
            "http://c.org@a.org/",
            "http://a.org:99999/",
            "http://a.org:/",
        ];
        for url in bad {
            assert_eq!(sent(Method::GET, url), Err(FetchError::Url), "{url}");
        }
        assert_eq!(
            sent(Method::CONNECT, "http://a.org/"),
            Err(FetchError::Method)
        );
    }
}
