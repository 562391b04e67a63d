//! Ports: the ends of bounded channels between tasks, and between a task and its
//! host.
//!
//! One meaning, two transports: a queue within this process ([`queue`]) and a socket pair
//! between processes ([`socket`]). Invariants: messages arrive in the order sent, at most
//! `capacity` wait in each direction, and a message that was not sent is returned with all
//! of its content.

mod arena;
mod credit;
mod in_flight;
mod message;
mod packet;
mod queue;
mod sealed;
mod socket;
mod transport;
mod watched;

use crate::blocking::wait;
use futures_core::Stream;
use futures_sink::Sink;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::task::coop::{poll_proceed, unconstrained};
use wrun_sys::Process;

pub use arena::ARENA;
pub use credit::{in_turns, settle};
pub use in_flight::InFlight;
pub use message::{Message, PortError, Unsent};
pub use packet::PortParts;
pub use sealed::{Unsealed, contents, in_memory, is_sealed};
pub use socket::PARTS;
pub use transport::Transport;
pub use watched::Moment;

/// One end of a channel.
///
/// `Runner::channel` makes two that are connected. One of them goes to a task
/// (`Task::port`), which gets it from `ports.parent`, or in a message over another port.
/// Either end sends and receives. Closing or dropping one closes the channel: messages sent
/// before are still received, then both ends get [`PortError::Closed`]. The end of a task
/// closes its ports, however it ends.
///
/// It is a [`Stream`] of messages, which ends when the channel is closed, and a
/// [`Sink`]. Its calls work with any executor, as long as its runner lives;
/// afterwards it is closed.
pub struct Port {
    end: PortEnd,
    /// For the sink: a message that was handed over and had no room.
    held: Option<Message>,
    /// In a fork of that process, nothing drives its event loop.
    made_in: Process,
}

enum PortEnd {
    Queue(queue::QueueEnd),
    Socket(Box<socket::SocketEnd>),
}

impl Port {
    /// Maximum of messages that wait in one direction.
    pub const MAX_CAPACITY: u32 = 64;

    fn queue(end: queue::QueueEnd) -> Self {
        Port {
            end: PortEnd::Queue(end),
            held: None,
            made_in: Process::current(),
        }
    }

    fn socket(end: socket::SocketEnd) -> Self {
        Port {
            end: PortEnd::Socket(Box::new(end)),
            held: None,
            made_in: Process::current(),
        }
    }

    /// Sends a message; waits while the channel is full.
    ///
    /// # Errors
    ///
    /// [`PortError::Closed`], [`PortError::TooLarge`], [`PortError::OtherRunner`],
    /// [`PortError::Limit`]; the message is returned.
    pub async fn send(&self, message: impl Into<Message>) -> Result<(), Unsent> {
        let mut message = message.into();
        loop {
            may_go_on().await;
            match self.try_send(message) {
                Err(unsent) if unsent.error == PortError::WouldBlock => message = unsent.message,
                other => return other,
            }
            if !self.room().await {
                return Err(Unsent::new(PortError::Closed, message));
            }
        }
    }

    /// Sends a message if there is room.
    ///
    /// # Errors
    ///
    /// [`PortError::WouldBlock`]; otherwise as [`Port::send`].
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), Unsent> {
        let message = message.into();
        if message.is_too_large() {
            return Err(Unsent::new(PortError::TooLarge, message));
        }
        match &self.end {
            PortEnd::Queue(end) => end.try_send(message),
            PortEnd::Socket(end) => end.try_send(message),
        }
    }

    /// Receives the next message; waits while there is none.
    ///
    /// # Errors
    ///
    /// [`PortError::Closed`]; [`PortError::Limit`] if there are no descriptors left for the
    /// ports and regions that came with it.
    pub async fn receive(&self) -> Result<Message, PortError> {
        loop {
            may_go_on().await;
            match self.try_receive() {
                Err(PortError::WouldBlock) if self.message().await => {}
                Err(PortError::WouldBlock) => return Err(PortError::Closed),
                other => return other,
            }
        }
    }

    /// Receives a message if there is one.
    ///
    /// # Errors
    ///
    /// [`PortError::WouldBlock`]; otherwise as [`Port::receive`].
    pub fn try_receive(&self) -> Result<Message, PortError> {
        match &self.end {
            PortEnd::Queue(end) => end.try_receive(),
            PortEnd::Socket(end) => end.try_receive(),
        }
    }

    /// Waits until [`Port::try_receive`] would not return [`PortError::WouldBlock`].
    pub async fn readable(&self) {
        // An event loop that has not watched it yet learns its state only later.
        if !matches!(&self.end, PortEnd::Socket(end) if end.has_message()) {
            self.message().await;
        }
    }

    /// Waits until [`Port::try_send`] would not return [`PortError::WouldBlock`]; `false`
    /// if that cannot be determined any more.
    #[doc(hidden)]
    pub async fn room(&self) -> bool {
        if !self.made_in.is_current() {
            return false;
        }
        match &self.end {
            PortEnd::Queue(end) => std::future::poll_fn(|cx| end.poll_room(cx)).await,
            PortEnd::Socket(end) => end.room().await,
        }
    }

    /// Waits for a message, or the end; `false` if that cannot be determined any more.
    #[doc(hidden)]
    pub async fn message(&self) -> bool {
        if !self.made_in.is_current() {
            return false;
        }
        match &self.end {
            PortEnd::Queue(end) => std::future::poll_fn(|cx| end.poll_message(cx)).await,
            PortEnd::Socket(end) => end.message().await,
        }
    }

    /// [`Port::try_send`] of a task, for which its ports and regions count while they are
    /// in flight. If it has reached its bound, it waits for those that it sent by this
    /// port, and is refused if there are none.
    #[doc(hidden)]
    pub fn try_send_of(&self, message: Message, sender: &Arc<InFlight>) -> Result<(), Unsent> {
        let mut message = message;
        if message.is_too_large() {
            return Err(Unsent::new(PortError::TooLarge, message));
        }
        let count = in_flight::descriptors(&message);
        if count > 0 {
            message.charge = sender.take(count);
            while message.charge.is_none() {
                let error = match &self.end {
                    PortEnd::Queue(end) => end.pressed(),
                    PortEnd::Socket(end) => end.pressed(),
                };
                if let Err(error) = error {
                    return Err(Unsent::new(error, message));
                }
                message.charge = sender.take(count);
            }
        }
        self.try_send(message).map_err(|mut unsent| {
            unsent.message.charge = None;
            unsent
        })
    }

    /// Counts what was sent by a port that came with a message, for its new holder.
    #[doc(hidden)]
    pub fn adopt(&self, holder: &Arc<InFlight>) {
        if let PortEnd::Socket(end) = &self.end {
            end.adopt(holder);
        }
    }

    /// [`Port::send`] for code that is not asynchronous.
    ///
    /// # Errors
    ///
    /// As [`Port::send`].
    pub fn blocking_send(&self, message: impl Into<Message>) -> Result<(), Unsent> {
        // This thread does nothing else until then, so it need not yield.
        let mut sending = std::pin::pin!(unconstrained(self.send(message)));
        loop {
            if let Some(sent) = wait(sending.as_mut(), None) {
                return sent;
            }
        }
    }

    /// [`Port::receive`] for code that is not asynchronous.
    ///
    /// # Errors
    ///
    /// As [`Port::receive`].
    pub fn blocking_receive(&self) -> Result<Message, PortError> {
        let mut receiving = std::pin::pin!(unconstrained(self.receive()));
        loop {
            if let Some(received) = wait(receiving.as_mut(), None) {
                return received;
            }
        }
    }

    /// [`Port::blocking_receive`] with a timeout.
    ///
    /// # Errors
    ///
    /// [`PortError::WouldBlock`] at the timeout; otherwise as [`Port::receive`].
    pub fn blocking_receive_timeout(&self, time: Duration) -> Result<Message, PortError> {
        let receiving = std::pin::pin!(unconstrained(self.receive()));
        // `None` if the clock cannot represent it, which means never.
        let until = Instant::now().checked_add(time);
        wait(receiving, until).unwrap_or(Err(PortError::WouldBlock))
    }

    /// [`Port::try_receive`] that may block this thread for a moment.
    #[doc(hidden)]
    pub fn receive_soon(&self, moment: Moment) -> Result<Message, PortError> {
        match &self.end {
            PortEnd::Queue(end) => end.try_receive(),
            PortEnd::Socket(end) => end.receive_soon(moment),
        }
    }

    /// Whether there is room, after blocking this thread for at most a moment.
    #[doc(hidden)]
    pub fn has_room_soon(&self, moment: Moment) -> bool {
        match &self.end {
            PortEnd::Queue(_) => false,
            PortEnd::Socket(end) => end.has_room_soon(moment),
        }
    }

    /// Closes the channel: nothing more can be sent from either end.
    pub fn close(&self) {
        match &self.end {
            PortEnd::Queue(end) => end.close(),
            PortEnd::Socket(end) => end.close(),
        }
    }

    fn as_queue(&self) -> Option<&queue::QueueEnd> {
        match &self.end {
            PortEnd::Queue(end) => Some(end),
            PortEnd::Socket(_) => None,
        }
    }

    /// For another process: its descriptors and counts. `None` if it is a queue of this
    /// process.
    #[doc(hidden)]
    pub fn into_parts(self) -> Option<(PortParts, [OwnedFd; PARTS])> {
        match self.end {
            PortEnd::Socket(end) => (*end).into_parts().ok(),
            PortEnd::Queue(_) => None,
        }
    }

    /// Drops a port that another process has by now, without closing it there.
    #[doc(hidden)]
    pub fn handed_over(self) {
        if let PortEnd::Socket(end) = &self.end {
            end.handed_over();
        }
    }

    /// As [`Port::into_parts`], for a port that stays until another process has it.
    #[doc(hidden)]
    pub fn parts(&self) -> Option<(PortParts, [BorrowedFd<'_>; PARTS])> {
        self.as_socket().map(socket::SocketEnd::lent)
    }

    fn as_socket(&self) -> Option<&socket::SocketEnd> {
        match &self.end {
            PortEnd::Socket(end) => Some(end),
            PortEnd::Queue(_) => None,
        }
    }

    /// From another process, which is not trusted. Needs the context of a tokio
    /// runtime.
    #[doc(hidden)]
    pub fn from_parts(parts: PortParts, descriptors: [OwnedFd; PARTS]) -> std::io::Result<Self> {
        socket::SocketEnd::from_parts(parts, descriptors).map(Port::socket)
    }
}

/// Waits until the task that polls this may continue: a receiver of messages that are
/// always there would never yield. Outside of tokio's tasks it always may.
async fn may_go_on() {
    std::future::poll_fn(poll_go_on).await;
}

fn poll_go_on(cx: &mut Context<'_>) -> Poll<()> {
    ready!(poll_proceed(cx)).made_progress();
    Poll::Ready(())
}

impl Stream for Port {
    type Item = Message;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            ready!(poll_go_on(cx));
            match self.try_receive() {
                Ok(message) => return Poll::Ready(Some(message)),
                Err(PortError::WouldBlock) => {}
                Err(_) => return Poll::Ready(None),
            }
            let polled = match &self.end {
                PortEnd::Queue(end) => end.poll_message(cx),
                PortEnd::Socket(end) => end.poll_message(cx),
            };
            match polled {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Sends one message at a time: a message that was handed over waits in the port until
/// there is room.
impl Sink<Message> for Port {
    type Error = Unsent;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        self.poll_flush(cx)
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), Unsent> {
        match self.try_send(message) {
            Err(unsent) if unsent.error == PortError::WouldBlock && self.held.is_none() => {
                self.held = Some(unsent.message);
                Ok(())
            }
            other => other,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        ready!(poll_go_on(cx));
        while let Some(message) = self.held.take() {
            match self.try_send(message) {
                Err(unsent) if unsent.error == PortError::WouldBlock => {
                    self.held = Some(unsent.message);
                }
                other => return Poll::Ready(other),
            }
            let polled = match &self.end {
                PortEnd::Queue(end) => end.poll_room(cx),
                PortEnd::Socket(end) => end.poll_room(cx),
            };
            match (polled, self.held.take()) {
                (Poll::Ready(false), Some(message)) => {
                    return Poll::Ready(Err(Unsent::new(PortError::Closed, message)));
                }
                (Poll::Pending, held) => {
                    self.held = held;
                    return Poll::Pending;
                }
                (_, held) => self.held = held,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        let flushed = self.as_ref().get_ref().held.is_none();
        if flushed {
            self.close();
            return Poll::Ready(Ok(()));
        }
        let mut this = self;
        match this.as_mut().poll_flush(cx) {
            Poll::Ready(sent) => {
                this.close();
                Poll::Ready(sent)
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").finish_non_exhaustive()
    }
}
