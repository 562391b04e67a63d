//! A body that a guest writes, which ends well only if its guest finished it.

use super::exchange::BodyError;
use bytes::Bytes;
use http::header::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// See the [module](self).
pub(super) struct GuestBody<B> {
    body: B,
    /// It came to its end. The body of a store that is gone ends, too, but without trailers,
    /// which [`mark_finished`](crate::linker) gives to each body that its guest finishes.
    finished: bool,
    /// Bytes that are still to come, where its head says how many.
    declared: Option<u64>,
}

impl<B: Body> GuestBody<B> {
    pub(super) fn of(body: B, declared: Option<u64>) -> Self {
        GuestBody {
            finished: body.is_end_stream(),
            body,
            declared,
        }
    }
}

impl<B: Body<Data = Bytes, Error: Display> + Unpin> Body for GuestBody<B> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.finished {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) if frame.is_trailers() => {
                self.finished = true;
                let is_empty = frame.trailers_ref().is_none_or(HeaderMap::is_empty);
                (!is_empty).then_some(Ok(frame))
            }
            Some(Ok(frame)) => {
                let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(declared) = &mut self.declared {
                    *declared = declared.saturating_sub(len);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.finished = true;
                Some(Err(BodyError::new(error.to_string())))
            }
            None => {
                self.finished = true;
                let what = "the task ended in the middle of the body";
                Some(Err(BodyError::new(what)))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.finished
    }

    fn size_hint(&self) -> SizeHint {
        match self.declared {
            Some(declared) => SizeHint::with_exact(declared),
            None => self.body.size_hint(),
        }
    }
}
