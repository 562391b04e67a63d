//! Runs a guest, and exchanges the messages of its worker meanwhile.

use super::events::GuestEvents;
use super::outputs::{Outputs, next_chunk};
use crate::channel::{ChannelError, Receiver, Sender};
use crate::http::{Answering, Fetching};
use crate::requests::Requester;
use crate::wire::{OWN, Order, WorkerSays};
use std::io;
use std::time::{Duration, Instant};
use tokio::task::coop::unconstrained;
use wrun_sandbox::port::in_turns;
use wrun_sandbox::token::Token;
use wrun_sandbox::turn::until;

/// Progress is passed on at most this often; the last one always is.
const PROGRESS_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Running<'a> {
    pub(super) orders: &'a mut Receiver,
    pub(super) says: &'a mut Sender,
    pub(super) events: &'a GuestEvents,
    pub(super) requester: &'a mut Requester,
    pub(super) outputs: &'a mut Outputs,
    /// The HTTP request of the task.
    pub(super) answering: &'a mut Option<Answering>,
    /// The HTTP requests that the guest sends.
    pub(super) fetching: Fetching,
    pub(super) task_id: u64,
    pub(super) cancel: &'a Token,
    pub(super) progress_said: Option<Instant>,
}

impl Running<'_> {
    /// Runs `guest` to its end.
    pub(super) async fn drive<T>(mut self, guest: impl Future<Output = T>) -> io::Result<T> {
        let mut running = std::pin::pin!(in_turns(guest));
        let result = loop {
            tokio::select! {
                biased;
                result = &mut running => break result,
                // Progress that was held back is due.
                () = progress_due(self.events, self.progress_said) => {
                    // Sent here, because while it is due this branch always comes first.
                    self.say_progress().await?;
                }
                () = self.events.changed() => self.say_events().await?,
                Some(outgoing) = self.requester.next() => {
                    self.requester.send(outgoing, &mut self.fetching, self.says).await?;
                }
                Some(chunk) = next_chunk(&mut self.outputs.framed_stdout) => {
                    self.says.say(&WorkerSays::Stdout(chunk)).await?;
                }
                Some(chunk) = next_chunk(&mut self.outputs.framed_stderr) => {
                    self.says.say(&WorkerSays::Stderr(chunk)).await?;
                }
                said = next_of(self.answering) => self.say_of_response(said).await?,
                said = self.fetching.next() => self.says.say(&said).await?,
                // Also when the guest has used up the budget of this poll.
                order = unconstrained(self.orders.next_with_descriptors()) => {
                    self.heed(order).await?;
                }
            }
        };
        self.say_response().await?;
        Ok(result)
    }

    /// Says a message of the response, and those that follow it already, in one.
    async fn say_of_response(&mut self, first: Option<WorkerSays>) -> io::Result<()> {
        let mut said = first;
        while let Some(message) = said {
            self.says.hold(&message).await?;
            said = tokio::select! {
                biased;
                said = next_of(self.answering) => said,
                () = std::future::ready(()) => None,
            };
        }
        self.says.flush().await
    }

    /// Says what is left of the response of a guest that has ended; the last of it goes
    /// together with the message that follows.
    async fn say_response(&mut self) -> io::Result<()> {
        while self.answering.as_ref().is_some_and(|it| !it.is_over()) {
            tokio::select! {
                biased;
                said = next_of(self.answering) => if let Some(message) = said {
                    self.says.hold(&message).await?;
                },
                () = std::future::ready(()), if self.says.holds() => self.says.flush().await?,
                order = self.orders.next_with_descriptors() => self.heed(order).await?,
            }
        }
        Ok(())
    }

    async fn say_events(&mut self) -> io::Result<()> {
        if self.events.wants_input() {
            self.says.say(&WorkerSays::WantInput).await?;
        }
        let said = self.progress_said;
        if said.is_none_or(|said| said.elapsed() >= PROGRESS_EVERY) {
            self.say_progress().await?;
        }
        Ok(())
    }

    async fn say_progress(&mut self) -> io::Result<()> {
        if let Some(progress) = self.events.progress() {
            self.progress_said = Some(Instant::now());
            self.says.say(&WorkerSays::Progress(progress)).await?;
        }
        Ok(())
    }

    async fn heed(&mut self, order: Result<Order, ChannelError>) -> io::Result<()> {
        match order {
            Ok(Order::Cancel) => self.cancel.cancel(),
            Ok(Order::InputFailed(why)) => self.events.fail_input(why),
            Ok(Order::Response { id, response }) => {
                let file = self.orders.take(response.descriptors())?;
                if let Some(notification) = self.requester.answered(id, response, file)? {
                    self.says.say(&WorkerSays::Notify(notification)).await?;
                }
            }
            // For a task that was done before it came.
            Ok(Order::Http { task_id, .. } | Order::Fetched { task_id, .. })
                if task_id != self.task_id => {}
            Ok(Order::Http { exchange, part, .. }) => {
                let heeded = match (exchange, self.answering.as_mut()) {
                    (OWN, Some(answering)) => answering.heed(part),
                    (OWN, None) => Ok(()),
                    _ => self.fetching.part(exchange, part),
                };
                heeded.map_err(io::Error::other)?;
            }
            Ok(Order::Fetched {
                exchange, response, ..
            }) => {
                let heeded = self.fetching.fetched(exchange, response);
                heeded.map_err(io::Error::other)?;
            }
            Ok(Order::Run(_)) => return Err(io::Error::other("one task at a time")),
            // The runner is gone, or has given up the task.
            Err(_) => wrun_sys::exit_now(0),
        }
        Ok(())
    }
}

/// The next message about the response to an HTTP request.
async fn next_of(answering: &mut Option<Answering>) -> Option<WorkerSays> {
    match answering {
        Some(answering) => answering.next().await,
        None => std::future::pending().await,
    }
}

/// Waits until progress may be sent again, if there is some.
async fn progress_due(events: &GuestEvents, said: Option<Instant>) {
    match said.filter(|_| events.has_progress()) {
        Some(said) => {
            until(said.checked_add(PROGRESS_EVERY)).await;
        }
        None => std::future::pending().await,
    }
}
