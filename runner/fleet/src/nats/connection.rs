//! How the connection to the server is, as numbers.

use async_nats::Client;
use async_nats::connection::State;
use std::sync::atomic::Ordering;

/// A connection at one time. Counts are since the program connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionStats {
    /// Whether there is one now.
    pub is_connected: bool,
    /// How often one was made, the first included.
    pub connects: u64,
    /// Messages from the server.
    pub received: u64,
    /// Messages to the server.
    pub sent: u64,
    /// Bytes of those from the server, without the protocol's own.
    pub received_bytes: u64,
    /// Bytes of those to the server.
    pub sent_bytes: u64,
}

/// How this client's connection is.
pub(crate) fn stats(client: &Client) -> ConnectionStats {
    let counted = client.statistics();
    ConnectionStats {
        is_connected: client.connection_state() == State::Connected,
        connects: counted.connects.load(Ordering::Relaxed),
        received: counted.in_messages.load(Ordering::Relaxed),
        sent: counted.out_messages.load(Ordering::Relaxed),
        received_bytes: counted.in_bytes.load(Ordering::Relaxed),
        sent_bytes: counted.out_bytes.load(Ordering::Relaxed),
    }
}
