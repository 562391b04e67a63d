//! Until `wrun` has it.
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
pub(crate) type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BodyError>;
#[derive(Debug)]
pub(crate) struct BodyError(Box<dyn std::error::Error + Send + Sync>);
impl BodyError {
    pub(crate) fn new(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        BodyError(e.into())
    }
}
impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
impl std::error::Error for BodyError {}
pub(crate) trait TaskExt {
    fn request(self, request: Request<Body>) -> Self;
}
impl TaskExt for wrun::Task {
    fn request(self, _: Request<Body>) -> Self {
        self
    }
}
pub(crate) trait HandleExt {
    async fn response(&mut self) -> Option<Response<Body>>;
}
impl HandleExt for wrun::TaskHandle {
    async fn response(&mut self) -> Option<Response<Body>> {
        let body = http_body_util::Full::new(Bytes::from_static(b"hello\n"));
        Some(Response::new(body.map_err(|e| match e {}).boxed_unsync()))
    }
}
pub(crate) trait ArtifactExt {
    fn is_http(&self) -> bool;
}
impl ArtifactExt for wrun::Artifact {
    fn is_http(&self) -> bool {
        true
    }
}
