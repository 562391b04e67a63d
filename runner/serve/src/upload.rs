//! The body of a request on its way to the app: counted, limited, and not waited for without
//! end.

use crate::app::BodyError;
use crate::clock::Clock;
use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

/// What is wrong with the body of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    TooLarge,
    Late,
}

impl Fault {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Fault::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Fault::Late => StatusCode::REQUEST_TIMEOUT,
        }
    }

    pub(crate) fn why(self) -> &'static str {
        match self {
            Fault::TooLarge => "the body is larger than the server takes",
            Fault::Late => "the client stopped sending the body",
        }
    }
}

/// The body of a request. Polled on whatever thread the app's runner has.
pub(crate) struct Upload {
    body: Incoming,
    left: u64,
    received: Arc<AtomicU64>,
    patience: Duration,
    /// Until when the client has time, while the app waits. Made where the server runs, whose
    /// timers it uses.
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
    is_over: bool,
    clock: Arc<Clock>,
    /// Who answers the request, and is told what is wrong.
    fault: Option<oneshot::Sender<Fault>>,
}

impl Upload {
    /// With a limit in bytes, and on the time between two parts.
    pub(crate) fn new(
        body: Incoming,
        limit: Option<u64>,
        patience: Duration,
        received: Arc<AtomicU64>,
        clock: Arc<Clock>,
    ) -> (Self, oneshot::Receiver<Fault>) {
        let (fault, told) = oneshot::channel();
        let upload = Upload {
            body,
            left: limit.unwrap_or(u64::MAX),
            received,
            patience,
            timer: Box::pin(sleep(patience)),
            is_waiting: false,
            is_over: false,
            clock,
            fault: Some(fault),
        };
        (upload, told)
    }

    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(teller) = self.fault.take() {
            let _ = teller.send(fault);
        }
        Poll::Ready(Some(Err(BodyError::new(fault.why()))))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.is_waiting = false;
                let len = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.received.fetch_add(len, Ordering::Relaxed);
                match self.left.checked_sub(len) {
                    Some(left) => self.left = left,
                    None => return self.fail(Fault::TooLarge),
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BodyError::new(error)))),
            Poll::Ready(None) => {
                self.is_over = true;
                Poll::Ready(None)
            }
            Poll::Pending => {
                if !self.is_waiting {
                    self.is_waiting = true;
                    let until = Instant::now() + self.patience;
                    self.timer.as_mut().reset(until);
                }
                match self.timer.as_mut().poll(cx) {
                    Poll::Ready(()) => self.fail(Fault::Late),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.is_over && !self.body.is_end_stream() {
            self.clock.left_unread();
        }
    }
}
