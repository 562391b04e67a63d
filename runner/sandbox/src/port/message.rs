//! Messages: what a port sends and receives, and why it was not sent.

use super::Port;
use super::in_flight::Charge;
use crate::region::Region;
use bytes::Bytes;

/// Bytes, and the regions and ports that move with them.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Message {
    /// At most [`Message::MAX_DATA`] bytes.
    pub data: Bytes,
    /// At most [`Message::MAX_REGIONS`].
    pub regions: Vec<Region>,
    /// At most [`Message::MAX_PORTS`].
    pub ports: Vec<Port>,
    /// Keeps its descriptors counted while it is in flight, if a task sent it.
    pub(super) charge: Option<Charge>,
}

impl Message {
    /// Maximum of bytes in one message: 256 KiB.
    pub const MAX_DATA: usize = 256 << 10;
    /// Maximum of regions in one message.
    pub const MAX_REGIONS: usize = 8;
    /// Maximum of ports in one message.
    pub const MAX_PORTS: usize = 8;

    /// A message of bytes.
    pub fn new(data: impl Into<Bytes>) -> Self {
        Message {
            data: data.into(),
            ..Message::default()
        }
    }

    /// Adds a region. It can carry more data than a message may have. To keep a frozen or
    /// shared region, send a [duplicate](Region::duplicate).
    pub fn region(mut self, region: Region) -> Self {
        self.regions.push(region);
        self
    }

    /// Adds a port.
    pub fn port(mut self, port: Port) -> Self {
        self.ports.push(port);
        self
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.data.len() > Message::MAX_DATA
            || self.regions.len() > Message::MAX_REGIONS
            || self.ports.len() > Message::MAX_PORTS
    }
}

impl<T: Into<Bytes>> From<T> for Message {
    fn from(data: T) -> Self {
        Message::new(data)
    }
}

/// Why a message was not sent or received, or a channel not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The other end is closed, or its task has ended; or this end is closed.
    #[error("the channel is closed")]
    Closed,
    /// There is no room, or no message.
    #[error("the operation would block")]
    WouldBlock,
    /// The message has more data, regions or ports than allowed.
    #[error("the message is too large")]
    TooLarge,
    /// The capacity is not valid; or the system has no descriptors or memory left for it;
    /// or the task that made the channel has reached its bound for channels, or the sender
    /// its bound for ports and regions in messages that were not received.
    #[error("a limit was reached")]
    Limit,
    /// A port or a region in the message belongs to another runner.
    #[error("the port or region belongs to another runner")]
    OtherRunner,
}

/// A message that was not sent.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Unsent {
    /// Why it was not sent.
    pub error: PortError,
    /// The message, complete.
    pub message: Message,
}

impl Unsent {
    pub(super) fn new(error: PortError, message: Message) -> Self {
        Unsent { error, message }
    }
}
