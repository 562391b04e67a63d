//! Small bodies are read before their task begins: a client that sends one slowly takes no
//! place to run.

use crate::app::{Body, BodyError};
use http::header::{EXPECT, HeaderMap};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use std::convert::Infallible;
use tokio::sync::Semaphore;

/// Bytes of a small body.
const SMALL: u64 = 64 << 10;
/// Bodies that are read ahead at the same time: 64 MiB.
const MOST: usize = 1_024;

/// Reads bodies ahead, as many as there is memory for.
#[derive(Debug)]
pub(crate) struct SmallBodies(Semaphore);

impl SmallBodies {
    pub(crate) fn new() -> Self {
        SmallBodies(Semaphore::new(MOST))
    }

    /// The body, read to its end if its length is announced and small. Not one that its client
    /// sends only when it is asked for (`expect`): the app decides on that.
    ///
    /// # Errors
    ///
    /// The body broke off.
    pub(crate) async fn read(&self, head: &HeaderMap, body: Body) -> Result<Body, BodyError> {
        let length = body.size_hint().exact();
        let is_small = length.is_some_and(|length| (1..=SMALL).contains(&length));
        if !is_small || head.contains_key(EXPECT) {
            return Ok(body);
        }
        let Ok(_place) = self.0.try_acquire() else {
            return Ok(body);
        };
        let whole = body.collect().await?;
        let trailers = whole.trailers().cloned();
        let bytes = Full::new(whole.to_bytes()).map_err(|never: Infallible| match never {});
        Ok(match trailers {
            None => bytes.boxed_unsync(),
            Some(trailers) => bytes
                .with_trailers(std::future::ready(Some(Ok(trailers))))
                .boxed_unsync(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::HeaderValue;

    fn body(len: usize) -> Body {
        Full::new(Bytes::from(vec![7; len]))
            .map_err(|never| match never {})
            .boxed_unsync()
    }

    #[tokio::test]
    async fn bodies_stay_as_they_are() {
        let bodies = SmallBodies::new();
        for len in [0, 1, 64 << 10, (64 << 10) + 1] {
            let read = bodies.read(&HeaderMap::new(), body(len)).await;
            let read = read.expect("it is whole");
            assert_eq!(read.size_hint().exact(), Some(len as u64));
            let read = read.collect().await.expect("it is whole");
            assert_eq!(read.to_bytes(), vec![7; len]);
        }
        assert_eq!(bodies.0.available_permits(), MOST);
    }

    #[tokio::test]
    async fn a_body_that_is_asked_for_waits_and_one_that_breaks_off_fails() {
        let bodies = SmallBodies::new();
        let breaks = || {
            let part = Ok(http_body::Frame::data(Bytes::from_static(b"x")));
            let broken = Err(BodyError::new("it breaks off"));
            OfFive([part, broken].into()).boxed_unsync()
        };
        let mut expects = HeaderMap::new();
        expects.insert(EXPECT, HeaderValue::from_static("100-continue"));
        assert!(bodies.read(&expects, breaks()).await.is_ok());
        assert!(bodies.read(&HeaderMap::new(), breaks()).await.is_err());
    }

    type Part = Result<http_body::Frame<Bytes>, BodyError>;

    /// A body that says that it has five bytes.
    struct OfFive(std::collections::VecDeque<Part>);

    impl http_body::Body for OfFive {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Part>> {
            std::task::Poll::Ready(self.0.pop_front())
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(5)
        }
    }
}
