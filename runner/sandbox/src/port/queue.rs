//! Channels within one process.
//!
//! Ports can lie in queues of other ports, so channels can come to hold each other while no
//! task or host holds any of them. A [`Registry`] knows all channels of a runner and finds
//! those. Invariants: a message with ports in it is dropped without recursion, however
//! deeply they are nested; what one task made has a bound ([`Made`]), wherever the ends
//! are.

use super::{Message, Port, PortError, Unsent};
use crate::region::Region;
use crate::sync::{Mutex, MutexGuard, RwLock};
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use wrun_sys::Unpoisoned;

/// Maximum of existing channels that one task made.
const MAX_CHANNELS: usize = 256;
/// Maximum of bytes that wait in them.
const MAX_WAITING: usize = 512 << 20;

/// The channels that one task made, and the bytes that wait in them. Its ports are counted
/// where it holds them; but ends can lie in queues, more of them in theirs, and so on.
#[derive(Debug, Default)]
pub struct Made {
    channels: AtomicUsize,
    bytes: AtomicUsize,
    /// Channels made, messages sent and refusals since the last search for unreachable
    /// channels.
    since_sweep: AtomicUsize,
}

impl Made {
    /// Adds `more` to a count, if it stays within `most`.
    fn add(&self, count: &AtomicUsize, more: usize, most: usize) -> bool {
        let sum = |now: usize| now.checked_add(more).filter(|sum| *sum <= most);
        self.since_sweep.fetch_add(1, Relaxed);
        count.fetch_update(Relaxed, Relaxed, sum).is_ok()
    }

    /// Whether there can be room after closing unreachable channels. Searching for them
    /// blocks all tasks, in proportion to the number of channels; so it is done only in
    /// proportion to what the task did.
    fn sweeps(&self, registry: &Registry) -> bool {
        let all = registry.channels().len();
        let since = self.since_sweep.fetch_add(1, Relaxed);
        let worth_it = since >= (all / 4).max(64);
        if worth_it {
            self.since_sweep.store(0, Relaxed);
            registry.sweep();
        }
        worth_it
    }
}

/// All channels of a runner.
#[derive(Default)]
pub struct Registry {
    channels: Mutex<Vec<Weak<Channel>>>,
    /// Held for writing while reachable channels are determined, for reading while ports
    /// are sent or received.
    moving: RwLock<()>,
}

struct Channel {
    registry: Weak<Registry>,
    capacity: usize,
    /// `None` if the host made it.
    made: Option<Arc<Made>>,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    sides: [Side; 2],
    closed: bool,
}

#[derive(Default)]
struct Side {
    /// Messages that wait to be received here.
    queue: VecDeque<Message>,
    /// The end is in a message that was not received.
    moves: bool,
    /// The sender has too much in flight, some of it here; until something is received.
    pressed: bool,
    receivers: Wakers,
    senders: Wakers,
}

/// Waiting callers; each once.
#[derive(Default)]
struct Wakers(Vec<Waker>);

impl Wakers {
    fn add(&mut self, waker: &Waker) {
        if !self.0.iter().any(|known| known.will_wake(waker)) {
            self.0.push(waker.clone());
        }
    }

    fn take(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.0)
    }
}

fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// One end.
pub(super) struct QueueEnd {
    channel: Arc<Channel>,
    side: usize,
}

impl Registry {
    /// `None` if the maker has made too many.
    pub(super) fn channel(
        self: &Arc<Self>,
        capacity: usize,
        made: Option<&Arc<Made>>,
    ) -> Option<[QueueEnd; 2]> {
        if let Some(made) = made {
            let count = || made.add(&made.channels, 1, MAX_CHANNELS);
            let room = count() || (made.sweeps(self) && count());
            if !room {
                return None;
            }
        }
        let channel = Arc::new(Channel {
            registry: Arc::downgrade(self),
            capacity,
            made: made.cloned(),
            queues: Mutex::default(),
        });
        let mut channels = self.channels();
        if channels.len() == channels.capacity() {
            channels.retain(|channel| channel.strong_count() > 0);
        }
        channels.push(Arc::downgrade(&channel));
        drop(channels);
        Some([0, 1].map(|side| QueueEnd {
            channel: channel.clone(),
            side,
        }))
    }

    fn channels(&self) -> MutexGuard<'_, Vec<Weak<Channel>>> {
        self.channels.lock().unpoisoned()
    }

    fn all(&self) -> Vec<Arc<Channel>> {
        self.channels().iter().filter_map(Weak::upgrade).collect()
    }

    /// Closes channels whose ends are in each other's queues, so that they can never be
    /// received.
    pub(super) fn sweep(&self) {
        let moving = |channel: &Arc<Channel>, side: usize| channel.queues().sides[side].moves;
        let is_any = self
            .all()
            .iter()
            .any(|channel| moving(channel, 0) || moving(channel, 1));
        if !is_any {
            return;
        }
        let stopped = self.moving.write().unpoisoned();
        // Not earlier: a port that moved since may be in a channel that was made since.
        let channels = self.all();
        let ends = || {
            channels
                .iter()
                .flat_map(|channel| [(channel, 0), (channel, 1)])
        };
        let mut reached: HashSet<(*const Channel, usize)> = HashSet::new();
        let mut to_look_at: Vec<(Arc<Channel>, usize)> = ends()
            .filter(|(channel, side)| !moving(channel, *side))
            .map(|(channel, side)| (channel.clone(), side))
            .collect();
        while let Some((channel, side)) = to_look_at.pop() {
            if !reached.insert((Arc::as_ptr(&channel), side)) {
                continue;
            }
            for message in &channel.queues().sides[side].queue {
                let ends = message.ports.iter().filter_map(Port::as_queue);
                to_look_at.extend(ends.map(|end| (end.channel.clone(), end.side)));
            }
        }
        let mut lost = Vec::new();
        for (channel, side) in ends() {
            if !reached.contains(&(Arc::as_ptr(channel), side)) {
                lost.extend(channel.take(side));
            }
        }
        drop(stopped);
        bury(lost);
    }
}

impl Channel {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unpoisoned()
    }

    /// Closes the channel, and takes the messages that one end would have received.
    fn take(&self, side: usize) -> VecDeque<Message> {
        let (messages, wakers) = {
            let mut queues = self.queues();
            (
                std::mem::take(&mut queues.sides[side].queue),
                queues.close(),
            )
        };
        wake(wakers);
        messages.iter().for_each(|message| self.gone(message));
        messages
    }

    /// Whether a message may wait here; counts it if so.
    fn admits(&self, message: &Message) -> bool {
        let Some(made) = &self.made else {
            return true;
        };
        made.add(&made.bytes, message.data.len(), MAX_WAITING)
    }

    /// See [`Made::sweeps`].
    fn sweeps(&self) -> bool {
        let registry = self.registry.upgrade();
        let made = self.made.as_ref().zip(registry);
        made.is_some_and(|(made, registry)| made.sweeps(&registry))
    }

    /// A message was taken out of the queue.
    fn gone(&self, message: &Message) {
        if let Some(made) = &self.made {
            made.bytes.fetch_sub(message.data.len(), Relaxed);
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Some(made) = &self.made {
            made.channels.fetch_sub(1, Relaxed);
        }
    }
}

impl Queues {
    fn close(&mut self) -> Vec<Waker> {
        self.closed = true;
        let sides = self.sides.iter_mut();
        sides
            .flat_map(|side| [side.receivers.take(), side.senders.take()])
            .flatten()
            .collect()
    }
}

/// Drops messages, and the content of the queues of ports in them.
fn bury(messages: impl IntoIterator<Item = Message>) {
    let mut left: Vec<Message> = messages.into_iter().collect();
    while let Some(message) = left.pop() {
        for port in &message.ports {
            if let Some(end) = port.as_queue() {
                left.extend(end.channel.take(end.side));
            }
        }
    }
}

impl QueueEnd {
    pub(super) fn is_of(&self, registry: &Arc<Registry>) -> bool {
        std::ptr::eq(self.channel.registry.as_ptr(), Arc::as_ptr(registry))
    }

    /// Prevents the search for unreachable channels while ports move.
    fn moving<T>(&self, ports: bool, work: impl FnOnce() -> T) -> T {
        let registry = self.channel.registry.upgrade().filter(|_| ports);
        let _moving = registry
            .as_ref()
            .map(|registry| registry.moving.read().unpoisoned());
        work()
    }

    pub(super) fn try_send(&self, message: Message) -> Result<(), Unsent> {
        let same = |port: &Port| {
            port.as_queue().is_some_and(|end| {
                std::ptr::eq(
                    end.channel.registry.as_ptr(),
                    self.channel.registry.as_ptr(),
                )
            })
        };
        let here = |region: &Region| !region.is_elsewhere();
        if !message.ports.iter().all(same) || !message.regions.iter().all(here) {
            return Err(Unsent::new(PortError::OtherRunner, message));
        }
        match self.put(message) {
            Err(unsent) if unsent.error == PortError::Limit && self.channel.sweeps() => {
                self.put(unsent.message)
            }
            other => other,
        }
    }

    /// As [`QueueEnd::try_send`], for messages that may be sent here.
    fn put(&self, message: Message) -> Result<(), Unsent> {
        let has_ports = !message.ports.is_empty();
        let sent = self.moving(has_ports, || {
            // Before the message is in the queue, and never with two locks at a time.
            mark(&message, true);
            let mut queues = self.channel.queues();
            let closed = queues.closed;
            let other = &mut queues.sides[1 - self.side];
            let error = match other.queue.len() {
                _ if closed => PortError::Closed,
                waiting if waiting >= self.channel.capacity => PortError::WouldBlock,
                _ if !self.channel.admits(&message) => PortError::Limit,
                _ => {
                    other.queue.push_back(message);
                    return Ok(other.receivers.take());
                }
            };
            drop(queues);
            mark(&message, false);
            Err(Unsent::new(error, message))
        });
        sent.map(wake)
    }

    pub(super) fn try_receive(&self) -> Result<Message, PortError> {
        let received = self.moving(true, || {
            let mut queues = self.channel.queues();
            let closed = queues.closed;
            let side = &mut queues.sides[self.side];
            let message = match side.queue.pop_front() {
                Some(message) => message,
                None if closed => return Err(PortError::Closed),
                None => return Err(PortError::WouldBlock),
            };
            side.pressed = false;
            let wakers = side.senders.take();
            drop(queues);
            let mut message = message;
            message.charge = None;
            mark(&message, false);
            self.channel.gone(&message);
            Ok((message, wakers))
        });
        let (message, wakers) = received?;
        wake(wakers);
        Ok(message)
    }

    /// Its sender has too much in flight: returns the error for it, or `Ok` if it may have
    /// less by now.
    pub(super) fn pressed(&self) -> Result<(), PortError> {
        if self.channel.sweeps() {
            return Ok(());
        }
        let mut queues = self.channel.queues();
        let closed = queues.closed;
        let other = &mut queues.sides[1 - self.side];
        if closed {
            return Err(PortError::Closed);
        }
        if other.queue.iter().all(|message| message.charge.is_none()) {
            return Err(PortError::Limit);
        }
        other.pressed = true;
        Err(PortError::WouldBlock)
    }

    pub(super) fn poll_message(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut queues = self.channel.queues();
        let closed = queues.closed;
        let side = &mut queues.sides[self.side];
        if closed || !side.queue.is_empty() {
            return Poll::Ready(true);
        }
        side.receivers.add(cx.waker());
        Poll::Pending
    }

    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<bool> {
        let mut queues = self.channel.queues();
        let closed = queues.closed;
        let side = &mut queues.sides[1 - self.side];
        if closed || (side.queue.len() < self.channel.capacity && !side.pressed) {
            return Poll::Ready(true);
        }
        side.senders.add(cx.waker());
        Poll::Pending
    }

    pub(super) fn close(&self) {
        let wakers = self.channel.queues().close();
        wake(wakers);
    }
}

/// Records that the ports of a message move, or have arrived.
fn mark(message: &Message, moves: bool) {
    for end in message.ports.iter().filter_map(Port::as_queue) {
        end.channel.queues().sides[end.side].moves = moves;
    }
}

impl Drop for QueueEnd {
    fn drop(&mut self) {
        // It can never be received.
        bury(self.channel.take(self.side));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Transport;
    use crate::region::{Kind, Ledger, Maker};

    fn registry() -> (Transport, Arc<Registry>) {
        let registry = Arc::<Registry>::default();
        (Transport::Queue(registry.clone(), None), registry)
    }

    fn alive(registry: &Registry) -> usize {
        let channels = registry.channels();
        channels.iter().filter(|it| it.strong_count() > 0).count()
    }

    #[test]
    fn ends_that_nobody_reaches_are_swept() {
        let (transport, registry) = registry();
        let (a, far_a) = transport.channel(4).expect("a channel");
        let (b, far_b) = transport.channel(4).expect("a channel");
        let (kept, far_kept) = transport.channel(4).expect("a channel");
        a.try_send(Message::new("b").port(far_b)).expect("sent");
        b.try_send(Message::new("a").port(far_a)).expect("sent");
        kept.try_send(Message::new("c").port(transport.channel(1).expect("a channel").0))
            .expect("sent");
        assert!(matches!(a.try_send("x"), Ok(())), "open before");
        registry.sweep();
        // What is sent there can never be received.
        assert!(a.try_send("x").is_err() && b.try_send("x").is_err());
        drop((a, b));
        assert_eq!(alive(&registry), 2);
        let message = far_kept.try_receive().expect("still there");
        assert_eq!(message.ports.len(), 1);
        drop((kept, far_kept, message));
        assert_eq!(alive(&registry), 0);
    }

    #[test]
    fn ports_that_lie_deep_are_dropped_without_recursion() {
        let (transport, registry) = registry();
        let (mut top, mut outermost) = transport.channel(1).expect("a channel");
        for _ in 0..if cfg!(miri) { 100 } else { 200_000 } {
            let (next, far) = transport.channel(1).expect("a channel");
            far.try_send(Message::new("in").port(outermost))
                .expect("sent");
            drop((top, far));
            (top, outermost) = (next, transport.channel(1).expect("a channel").0);
            std::mem::swap(&mut top, &mut outermost);
        }
        drop((top, outermost));
        registry.sweep();
        assert_eq!(alive(&registry), 0);
    }

    #[test]
    fn a_port_in_its_own_queue_is_swept() {
        let (transport, registry) = registry();
        let (one, other) = transport.channel(1).expect("a channel");
        one.try_send(Message::new("you").port(other)).expect("sent");
        registry.sweep();
        assert_eq!(alive(&registry), 1);
        drop(one);
        registry.sweep();
        assert_eq!(alive(&registry), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memory files")]
    fn a_region_that_nobody_reaches_is_freed() {
        let (transport, registry) = registry();
        let maker = Maker::new(Arc::new(Ledger::new(u64::MAX, false)), u64::MAX);
        let region = || {
            let draft = maker.make(1, Kind::Shared, u64::MAX).expect("a draft").0;
            draft.finish().expect("a region")
        };
        let (a, far_a) = transport.channel(4).expect("a channel");
        let (b, far_b) = transport.channel(4).expect("a channel");
        let (kept, far_kept) = transport.channel(4).expect("a channel");
        a.try_send(Message::new("").region(region()).port(far_b))
            .expect("sent");
        b.try_send(Message::new("").region(region()).port(far_a))
            .expect("sent");
        kept.try_send(Message::new("").region(region()))
            .expect("sent");
        let one = maker.bytes() / 3;
        drop((a, b));
        registry.sweep();
        assert_eq!(maker.bytes(), one);
        drop((kept, far_kept));
        assert_eq!(maker.bytes(), 0);
    }

    #[test]
    fn what_a_task_made_is_bounded_wherever_the_ends_lie() {
        let (host, registry) = registry();
        let task = host.of_a_task();
        // Unreachable channels are searched for before anything is refused.
        for _ in 0..3 * MAX_CHANNELS {
            let (one, other) = task.channel(1).expect("a channel");
            one.try_send(Message::new("you").port(other)).expect("sent");
        }
        registry.sweep();
        assert_eq!(alive(&registry), 0);
        let (mut near, mut far) = task.channel(1).expect("a channel");
        let mut count = 1;
        let refused = loop {
            match task.channel(1) {
                Ok((next, its)) => {
                    next.try_send(Message::new("").port(far)).expect("sent");
                    (near, far) = (next, its);
                    count += 1;
                }
                Err(error) => break error,
            }
        };
        assert_eq!((refused, count), (PortError::Limit, MAX_CHANNELS));
        // Other tasks are not affected.
        host.channel(1).expect("a channel of the host");
        host.of_a_task().channel(1).expect("of another task");
        drop((near, far));
        assert_eq!(alive(&registry), 0);
        task.channel(1).expect("what was given back");
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes a while")]
    fn bytes_that_wait_are_bounded_and_come_back() {
        let (host, _registry) = registry();
        let task = host.of_a_task();
        let data = bytes::Bytes::from(vec![0; Message::MAX_DATA]);
        let mut held = Vec::new();
        let mut sent = 0;
        'all: loop {
            let (one, other) = task.channel(64).expect("a channel");
            for _ in 0..64 {
                match one.try_send(data.clone()) {
                    Ok(()) => sent += data.len(),
                    Err(unsent) => {
                        assert_eq!(unsent.error, PortError::Limit);
                        assert_eq!(unsent.message.data.len(), data.len());
                        held.push((one, other));
                        break 'all;
                    }
                }
            }
            held.push((one, other));
        }
        assert_eq!(sent, MAX_WAITING);
        let (one, other) = &held[0];
        other.try_receive().expect("a message");
        one.try_send(data.clone()).expect("there is room");
        let (last, _) = held.last().expect("the last");
        assert_eq!(
            last.try_send("x").expect_err("full").error,
            PortError::Limit
        );
        drop(held);
        let (one, _other) = task.channel(1).expect("a channel");
        one.try_send(data).expect("all of it came back");
    }

    #[test]
    fn ports_move_while_it_is_swept() {
        let (transport, registry) = registry();
        let (one, other) = transport.channel(1).expect("a channel");
        let (moving, far) = transport.channel(1).expect("a channel");
        std::thread::scope(|scope| {
            let sweeper = scope.spawn(|| {
                for _ in 0..if cfg!(miri) { 50 } else { 20_000 } {
                    registry.sweep();
                }
            });
            let mut moving = Some(moving);
            while !sweeper.is_finished() {
                let port = moving.take().expect("it came back");
                one.try_send(Message::new("").port(port)).expect("sent");
                moving = other.try_receive().expect("received").ports.pop();
            }
            far.try_send("alive").expect("nobody closed it");
        });
    }
}
