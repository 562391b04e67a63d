//! Channels within one process, where they can be made from tests.

use crate::port::{Port, PortError, Transport};

/// All channels of a runner.
#[derive(Clone)]
pub struct Channels(Transport);

impl Default for Channels {
    fn default() -> Self {
        Channels(Transport::queue())
    }
}

impl Channels {
    /// Two connected ends.
    ///
    /// # Errors
    ///
    /// The capacity is none that a channel may have.
    pub fn channel(&self, capacity: u32) -> Result<(Port, Port), PortError> {
        self.0.channel(capacity)
    }

    /// Closes those that nobody can reach any more.
    pub fn sweep(&self) {
        self.0.sweep();
    }
}
