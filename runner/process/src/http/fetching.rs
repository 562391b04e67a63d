//! The worker's side of requests that its guest sends.

use super::Wrong;
use super::inflow::{Inflow, Reading};
use super::outflow::{Credit, Outflow};
use crate::wire::{ExchangeId, FetchHead, Part, RequestHead, ResponseHead, WINDOW, WorkerSays};
use http::{Response, response};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;
use wrun_sandbox::http::{Body, Fetch, FetchError, MAX_FETCHES};

/// Messages that wait to be sent: each part of a body waits for its predecessors.
const MAX_MESSAGES: usize = 4;

type Head = Result<response::Parts, FetchError>;

/// Requests that are sent at a time.
pub(crate) struct Slots(Arc<Semaphore>);

impl Slots {
    pub(crate) fn new() -> Self {
        Slots(Arc::new(Semaphore::new(MAX_FETCHES)))
    }

    /// Has `send` pass on a request once there is room for it, and waits for the response.
    pub(crate) async fn fetch(
        &self,
        fetch: Fetch,
        send: impl FnOnce(Unsent) -> Result<(), FetchError>,
    ) -> Result<Response<Body>, FetchError> {
        let slot = self.0.clone().acquire_owned().await;
        let slot = slot.map_err(|_| FetchError::Runner)?;
        let (parts, body) = fetch.request.into_parts();
        let request = Outflow::new(body, WINDOW);
        let (response, body) = Inflow::new(false);
        let (reply, head) = oneshot::channel();
        send(Unsent {
            head: FetchHead {
                request: RequestHead::of(&parts, !request.credit().is_over()),
                connect: fetch.waits.connect,
                head: fetch.waits.head,
            },
            request,
            response,
            reply,
            slot,
        })?;
        // Dropped before it has a head, the body says that none is wanted.
        let head = head.await.map_err(|_| FetchError::Runner)??;
        Ok(Response::from_parts(head, body))
    }
}

/// A request that the runner does not know of yet.
pub(crate) struct Unsent {
    head: FetchHead,
    request: Outflow,
    response: Inflow,
    reply: oneshot::Sender<Head>,
    slot: OwnedSemaphorePermit,
}

/// The requests of the running guest.
pub(crate) struct Fetching {
    last: ExchangeId,
    open: HashMap<ExchangeId, Open>,
    sender: mpsc::Sender<(ExchangeId, Part)>,
    parts: mpsc::Receiver<(ExchangeId, Part)>,
}

struct Open {
    /// None once the head arrived.
    reply: Option<oneshot::Sender<Head>>,
    response: Inflow,
    credit: Arc<Credit>,
    _forwarding: AbortOnDropHandle<()>,
    _slot: OwnedSemaphorePermit,
}

impl Fetching {
    pub(crate) fn new() -> Self {
        let (sender, parts) = mpsc::channel(MAX_MESSAGES);
        Fetching {
            last: 0,
            open: HashMap::new(),
            sender,
            parts,
        }
    }

    /// The message that begins a request; its parts come by [`Fetching::next`].
    pub(crate) fn begin(&mut self, unsent: Unsent) -> WorkerSays {
        let Unsent {
            head,
            request,
            response,
            reply,
            slot,
        } = unsent;
        self.last += 1;
        let exchange = self.last;
        let credit = request.credit().clone();
        let reading = response.reading().clone();
        let forwarding = forward(exchange, request, reading, self.sender.clone());
        let open = Open {
            reply: Some(reply),
            response,
            credit,
            _forwarding: AbortOnDropHandle::new(tokio::spawn(forwarding)),
            _slot: slot,
        };
        self.open.insert(exchange, open);
        WorkerSays::Fetch { exchange, head }
    }

    /// The next message to the runner. Cancel safe.
    pub(crate) async fn next(&mut self) -> WorkerSays {
        loop {
            let Some((exchange, part)) = self.parts.recv().await else {
                return std::future::pending().await;
            };
            // It may be over since.
            if self.open.contains_key(&exchange) {
                if matches!(part, Part::Closed) {
                    self.open.remove(&exchange);
                }
                return WorkerSays::Http { exchange, part };
            }
        }
    }

    /// Heeds the response to a request.
    pub(crate) fn fetched(
        &mut self,
        exchange: ExchangeId,
        response: Result<ResponseHead, FetchError>,
    ) -> Result<(), Wrong> {
        let Some(open) = self.open.get_mut(&exchange) else {
            return self.was_open(exchange);
        };
        let Some(reply) = open.reply.take() else {
            return Err("a second response");
        };
        let is_last = !response.as_ref().is_ok_and(|head| head.has_body);
        let head = response.map(ResponseHead::into_parts);
        let head = match head {
            Ok(parts) => Ok(parts?),
            Err(error) => Err(error),
        };
        match (is_last, &head) {
            (true, Ok(_)) => _ = open.response.put(Part::End(None))?,
            (false, Ok(parts)) => open.response.reading().is_long(&parts.headers),
            (_, Err(_)) => {}
        }
        let _ = reply.send(head);
        if is_last {
            self.open.remove(&exchange);
        }
        Ok(())
    }

    /// Heeds a part of the body of a response, or what becomes of that of a request.
    pub(crate) fn part(&mut self, exchange: ExchangeId, part: Part) -> Result<(), Wrong> {
        let Some(open) = self.open.get_mut(&exchange) else {
            return self.was_open(exchange);
        };
        match part {
            Part::Taken(bytes) => return open.credit.taken(bytes),
            Part::Closed => open.credit.close(),
            part => {
                if open.reply.is_some() {
                    return Err("a body without a head");
                }
                open.response.put(part)?;
                if open.response.is_over() {
                    self.open.remove(&exchange);
                }
            }
        }
        Ok(())
    }

    fn was_open(&self, exchange: ExchangeId) -> Result<(), Wrong> {
        match exchange <= self.last {
            true => Ok(()),
            false => Err("a response to no request"),
        }
    }
}

/// Passes on the body of a request, and how far that of its response is read.
async fn forward(
    exchange: ExchangeId,
    mut request: Outflow,
    reading: Arc<Reading>,
    to: mpsc::Sender<(ExchangeId, Part)>,
) {
    loop {
        let part = tokio::select! {
            part = request.next() => part,
            part = reading.next() => part,
        };
        if to.send((exchange, part)).await.is_err() {
            return;
        }
    }
}
