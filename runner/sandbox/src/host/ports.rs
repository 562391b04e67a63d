//! The ports of a guest.

use crate::port::{InFlight, Port, Transport};
use std::sync::Arc;

/// The data behind `ports`.
pub struct Ports {
    pub(crate) transport: Transport,
    /// The channel to the parent of the task, until it is taken.
    pub(crate) parent: Option<Port>,
    /// Ports that the guest has.
    pub(crate) held: u32,
    /// Ports and regions that it sent and that were not received yet.
    pub(crate) in_flight: Arc<InFlight>,
}

impl Ports {
    pub fn new(transport: Transport, parent: Option<Port>) -> Self {
        Ports {
            transport,
            parent,
            held: 0,
            in_flight: Arc::default(),
        }
    }

    /// Ports that the guest has.
    pub(crate) fn held(&self) -> u32 {
        self.held
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        self.in_flight.close();
        self.transport.sweep();
    }
}
