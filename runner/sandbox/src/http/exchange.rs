//! A request, and where its response goes.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use std::error::Error;
use std::fmt;
use tokio::sync::oneshot;

/// The body of a request or a response: frames of data, then trailers, if there are some. It
/// is read as it is needed, by its consumer.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// Why a body ended before its end.
pub struct BodyError(Box<dyn Error + Send + Sync>);

impl BodyError {
    /// An error with this cause, which is also its message.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        BodyError(cause.into())
    }
}

impl fmt::Debug for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for BodyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// A request that a task answers.
pub struct Exchange {
    pub request: Request<Body>,
    /// Takes the response, as soon as its head is there. Dropped without one where the task
    /// ends before.
    pub respond: oneshot::Sender<Response<Body>>,
}

impl Exchange {
    /// `request`, and what yields its response.
    pub fn new(request: Request<Body>) -> (Self, oneshot::Receiver<Response<Body>>) {
        let (respond, response) = oneshot::channel();
        (Exchange { request, respond }, response)
    }

    /// One that nothing comes of.
    pub fn of_warm_up() -> Option<Self> {
        let body = http_body_util::Empty::new()
            .map_err(|never| match never {})
            .boxed_unsync();
        let mut request = Request::new(body);
        *request.uri_mut() = http::Uri::from_static("http://localhost/");
        Some(Exchange::new(request).0)
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, uri) = (self.request.method(), self.request.uri());
        write!(f, "Exchange({method} {uri})")
    }
}
