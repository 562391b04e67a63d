//! How channels are made: within one process, or between processes.

use super::queue::{Made, Registry};
use super::{Port, PortEnd, PortError, socket};
use std::sync::Arc;

/// How channels are made here.
#[derive(Clone)]
pub enum Transport {
    /// With the totals of the task that makes them, if it is one.
    Queue(Arc<Registry>, Option<Arc<Made>>),
    Socket,
}

impl Transport {
    /// Within this process.
    #[doc(hidden)]
    pub fn queue() -> Self {
        Transport::Queue(Arc::default(), None)
    }

    /// For one task, whose channels have a common bound. Between processes the kernel has
    /// one, for descriptors in sockets.
    #[doc(hidden)]
    pub fn of_a_task(&self) -> Self {
        match self {
            Transport::Queue(registry, _) => {
                Transport::Queue(registry.clone(), Some(Arc::default()))
            }
            Transport::Socket => Transport::Socket,
        }
    }

    /// Whether sending copies the data of a message.
    #[doc(hidden)]
    pub fn copies(&self) -> bool {
        matches!(self, Transport::Socket)
    }

    /// Two connected ends. Needs the context of a tokio runtime.
    #[doc(hidden)]
    pub fn channel(&self, capacity: u32) -> Result<(Port, Port), PortError> {
        if !(1..=Port::MAX_CAPACITY).contains(&capacity) {
            return Err(PortError::Limit);
        }
        Ok(match self {
            Transport::Queue(registry, made) => {
                let ends = registry.channel(capacity as usize, made.as_ref());
                let [one, other] = ends.ok_or(PortError::Limit)?;
                (Port::queue(one), Port::queue(other))
            }
            Transport::Socket => {
                let [one, other] = socket::channel(capacity).map_err(|_| PortError::Limit)?;
                (Port::socket(one), Port::socket(other))
            }
        })
    }

    /// Whether a port is of this kind, and of the same runner if that matters.
    #[doc(hidden)]
    pub fn has(&self, port: &Port) -> bool {
        match (self, &port.end) {
            (Transport::Queue(registry, _), PortEnd::Queue(end)) => end.is_of(registry),
            (Transport::Socket, PortEnd::Socket(_)) => true,
            _ => false,
        }
    }

    /// Closes channels that cannot be reached any more.
    #[doc(hidden)]
    pub fn sweep(&self) {
        if let Transport::Queue(registry, _) = self {
            registry.sweep();
        }
    }
}
