//! The runner's side: a request on its way to a worker, and the response from there.

use super::Wrong;
use super::inflow::{Inflow, Reading};
use super::outflow::{Credit, Outflow};
use crate::wire::{Order, Part, RequestHead, ResponseHead, WINDOW};
use http::Response;
use http_body::Body as _;
use http_body_util::{BodyExt, Empty};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;
use wrun_sandbox::http::{Body, Exchange};

/// What goes to the worker after its order: the request's body, and how far the response is
/// read.
pub(crate) struct Requesting {
    task_id: u64,
    request: Outflow,
    reading: Arc<Reading>,
    sending: Arc<AtomicBool>,
}

/// What comes from the worker.
pub(crate) struct Responding {
    /// The client's end and the body, until the head is there.
    head: Option<(oneshot::Sender<Response<Body>>, Body)>,
    response: Inflow,
    credit: Arc<Credit>,
    /// Bytes that the response may still have.
    left: u64,
    /// A message to the worker is on its way.
    sending: Arc<AtomicBool>,
}

impl Requesting {
    /// The head of the request of `exchange`, for the order of a task, and the two sides of what
    /// follows. `max_output` is what the response's body may have.
    pub(crate) fn new(
        exchange: Exchange,
        task_id: u64,
        max_output: Option<u64>,
    ) -> (RequestHead, Self, Responding) {
        let Exchange { request, respond } = exchange;
        let (parts, body) = request.into_parts();
        let head = RequestHead::of(&parts, !body.is_end_stream());
        let request = Outflow::new(body, if head.waits { 0 } else { WINDOW });
        let (response, body) = Inflow::new(false);
        let sending = Arc::new(AtomicBool::new(false));
        let responding = Responding {
            credit: request.credit().clone(),
            head: Some((respond, body)),
            left: max_output.unwrap_or(u64::MAX),
            sending: sending.clone(),
            response,
        };
        let requesting = Requesting {
            task_id,
            request,
            reading: responding.response.reading().clone(),
            sending,
        };
        (head, requesting, responding)
    }

    /// The next to be sent; [`Requesting::sent`] says that it was. Cancel safe.
    pub(crate) async fn next(&mut self) -> Order {
        let part = tokio::select! {
            part = self.request.next() => part,
            part = self.reading.next() => part,
        };
        self.sending.store(true, Ordering::Release);
        Order::Http {
            task_id: self.task_id,
            part,
        }
    }

    pub(crate) fn sent(&self) {
        self.sending.store(false, Ordering::Release);
    }
}

impl Responding {
    /// The worker sent the head of the response.
    pub(crate) fn head(&mut self, head: ResponseHead) -> Result<(), Wrong> {
        let Some((respond, body)) = self.head.take() else {
            return Err("it sent a second HTTP response");
        };
        let has_body = head.has_body;
        let parts = head.into_parts()?;
        let body = match has_body {
            true => {
                self.response.reading().is_long(&parts.headers);
                body
            }
            false => {
                self.response.put(Part::End(None))?;
                Empty::new().map_err(|never| match never {}).boxed_unsync()
            }
        };
        // A client that is gone drops the body, which tells the worker.
        let _ = respond.send(Response::from_parts(parts, body));
        Ok(())
    }

    /// The worker sent a part; whether the response is not too long.
    pub(crate) fn part(&mut self, part: Part) -> Result<bool, Wrong> {
        match part {
            Part::Taken(bytes) => self.credit.taken(bytes)?,
            Part::Closed => self.credit.close(),
            part if self.head.is_none() => {
                let len = self.response.put(part)? as u64;
                let left = self.left.checked_sub(len);
                self.left = left.unwrap_or(0);
                return Ok(left.is_some());
            }
            _ => return Err("it sent an HTTP body without a head"),
        }
        Ok(true)
    }

    /// Whether the response was sent to its end, as far as somebody wanted it.
    pub(crate) fn is_whole(&self) -> bool {
        self.head.is_none() && self.response.is_done()
    }

    /// Whether nothing is on its way to the worker, or would be.
    pub(crate) fn is_quiet(&self) -> bool {
        self.credit.is_over() && !self.sending.load(Ordering::Acquire)
    }
}
