//! The runner's side of requests that a task sends from its worker. Whether one is granted is
//! decided by the services of the task.

use super::Wrong;
use super::inflow::{Inflow, Reading};
use super::outflow::{Credit, Outflow};
use crate::wire::{ExchangeId, FetchHead, Order, Part, ResponseHead, WINDOW};
use http::Request;
use http_body::Body as _;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;
use wrun_sandbox::http::{Fetch, MAX_FETCHES, Waits};
use wrun_sandbox::services::TaskServices;

/// Messages to the worker that wait to be sent: each part of a body waits for its
/// predecessors.
const MAX_MESSAGES: usize = 4;
/// Requests that may be open at a time. One is over for its worker a moment before it is over
/// here.
const MAX_OPEN: usize = 2 * MAX_FETCHES;

/// What comes from the worker.
pub(crate) struct Fetches {
    task_id: u64,
    services: Arc<dyn TaskServices>,
    last: ExchangeId,
    open: HashMap<ExchangeId, Open>,
    orders: mpsc::Sender<Order>,
    /// A message to the worker is on its way.
    sending: Arc<AtomicBool>,
}

/// What goes to the worker.
pub(crate) struct Fetched {
    orders: mpsc::Receiver<Order>,
    sending: Arc<AtomicBool>,
}

struct Open {
    request: Inflow,
    credit: Arc<Credit>,
    running: AbortOnDropHandle<()>,
}

impl Fetches {
    pub(crate) fn new(task_id: u64, services: Arc<dyn TaskServices>) -> (Self, Fetched) {
        let (sender, orders) = mpsc::channel(MAX_MESSAGES);
        let sending = Arc::new(AtomicBool::new(false));
        let fetches = Fetches {
            task_id,
            services,
            last: 0,
            open: HashMap::new(),
            orders: sender,
            sending: sending.clone(),
        };
        (fetches, Fetched { orders, sending })
    }

    /// The worker sends a request.
    pub(crate) fn begin(&mut self, exchange: ExchangeId, head: FetchHead) -> Result<(), Wrong> {
        if Some(exchange) != self.last.checked_add(1) {
            return Err("it numbered its HTTP requests wrongly");
        }
        self.last = exchange;
        self.open.retain(|_, open| !open.running.is_finished());
        if self.open.len() >= MAX_OPEN {
            return Err("it sent more HTTP requests than it may");
        }
        let FetchHead {
            request,
            connect,
            head,
        } = head;
        let has_body = request.has_body;
        let parts = request.into_parts()?;
        let (request, body) = Inflow::of_request(has_body, false, &parts.headers)?;
        let credit = Credit::new(WINDOW);
        let running = Running {
            task_id: self.task_id,
            exchange,
            reading: request.reading().clone(),
            credit: credit.clone(),
            orders: self.orders.clone(),
        };
        let fetch = Fetch {
            request: Request::from_parts(parts, body),
            waits: Waits { connect, head },
        };
        let running = running.run(self.services.clone(), fetch);
        let running = tokio::spawn(running.in_current_span());
        let open = Open {
            request,
            credit,
            running: AbortOnDropHandle::new(running),
        };
        self.open.insert(exchange, open);
        Ok(())
    }

    /// The worker sent a part.
    pub(crate) fn part(&mut self, exchange: ExchangeId, part: Part) -> Result<(), Wrong> {
        let Some(open) = self.open.get_mut(&exchange) else {
            return match exchange <= self.last {
                // It was over before this arrived.
                true => Ok(()),
                false => Err("it sent a part of an HTTP request that it does not have"),
            };
        };
        match part {
            Part::Taken(bytes) => open.credit.taken(bytes),
            Part::Closed => {
                self.open.remove(&exchange);
                Ok(())
            }
            part => open.request.put(part).map(drop),
        }
    }

    /// Whether nothing is on its way to the worker.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.sending.load(Ordering::Acquire)
    }
}

impl Fetched {
    /// The next to be sent; [`Fetched::sent`] says that it was. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Order> {
        let order = self.orders.recv().await?;
        self.sending.store(true, Ordering::Release);
        Some(order)
    }

    pub(crate) fn sent(&self) {
        self.sending.store(false, Ordering::Release);
    }
}

/// A request on its way.
struct Running {
    task_id: u64,
    exchange: ExchangeId,
    /// How far its body is read.
    reading: Arc<Reading>,
    /// What the worker has room for of the response.
    credit: Arc<Credit>,
    orders: mpsc::Sender<Order>,
}

impl Running {
    /// Sends the request, and passes on its response. Ends early where nothing takes the
    /// messages any more.
    async fn run(self, services: Arc<dyn TaskServices>, fetch: Fetch) {
        let mut fetching = std::pin::pin!(services.fetch(fetch));
        let response = loop {
            tokio::select! {
                biased;
                response = &mut fetching => break response,
                part = self.reading.next() => if !self.say(part).await {
                    return;
                }
            }
        };
        let (head, body) = match response {
            Ok(response) => {
                let (parts, body) = response.into_parts();
                let head = ResponseHead::of(&parts, !body.is_end_stream());
                (Ok(head), Some(body))
            }
            Err(error) => (Err(error), None),
        };
        let has_body = head.as_ref().is_ok_and(|head| head.has_body);
        let head = Order::Fetched {
            task_id: self.task_id,
            exchange: self.exchange,
            response: head,
        };
        if self.orders.send(head).await.is_err() {
            return;
        }
        let Some(body) = body.filter(|_| has_body) else {
            return;
        };
        let mut response = Outflow::with(self.credit.clone(), body);
        loop {
            let part = tokio::select! {
                part = response.next() => part,
                part = self.reading.next() => part,
            };
            let is_last = matches!(part, Part::End(_) | Part::Failed(_));
            if !self.say(part).await || is_last {
                return;
            }
        }
    }

    /// Sends a part; whether anything takes it.
    async fn say(&self, part: Part) -> bool {
        let order = Order::Http {
            task_id: self.task_id,
            exchange: self.exchange,
            part,
        };
        self.orders.send(order).await.is_ok()
    }
}
