//! The ports of a guest.

use crate::port::{InFlight, Port, Transport};
use std::sync::{Arc, OnceLock};

/// The data behind `ports`.
pub struct Ports {
    pub(crate) transport: Transport,
    /// The channel to the parent of the task, until it is taken.
    pub(crate) parent: Option<Port>,
    /// Ports that the guest has.
    pub(crate) held: u32,
    /// Ports and regions that it sent and that were not received yet.
    in_flight: OnceLock<Arc<InFlight>>,
}

impl Ports {
    pub fn new(transport: Transport, parent: Option<Port>) -> Self {
        Ports {
            transport,
            parent,
            held: 0,
            in_flight: OnceLock::new(),
        }
    }

    /// Made with its first port.
    pub(crate) fn in_flight(&self) -> &Arc<InFlight> {
        self.in_flight.get_or_init(Arc::default)
    }

    /// Ports that the guest has.
    pub(crate) fn held(&self) -> u32 {
        self.held
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        let in_flight = self.in_flight.get();
        if let Some(in_flight) = in_flight {
            in_flight.close();
        }
        // Without a port nothing became unreachable.
        if in_flight.is_some() || self.parent.is_some() {
            self.transport.sweep();
        }
    }
}
