//! HTTP requests as tasks: [`Task::request`](crate::Task::request) and
//! [`TaskHandle::response`](crate::TaskHandle::response).
//!
//! Types of requests and responses are those of the crate [`http`], bodies those of
//! [`http_body_util`].

use http::Response;
use tokio::sync::oneshot;

#[doc(inline)]
pub use wrun_sandbox::http::{Body, BodyError};

/// What yields the response of a task.
pub(crate) type Responding = oneshot::Receiver<Response<Body>>;
