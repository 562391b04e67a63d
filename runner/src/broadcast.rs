//! Broadcast channels of one runner: names, their members, and who passes messages on.
//!
//! Invariants: passing on never waits; a member without room is closed; all members see
//! messages in one order; a name goes with its last member.

use crate::port::{Message, Port, PortError, Transport};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Members of all channels together: each is two descriptors of the runner in process
/// mode.
pub(crate) const MAX_MEMBERS: usize = 128;
/// Messages that wait for a member.
const CAPACITY: u32 = Port::MAX_CAPACITY;
/// Messages of one member that are passed on before others get their turn. Each turn is a
/// look at the event loop, which costs as much as passing on a message.
const IN_A_ROW: u32 = 16;

pub(crate) struct Broadcast {
    transport: Transport,
    channels: Mutex<Channels>,
}

#[derive(Default)]
struct Channels {
    last: u64,
    members: usize,
    by_name: HashMap<String, Arc<Channel>>,
}

#[derive(Default)]
struct Channel {
    members: Mutex<HashMap<u64, Arc<Port>>>,
}

impl Channel {
    fn members(&self) -> MutexGuard<'_, HashMap<u64, Arc<Port>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broadcast {
    pub(crate) fn new(transport: Transport) -> Self {
        Broadcast {
            transport,
            channels: Mutex::default(),
        }
    }

    fn channels(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new member's end; none where there are too many. `keep` lives as long as the
    /// membership. Needs the context of the runner's tokio runtime.
    pub(crate) fn join(
        self: &Arc<Self>,
        name: &str,
        keep: impl Send + 'static,
    ) -> Result<Port, PortError> {
        let mut channels = self.channels();
        if channels.members >= MAX_MEMBERS {
            return Err(PortError::Limit);
        }
        let (theirs, ours) = self.transport.channel(CAPACITY)?;
        let ours = Arc::new(ours);
        let channel = channels.by_name.get(name).cloned().unwrap_or_default();
        channels.members += 1;
        channels.last += 1;
        let id = channels.last;
        channel.members().insert(id, ours.clone());
        channels.by_name.insert(name.to_owned(), channel.clone());
        drop(channels);
        let (all, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            let member = Member {
                all,
                channel,
                name,
                id,
            };
            member.pass_on(&ours).await;
            drop((member, keep));
        });
        Ok(theirs)
    }
}

/// One member, as long as somebody is at its other end.
struct Member {
    all: Arc<Broadcast>,
    channel: Arc<Channel>,
    name: String,
    id: u64,
}

impl Member {
    /// Passes on what it sends, until its channel is closed.
    async fn pass_on(&self, port: &Port) {
        let mut received = port.receive().await;
        let mut in_a_row = 0;
        loop {
            match received {
                Ok(message) => self.pass(&message),
                // There were no descriptors left for ports that came along.
                Err(PortError::Limit) => {}
                Err(_) => return,
            }
            in_a_row += 1;
            received = Err(PortError::WouldBlock);
            if in_a_row < IN_A_ROW {
                received = port.try_receive();
            }
            if let Err(PortError::WouldBlock) = received {
                // One that sends without a pause has others beside it.
                tokio::task::yield_now().await;
                in_a_row = 0;
                received = port.receive().await;
            }
        }
    }

    /// To all others.
    fn pass(&self, message: &Message) {
        for (id, other) in self.channel.members().iter() {
            let copy = Message::new(message.data.clone());
            if *id != self.id && other.try_send(copy).is_err() {
                other.close();
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut channels = self.all.channels();
        channels.members = channels.members.saturating_sub(1);
        let mut members = self.channel.members();
        members.remove(&self.id);
        if members.is_empty() {
            channels.by_name.remove(&self.name);
        }
    }
}
