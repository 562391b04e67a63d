//! Credit: which messages were received, so that further ones may be sent.
//!
//! Both sides count. A message states how many its sender has received; if none is sent
//! soon, a *note* does: a byte in the credit socket, the lowest of that count. Both state
//! the same, so one of them may be missed. Invariants: a receipt is noted before it can
//! become known in another way, before this thread sleeps, and when the guest's turn ends;
//! the credit socket has no more unread notes than the capacity plus one; the other side
//! cannot give more credit than was used.
//!
//! One note is left out until the turn ends: before a thread waits for a message of the
//! same channel, if the two sides alternate and the reply has stated it. The reply is then
//! the first message that the other side has not read, so a sender without room looks at
//! that first.

use super::in_flight::Charge;
use super::packet;
use super::watched::Socket;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use wrun_sys::Unpoisoned;

const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// Notes that are read at a time: more than an honest side has written.
const NOTES: usize = 128;
/// Maximum of ends of one guest that owe a note; before more do, all are written.
const MAX_OWING: usize = 64;
/// After this many alternations in a row, both sides are expected to continue. A side that
/// then sends twice waits for room until a turn ends.
const IN_TURNS: u32 = 16;

/// The other side broke the rules.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// Whether a message may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    Full,
    /// The other side is gone.
    Closed,
}

/// The credit of one end.
pub(super) struct Credit {
    pub(super) socket: Socket,
    capacity: u8,
    books: Mutex<Books>,
    /// The charges of its messages in flight, each with the number of its message.
    charges: Mutex<VecDeque<(u64, Charge)>>,
}

/// The counts of an end. They begin with the channel and wrap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Books {
    sent: u64,
    /// How many of those are known to be received.
    taken: u64,
    received: u64,
    /// The count in the last message or note.
    said: u64,
    /// The count in the last note.
    noted: u64,
    /// A note was written since the last message.
    fresh: bool,
    /// A message was received since the last one was sent.
    unanswered: bool,
    /// The last received message was answered with a message: the next one is expected to
    /// be.
    answers: bool,
    /// How often in a row a received message was sent after all before it were received,
    /// and was answered once.
    in_turns: u32,
    /// It is among the ends that owe a note.
    owes: bool,
}

impl Books {
    fn new(sent: u64, taken: u64, received: u64) -> Self {
        Books {
            sent,
            taken,
            received,
            said: received,
            noted: received,
            // The previous holder may have written one.
            fresh: true,
            unanswered: false,
            answers: false,
            in_turns: 0,
            owes: false,
        }
    }

    /// Messages whose receipt the other side has not reported.
    fn waiting(&self) -> u64 {
        self.sent.wrapping_sub(self.taken)
    }

    /// A message states that this many were received; an old one may state less than is
    /// known.
    fn learn(&mut self, received: u64) -> Result<(), Broken> {
        let more = received.wrapping_sub(self.taken);
        if more <= self.waiting() {
            self.taken = received;
        } else if more <= u64::MAX / 2 {
            return Err(Broken);
        }
        Ok(())
    }

    /// A note states it; nothing newer was read.
    fn learn_note(&mut self, note: u8) -> Result<(), Broken> {
        let [known, ..] = self.taken.to_le_bytes();
        let more = u64::from(note.wrapping_sub(known));
        if more > self.waiting() {
            return Err(Broken);
        }
        self.taken = self.taken.wrapping_add(more);
        Ok(())
    }

    /// The number of the next message to send, from 0 on.
    pub(super) fn number_to_send(&self) -> u64 {
        self.sent
    }

    /// The number of the next message to receive, from 0 on.
    pub(super) fn number_to_receive(&self) -> u64 {
        self.received
    }

    /// The credit for the next message.
    pub(super) fn outgoing(&self) -> packet::Credit {
        packet::Credit {
            received: self.received,
            notes: self.fresh,
        }
    }

    /// A message with this credit was sent.
    pub(super) fn sent(&mut self) {
        self.sent = self.sent.wrapping_add(1);
        self.said = self.received;
        self.fresh = false;
        self.answers |= self.unanswered;
        if !self.unanswered {
            self.in_turns = 0;
        }
        self.unanswered = false;
    }

    fn received(&mut self) {
        self.received = self.received.wrapping_add(1);
        self.answers &= !self.unanswered;
        // All messages were received before this one was sent, and none since.
        self.in_turns = match self.waiting() == 0 && !self.unanswered {
            true => self.in_turns.saturating_add(1),
            false => 0,
        };
        self.unanswered = true;
    }

    /// Whether a reply has stated all, and lies unread or was read: the two alternate.
    fn is_answered(&self) -> bool {
        self.said == self.received && self.in_turns >= IN_TURNS
    }

    /// Whether the other side might be waiting for credit: it has half of the capacity or
    /// less, unless it gets a reply.
    fn is_due(&self, capacity: u8) -> bool {
        let unsaid = self.received.wrapping_sub(self.said);
        unsaid.saturating_mul(2) >= u64::from(capacity) && (unsaid > 1 || !self.answers)
    }
}

impl Credit {
    pub(super) fn new(socket: Socket, parts: packet::PortParts) -> Arc<Self> {
        Arc::new(Credit {
            socket,
            capacity: parts.capacity,
            books: Mutex::new(Books::new(parts.sent, parts.taken, parts.received)),
            charges: Mutex::default(),
        })
    }

    fn charges(&self) -> MutexGuard<'_, VecDeque<(u64, Charge)>> {
        self.charges.lock().unpoisoned()
    }

    /// Keeps the charge of the last sent message until that is received.
    pub(super) fn charge(self: &Arc<Self>, charge: Charge) {
        charge.watch(Arc::downgrade(self));
        let sent = self.books().sent;
        self.charges().push_back((sent, charge));
    }

    /// Drops the charges of messages that are known to be received; returns whether any are
    /// left.
    pub(super) fn discharge(&self, books: &Books) -> bool {
        let mut charges = self.charges();
        while let Some((sent, _)) = charges.front() {
            let received = books.taken.wrapping_sub(*sent) <= u64::MAX / 2;
            if !received {
                break;
            }
            charges.pop_front();
        }
        !charges.is_empty()
    }

    /// Number of its descriptors in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.charges().iter().map(|(_, it)| it.count()).sum()
    }

    /// Takes all of its charges, for another holder to count.
    pub(super) fn take_charges(&self) -> Vec<Charge> {
        self.charges().drain(..).map(|(_, charge)| charge).collect()
    }

    /// Updates what was received; returns whether anything is in flight.
    pub(super) fn look(&self) -> bool {
        let mut books = self.books();
        // A violation by the other side is handled elsewhere.
        let _ = self.read_notes(&mut books);
        self.discharge(&books)
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unpoisoned()
    }

    /// The counts for the end's next holder; everything received is noted.
    pub(super) fn parts(&self) -> packet::PortParts {
        let mut books = self.books();
        self.note(&mut books);
        self.discharge(&books);
        let in_flight = self.in_flight();
        packet::PortParts {
            capacity: self.capacity,
            side: 0,
            in_flight: u16::try_from(in_flight).unwrap_or(u16::MAX),
            sent: books.sent,
            taken: books.taken,
            received: books.received,
        }
    }

    pub(super) fn has_room(&self, books: &Books) -> bool {
        books.waiting() < u64::from(self.capacity)
    }

    /// Whether one more may be sent, after reading the notes if necessary.
    pub(super) fn room(&self, books: &mut Books) -> Result<Room, Broken> {
        if self.has_room(books) {
            return Ok(Room::Free);
        }
        let open = self.read_notes(books)?;
        Ok(if self.has_room(books) {
            Room::Free
        } else if open {
            Room::Full
        } else {
            Room::Closed
        })
    }

    /// Takes the credit of a message, after the notes, which are older.
    pub(super) fn heard(&self, books: &mut Books, said: packet::Credit) -> Result<(), Broken> {
        if said.notes {
            self.read_notes(books)?;
        }
        books.learn(said.received)
    }

    /// A message with this credit was received.
    pub(super) fn received(
        self: &Arc<Self>,
        books: &mut Books,
        said: packet::Credit,
    ) -> Result<(), Broken> {
        self.heard(books, said)?;
        books.received();
        if books.is_due(self.capacity) || !self.owe(books) {
            self.note(books);
        }
        Ok(())
    }

    /// Nothing more can be received now, so a reply may not follow.
    pub(super) fn nothing_came(&self, books: &mut Books) {
        if books.said != books.received {
            self.note(books);
        }
    }

    /// Notes what was received, if that is not done. If the other side has no room for
    /// notes, only it is harmed.
    fn note(&self, books: &mut Books) {
        if books.noted == books.received {
            return;
        }
        let [note, ..] = books.received.to_le_bytes();
        loop {
            match send(&self.socket.fd, &[note], SEND) {
                Ok(1) => {
                    books.noted = books.received;
                    books.said = books.received;
                    books.fresh = true;
                }
                Err(Errno::INTR) => continue,
                _ => {}
            }
            return;
        }
    }

    /// Reads the notes; `false` if there will be no more.
    fn read_notes(&self, books: &mut Books) -> Result<bool, Broken> {
        let mut notes = [0; NOTES];
        loop {
            let count = match recv(&self.socket.fd, &mut notes, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Ok(false),
                Ok((count, _)) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(true),
                Err(_) => return Ok(false),
            };
            for &note in notes.iter().take(count) {
                books.learn_note(note)?;
            }
            return Ok(true);
        }
    }

    /// Delays a note until the guest's turn ends; `false` outside of a turn.
    fn owe(self: &Arc<Self>, books: &mut Books) -> bool {
        OWING.with_borrow_mut(|owing| match owing {
            Some(_) if books.owes => true,
            Some(owing) if owing.len() < MAX_OWING => {
                owing.push(Arc::downgrade(self));
                books.owes = true;
                true
            }
            _ => false,
        })
    }
}

thread_local! {
    /// The ends that owe a note to the other side; `None` outside of a guest's turn.
    static OWING: RefCell<Option<Vec<Weak<Credit>>>> = const { RefCell::new(None) };
}

/// Writes all notes that this thread owes: before it sleeps, and before a process that
/// could wait for room hears from its guest.
pub fn settle() {
    settle_but(|_, _| false);
}

/// [`settle`] before a message of this end, which states its own credit.
pub(super) fn settle_others(end: &Arc<Credit>) {
    settle_but(|other, _| Arc::ptr_eq(other, end));
}

/// [`settle`] before this thread waits for a message of this end, and for nothing else.
pub(super) fn settle_to_receive(end: &Arc<Credit>) {
    settle_but(|other, books| Arc::ptr_eq(other, end) && books.is_answered());
}

fn settle_but(keep: impl Fn(&Arc<Credit>, &Books) -> bool) {
    OWING.with_borrow_mut(|owing| {
        if let Some(owing) = owing {
            owing.retain(|credit| match credit.upgrade() {
                Some(credit) => {
                    let mut books = credit.books();
                    if keep(&credit, &books) {
                        return true;
                    }
                    books.owes = false;
                    credit.note(&mut books);
                    false
                }
                None => false,
            });
        }
    });
}

/// Runs a guest that may owe notes during its turn: whenever `guest` waits, or yields its
/// turn, they are written first.
pub async fn in_turns<T>(guest: impl Future<Output = T>) -> T {
    let mut guest = pin!(guest);
    // Nothing waits here, so no turn ends before this is restored.
    let mut space = Vec::new();
    std::future::poll_fn(move |cx| {
        let turn = Turn::new(std::mem::take(&mut space));
        let polled = guest.as_mut().poll(cx);
        space = turn.end();
        polled
    })
    .await
}

/// While it lives, notes may be owed on this thread.
struct Turn;

impl Turn {
    fn new(space: Vec<Weak<Credit>>) -> Self {
        OWING.set(Some(space));
        Turn
    }

    /// The vector for ends that owe, to be reused.
    fn end(self) -> Vec<Weak<Credit>> {
        settle();
        OWING.take().unwrap_or_default()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        settle();
        OWING.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gives_more_credit_than_was_taken() {
        for start in [0, 250, u64::MAX - 1] {
            let at = |count: u64| start.wrapping_add(count);
            let mut books = Books::new(start, start, 7);
            (0..3).for_each(|_| books.sent());
            assert_eq!(books.learn(at(4)), Err(Broken));
            assert_eq!(books.learn(at(1 << 62)), Err(Broken));
            assert_eq!(books.learn(at(1)), Ok(()));
            assert_eq!(books.waiting(), 2);
            let [note, ..] = at(0).to_le_bytes();
            for wrong in (4..=255).chain([0]) {
                assert_eq!(books.learn_note(note.wrapping_add(wrong)), Err(Broken));
            }
            assert_eq!(books.learn_note(note.wrapping_add(3)), Ok(()));
            assert_eq!(books.learn_note(note.wrapping_add(3)), Ok(()));
            // It was written before.
            assert_eq!(books.learn(at(2)), Ok(()));
            assert_eq!(books.waiting(), 0);
        }
    }

    #[test]
    fn a_note_is_due_at_half_of_the_capacity_unless_an_answer_is_likely() {
        let mut books = Books::new(0, 0, 0);
        for _ in 0..31 {
            books.received();
            assert!(!books.is_due(64));
        }
        books.received();
        assert!(books.is_due(64));
        let mut books = Books::new(0, 0, 0);
        books.received();
        assert!(books.is_due(1) && books.is_due(2) && !books.is_due(3));
        books.sent();
        books.received();
        assert!(!books.is_due(1));
        books.received();
        assert!(books.is_due(2));
    }
}
