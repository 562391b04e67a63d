//! A body whose failure waits until what comes before it can be written.
//!
//! hyper (1.12, `proto/h1/dispatch.rs`) closes a connection of HTTP/1.1 as soon as a body fails,
//! and what it has buffered is lost: where a task answers and fails at once, the client would
//! get nothing at all. While a body is pending, it writes what it has.

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

pub(crate) struct Flushed<B: Body> {
    body: B,
    failure: Option<B::Error>,
}

impl<B: Body> Flushed<B> {
    pub(crate) fn new(body: B) -> Self {
        Flushed {
            body,
            failure: None,
        }
    }
}

impl<B, D> Body for Flushed<B>
where
    B: Body<Data = D> + Unpin,
    B::Error: Unpin,
    D: Buf,
{
    type Data = D;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<D>, B::Error>>> {
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Err(failure))) => {
                self.failure = Some(failure);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failure.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::Flushed;
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body::{Body, Frame};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use std::convert::Infallible;
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A part that is there at once, and a failure right behind it.
    struct Half(Option<Bytes>);

    impl Body for Half {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            let part = self.0.take().map(Frame::data);
            Poll::Ready(Some(part.ok_or(io::Error::other("the task failed"))))
        }
    }

    #[tokio::test]
    async fn what_is_before_a_failure_is_written() {
        let (mut client, server) = tokio::io::duplex(4096);
        let service = service_fn(|_: Request<Incoming>| async {
            let body = Half(Some(Bytes::from_static(b"half")));
            Ok::<_, Infallible>(Response::new(Flushed::new(body)))
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(server), service);
        let serving = tokio::spawn(connection);
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("writes");
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.expect("reads");
        let got = String::from_utf8(got).expect("text");
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got:?}");
        // A part, and no last one.
        assert!(got.ends_with("\r\n\r\n4\r\nhalf\r\n"), "{got:?}");
        assert!(serving.await.expect("no panic").is_err());
    }
}
