//! Broadcast channels of one runner: their names and members, and the tasks that pass
//! messages on.
//!
//! Invariants: passing on never waits for a member; a member without room is closed; all
//! members see messages in one order; a name is removed with its last member. Senders wait
//! for their turn instead: one at a time for each task and each channel, and [`TURNS`] in
//! the runner, in the order of their arrival. So whatever members send, other tasks of the
//! runner wait for a bounded number of steps.

use crate::port::{Message, Port, PortError, Transport};
use crate::turn::{STEPS, Turn, yield_now};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Semaphore;
use wrun_sys::Unpoisoned;

/// Maximum of members of all channels together: each has three descriptors of the runner in
/// process mode.
pub const MAX_MEMBERS: usize = 128;
/// Messages that wait for a member.
const CAPACITY: u32 = Port::MAX_CAPACITY;
/// Maximum of members whose messages are passed on at the same time: they delay others by
/// this many turns. Each of them waits for the one that computes on the same thread before
/// it continues, and with fewer turns all members would wait for that one after the other.
const TURNS: usize = 8;

pub struct Broadcast {
    transport: Transport,
    channels: Mutex<Channels>,
    turns: Semaphore,
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
    /// Held while a message is passed to all of them.
    order: tokio::sync::Mutex<()>,
}

/// The members of one task, of which one at a time waits for its turn: joining more often
/// gives no more turns.
#[derive(Clone, Default)]
pub struct Line(Arc<tokio::sync::Mutex<()>>);

impl Channel {
    fn members(&self) -> MutexGuard<'_, HashMap<u64, Arc<Port>>> {
        self.members.lock().unpoisoned()
    }

    /// All members but one.
    fn others(&self, id: u64) -> Vec<Arc<Port>> {
        let members = self.members();
        let others = members.iter().filter(|(other, _)| **other != id);
        others.map(|(_, port)| port.clone()).collect()
    }
}

impl Broadcast {
    pub fn new(transport: Transport) -> Self {
        Broadcast {
            transport,
            channels: Mutex::default(),
            turns: Semaphore::new(TURNS),
        }
    }

    fn channels(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().unpoisoned()
    }

    /// A new member's end; `None` if there are too many. `line` is that of its task; `keep`
    /// lives as long as the membership. Needs the context of the runner's tokio runtime.
    pub fn join(
        self: &Arc<Self>,
        name: &str,
        line: Line,
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
                line,
            };
            member.pass_on(&ours).await;
            drop((member, keep));
        });
        Ok(theirs)
    }
}

/// One member, as long as its other end exists.
struct Member {
    all: Arc<Broadcast>,
    channel: Arc<Channel>,
    name: String,
    id: u64,
    line: Line,
}

impl Member {
    /// Passes on what it sends, until its channel is closed.
    async fn pass_on(&self, port: &Port) {
        while port.message().await {
            if !self.pass_some(port).await {
                return;
            }
        }
    }

    /// Waits for its turn, and passes on its messages, up to one turn's worth; `false` at
    /// the end.
    async fn pass_some(&self, port: &Port) -> bool {
        let _of_its_task = self.line.0.lock().await;
        let _of_its_channel = self.channel.order.lock().await;
        let Ok(_of_all) = self.all.turns.acquire().await else {
            return false;
        };
        let mut turn = Turn::new();
        let mut steps = 0;
        while steps < STEPS {
            match port.try_receive() {
                // Ports and regions in the message are closed.
                Ok(message) => steps += self.pass(&message.data, &mut turn).await,
                Err(PortError::WouldBlock) => return true,
                // No descriptors were left for the message's ports and regions.
                Err(PortError::Limit) => steps += 1,
                Err(_) => return false,
            }
        }
        // Before the next member has its turn.
        yield_now().await;
        true
    }

    /// Passes a message to all others; returns the number of steps.
    async fn pass(&self, data: &Bytes, turn: &mut Turn) -> usize {
        let copied = if self.all.transport.copies() {
            data.len()
        } else {
            0
        };
        // The cost of receiving it.
        turn.spend(copied);
        let others = self.channel.others(self.id);
        for other in &others {
            turn.give_way().await;
            match other.try_send(Message::new(data.clone())) {
                Ok(()) => turn.spend(copied),
                Err(_) => other.close(),
            }
        }
        others.len() + 1
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
