//! Messages to a worker: its order, and what follows while the task runs.

use crate::channel::Sender;
use crate::http::{Fetched, Requesting};
use crate::plain::SentOrder;
use crate::requests::Responses;
use crate::wire::{OWN, Order};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::sync::mpsc;
use wrun_sandbox::token::Token;

pub(super) struct Outbox<'a> {
    orders: &'a mut Sender,
    cancel: &'a Token,
    cancelled: bool,
    /// Why the rest of the piped input cannot be read.
    failures: mpsc::Receiver<String>,
    responses: Option<Responses>,
    /// An HTTP request, and how far its response is read.
    request: Option<Requesting>,
    /// Responses to HTTP requests that the task sent.
    fetched: Option<Fetched>,
}

impl<'a> Outbox<'a> {
    pub(super) fn new(
        orders: &'a mut Sender,
        cancel: &'a Token,
        failures: mpsc::Receiver<String>,
        responses: Option<Responses>,
        request: Option<Requesting>,
        fetched: Option<Fetched>,
    ) -> Self {
        Outbox {
            orders,
            cancel,
            cancelled: false,
            failures,
            responses,
            request,
            fetched,
        }
    }

    /// Sends the order, then everything else, while it is polled. It ends only if the
    /// system refuses to send.
    pub(super) async fn run(mut self, order: SentOrder, descriptors: Vec<OwnedFd>) -> io::Error {
        match self.send_all(order, descriptors).await {
            Err(error) if !is_of_the_other_end(&error) => error,
            // A worker that does not read its messages is noticed because it stays silent.
            _ => std::future::pending().await,
        }
    }

    async fn send_all(&mut self, order: SentOrder, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.send(&order.frame[order.sent..], descriptors).await?;
        while let Some((order, descriptors)) = self.next().await {
            let frame = Sender::frame(&order).map_err(io::Error::other)?;
            self.send(&frame, descriptors).await?;
            if let (Order::Response { .. }, Some(responses)) = (&order, &self.responses) {
                responses.sent();
            }
            if let (Order::Http { exchange: OWN, .. }, Some(request)) = (&order, &self.request) {
                request.sent();
            } else if let Some(fetched) = &self.fetched {
                fetched.sent();
            }
        }
        Ok(())
    }

    /// The next message to send, with its descriptors; `None` if nothing more can come.
    async fn next(&mut self) -> Option<(Order, Vec<OwnedFd>)> {
        tokio::select! {
            () = self.cancel.cancelled(), if !self.cancelled => {
                self.cancelled = true;
                Some((Order::Cancel, Vec::new()))
            }
            Some(why) = self.failures.recv() => Some((Order::InputFailed(why), Vec::new())),
            Some(response) = next_response(&mut self.responses) => Some(response),
            Some(order) = next_part(&mut self.request) => Some((order, Vec::new())),
            Some(order) = next_fetched(&mut self.fetched) => Some((order, Vec::new())),
            else => None,
        }
    }

    /// Sends a frame. The descriptors are then the worker's: this side closes them, even if
    /// sending failed.
    async fn send(&mut self, frame: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let lent: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        self.orders.send(frame, &lent).await
    }
}

async fn next_response(responses: &mut Option<Responses>) -> Option<(Order, Vec<OwnedFd>)> {
    match responses {
        Some(responses) => responses.next().await,
        None => None,
    }
}

async fn next_part(request: &mut Option<Requesting>) -> Option<Order> {
    match request {
        Some(request) => Some(request.next().await),
        None => None,
    }
}

async fn next_fetched(fetched: &mut Option<Fetched>) -> Option<Order> {
    match fetched {
        Some(fetched) => fetched.next().await,
        None => None,
    }
}

/// Whether sending failed because the worker has closed its socket.
fn is_of_the_other_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}
