//! The ports and regions of a task in flight: in messages that it sent and that were not
//! received yet.
//!
//! In process mode they are descriptors in sockets, which the kernel counts by user and
//! refuses to all processes of that user; so each task has its own bound, the same in both
//! modes. Invariant: ports and regions in flight count for the task that sent them,
//! wherever the ends of its channels are by then, until they are received or can never be
//! received.

use super::credit::{self, Credit};
use super::socket::PARTS;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;
use wrun_sys::Unpoisoned;

/// Maximum of descriptors that a task has in flight: a port is three, a region one.
pub(super) const MAX_IN_FLIGHT: usize = 128;

/// How often, and after what time, to check again for sockets that the kernel collects by
/// itself because they are unreachable.
const LOOKS: usize = 5;
const PAUSE: Duration = Duration::from_millis(1);

/// The descriptors in flight of one task.
#[derive(Debug, Default)]
pub struct InFlight {
    count: AtomicUsize,
    /// The ends from which receipts are learned.
    watched: Mutex<Vec<Watched>>,
    /// The task has ended.
    closed: AtomicBool,
}

/// A part of what a task has in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    of: Arc<InFlight>,
    count: usize,
}

enum Watched {
    /// An end that the task has.
    End(Weak<Credit>),
    /// An end that the task has no more: its socket, which is not used for sending or
    /// receiving.
    Left(
        Arc<OwnedFd>,
        #[expect(dead_code, reason = "it counts")] Vec<Charge>,
    ),
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Watched::End(_) => "End",
            Watched::Left(..) => "Left",
        })
    }
}

impl Watched {
    /// Whether anything that was sent by it is still in flight.
    fn is_waited_for(&self) -> bool {
        match self {
            Watched::End(credit) => credit.upgrade().is_some_and(|credit| credit.look()),
            Watched::Left(socket, _) => wrun_sys::has_unread(socket.as_fd()),
        }
    }
}

impl InFlight {
    /// Counts this many more, if the bound allows it.
    pub(super) fn take(self: &Arc<Self>, count: usize) -> Option<Charge> {
        let mut fits = self.add(count);
        for look in 0..LOOKS {
            if fits {
                break;
            }
            let left = self.look();
            fits = self.add(count);
            if !left && !fits {
                break;
            }
            if !fits && look + 1 < LOOKS {
                std::thread::sleep(PAUSE);
            }
        }
        fits.then(|| self.charge(count))
    }

    /// Counts descriptors that are in flight already, even beyond the bound.
    pub(super) fn adopt(self: &Arc<Self>, count: usize) -> Charge {
        self.count.fetch_add(count, Relaxed);
        self.charge(count)
    }

    fn charge(self: &Arc<Self>, count: usize) -> Charge {
        Charge {
            of: self.clone(),
            count,
        }
    }

    fn add(&self, count: usize) -> bool {
        let sum = |now: usize| now.checked_add(count).filter(|sum| *sum <= MAX_IN_FLIGHT);
        self.count.fetch_update(Relaxed, Relaxed, sum).is_ok()
    }

    /// Learns what was received; returns whether there are ends that the task has no more.
    fn look(&self) -> bool {
        // Also learns what this thread has received itself.
        credit::settle();
        let mut gone = Vec::new();
        let mut watched = self.watched();
        let mut at = 0;
        while let Some(one) = watched.get(at) {
            match one.is_waited_for() {
                true => at += 1,
                false => gone.push(watched.swap_remove(at)),
            }
        }
        watched.iter().any(|one| matches!(one, Watched::Left(..)))
    }

    /// The task has ended: receipts are not checked any more.
    pub fn close(&self) {
        self.closed.store(true, Relaxed);
        let watched = std::mem::take(&mut *self.watched());
        drop(watched);
    }

    fn watched(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.watched.lock().unpoisoned()
    }
}

impl Charge {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// From now on, learns from `end` what was received.
    pub(super) fn watch(&self, end: Weak<Credit>) {
        let mut watched = self.of.watched();
        let is_known = |one: &Watched| matches!(one, Watched::End(known) if known.ptr_eq(&end));
        if !watched.iter().any(is_known) {
            watched.push(Watched::End(end));
        }
    }

    /// Merges another charge for the same task.
    pub(super) fn absorb(&mut self, mut other: Charge) {
        if Arc::ptr_eq(&self.of, &other.of) {
            self.count += std::mem::take(&mut other.count);
        }
    }

    /// Keeps charges until everything that was sent by this socket is read.
    pub(super) fn leave(charges: Vec<Charge>, socket: Arc<OwnedFd>) {
        let Some(first) = charges.first() else {
            return;
        };
        let of = first.of.clone();
        if of.closed.load(Relaxed) {
            return;
        }
        of.watched().push(Watched::Left(socket, charges));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.count.fetch_sub(self.count, Relaxed);
    }
}

/// The number of descriptors in a message, without those sent through its ports.
pub(super) fn descriptors(message: &super::Message) -> usize {
    message.ports.len() * PARTS + message.regions.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::{Message, Port, PortError, Transport};

    fn channel() -> (Port, Port) {
        Transport::Socket.channel(64).expect("a channel")
    }

    /// Sends ports until one is refused: how many were sent, and why it ended.
    fn fill(port: &Port, task: &Arc<InFlight>) -> (usize, PortError) {
        for sent in 0.. {
            let message = Message::new("").port(channel().0);
            if let Err(unsent) = port.try_send_of(message, task) {
                assert_eq!(unsent.message.ports.len(), 1, "it comes back");
                return (sent, unsent.error);
            }
        }
        unreachable!("it is refused some time")
    }

    fn count(task: &InFlight) -> usize {
        task.look();
        task.count.load(Relaxed)
    }

    #[tokio::test]
    async fn it_counts_until_it_is_received() {
        let task = Arc::<InFlight>::default();
        let (one, other) = channel();
        let all = MAX_IN_FLIGHT / PARTS;
        assert_eq!(fill(&one, &task), (all, PortError::WouldBlock));
        let (elsewhere, _far) = channel();
        assert_eq!(fill(&elsewhere, &task), (0, PortError::Limit));
        // A message without descriptors is still sent.
        one.try_send_of(Message::new("x"), &task)
            .expect("there is room");
        for _ in 0..2 {
            other.try_receive().expect("a port");
        }
        assert_eq!(fill(&elsewhere, &task), (2, PortError::WouldBlock));
        // `Closed` is reported first.
        let (closed, far) = channel();
        drop(far);
        assert_eq!(fill(&closed, &task), (0, PortError::Closed));
        // For an end that is gone, until the other end has received all.
        drop(one);
        for _ in 2..all {
            assert_eq!(fill(&closed, &task), (0, PortError::Closed));
            other.try_receive().expect("a port");
        }
        assert_eq!(count(&task), all * PARTS, "one message is left");
        other.try_receive().expect("data");
        assert_eq!(other.try_receive().expect_err("the end"), PortError::Closed);
        assert_eq!(count(&task), 2 * PARTS);
        drop((elsewhere, _far));
        assert_eq!(count(&task), 0);
    }

    #[tokio::test]
    async fn it_goes_where_the_end_goes() {
        let [task, holder] = [(); 2].map(|()| Arc::<InFlight>::default());
        let (one, other) = channel();
        for _ in 0..5 {
            let message = Message::new("").port(channel().0);
            one.try_send_of(message, &task).expect("there is room");
        }
        assert_eq!(count(&task), 5 * PARTS);
        // The content of an end in flight is in flight with it.
        let (through, far) = channel();
        let message = Message::new("").port(one);
        through.try_send_of(message, &task).expect("there is room");
        assert_eq!(count(&task), 6 * PARTS);
        let moved = far.try_receive().expect("a port").ports.pop();
        let moved = moved.expect("a port");
        moved.adopt(&holder);
        assert_eq!((count(&task), count(&holder)), (0, 5 * PARTS));
        for _ in 0..5 {
            other.try_receive().expect("a port");
        }
        assert_eq!(count(&holder), 0);
        // It stays open.
        moved.try_send("still").expect("sent");
        assert_eq!(other.try_receive().expect("received").data, "still");
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_task_that_has_ended() {
        let task = Arc::<InFlight>::default();
        let (one, _other) = channel();
        let (two, _another) = channel();
        for port in [&one, &two] {
            let message = Message::new("").port(channel().0);
            port.try_send_of(message, &task).expect("there is room");
        }
        drop(one);
        task.close();
        drop(two);
        assert_eq!((Arc::strong_count(&task), task.watched().len()), (1, 0));
    }
}
