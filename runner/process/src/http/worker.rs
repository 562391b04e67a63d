//! The worker's side: the request that its task answers, and the response on its way out.

use super::Wrong;
use super::inflow::Inflow;
use super::outflow::Outflow;
use crate::wire::{OWN, Part, RequestHead, ResponseHead, WINDOW, WorkerSays};
use http::{Request, Response};
use http_body::Body as _;
use tokio::sync::oneshot;
use wrun_sandbox::http::{Body, Exchange};

/// A request that is being answered.
pub(crate) struct Answering {
    request: Inflow,
    /// None once the head was said, or there will be none.
    response: Option<oneshot::Receiver<Response<Body>>>,
    /// The body of the response, and what the runner takes of it.
    body: Option<Outflow>,
}

impl Answering {
    /// What the task answers, and its worker's end of that.
    pub(crate) fn new(head: RequestHead) -> Result<(Exchange, Self), Wrong> {
        let (has_body, waits) = (head.has_body, head.waits);
        let parts = head.into_parts()?;
        let (request, body) = Inflow::of_request(has_body, waits, &parts.headers)?;
        let (exchange, response) = Exchange::new(Request::from_parts(parts, body));
        let answering = Answering {
            request,
            response: Some(response),
            body: None,
        };
        Ok((exchange, answering))
    }

    /// The next message to the runner; `None` once it is clear that there will be no response.
    /// Pending while there is nothing to send. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<WorkerSays> {
        tokio::select! {
            biased;
            response = head(&mut self.response) => {
                self.response = None;
                let (parts, body) = response?.into_parts();
                let head = ResponseHead::of(&parts, !body.is_end_stream());
                self.body = Some(Outflow::new(body, WINDOW));
                Some(WorkerSays::HttpHead(head))
            }
            part = next_part(&mut self.body) => Some(said(part)),
            part = self.request.reading().next() => Some(said(part)),
        }
    }

    /// Heeds a part that the runner sent.
    pub(crate) fn heed(&mut self, part: Part) -> Result<(), Wrong> {
        match (part, &self.body) {
            (Part::Taken(bytes), Some(body)) => body.credit().taken(bytes),
            (Part::Closed, Some(body)) => {
                body.credit().close();
                Ok(())
            }
            (Part::Closed, None) => Ok(()),
            // The guest may have let go of its request, of which more is on its way.
            (Part::Data(_) | Part::End(_) | Part::Failed(_), _) if self.request.is_over() => Ok(()),
            (part, _) => self.request.put(part).map(|_| ()),
        }
    }

    /// Whether all of the response was said, or nothing more of it will be.
    pub(crate) fn is_over(&self) -> bool {
        let body = self.body.as_ref();
        self.response.is_none() && body.is_none_or(|body| body.credit().is_over())
    }
}

fn said(part: Part) -> WorkerSays {
    WorkerSays::Http {
        exchange: OWN,
        part,
    }
}

async fn head(response: &mut Option<oneshot::Receiver<Response<Body>>>) -> Option<Response<Body>> {
    match response {
        Some(response) => response.await.ok(),
        None => std::future::pending().await,
    }
}

async fn next_part(body: &mut Option<Outflow>) -> Part {
    match body {
        Some(body) => body.next().await,
        None => std::future::pending().await,
    }
}
