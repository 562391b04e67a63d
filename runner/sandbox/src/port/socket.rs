//! Channels between processes: a socket pair for messages, one for credit and a file for
//! large data ([`arena`](super::arena)), which travel as descriptors, with the counts of an
//! end.
//!
//! A message is one packet ([`packet`](super::packet)), which states how many its sender
//! has received; if no message follows soon, a note in the other socket does
//! ([`credit`](super::credit)). Data of which `capacity` packets would not fit a socket's
//! buffer goes into the file. Ports and regions travel as their descriptors.
//!
//! The other end is not trusted. Invariants: no call blocks, whatever flags the other side
//! sets on shared descriptions; a length is checked before anything is allocated; an
//! invalid packet closes the channel.

use super::arena::Arena;
use super::credit::{self, Books, Broken, Credit, Room};
use super::in_flight::{Charge, InFlight};
use super::packet::{Credit as Said, HEADER, Head, MAX_HEAD, PortParts};
use super::watched::{Haste, Moment, SPIN, Socket, events};
use super::{Message, Port, PortError, Unsent};
use crate::region::{Parts, Region};
use bytes::Bytes;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recv,
    recvmsg, sendmsg, shutdown, socketpair, sockopt,
};
use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::Interest;

/// Descriptors of one end: messages, credit, file.
pub const PARTS: usize = 3;

/// Requested size of a socket's buffer; the system may allow less.
const BUFFER: usize = 4 << 20;
/// Data up to this size always travels in its packet.
const LEAST: usize = 2048;
/// Maximum of data in one packet.
const MOST: usize = 64 << 10;
/// The kernel's overhead for a packet.
const PER_PACKET: usize = 1024;
/// The same for a large one, which is in whole pages.
const SPARE: usize = 12 << 10;

const MAX_DESCRIPTORS: usize = Message::MAX_PORTS * PARTS + Message::MAX_REGIONS;

/// One end.
pub(super) struct SocketEnd {
    messages: Socket,
    credit: Arc<Credit>,
    arena: Arena,
    /// Data up to this size travels in its packet: this many fit the buffer.
    inline: usize,
    /// The last operation was sending: the next message is probably a reply, and rarely
    /// there yet.
    asked: AtomicBool,
    haste: Haste,
    /// The other side broke the rules.
    broken: AtomicBool,
    /// Its sender has too much in flight, some of it here: a note is awaited.
    pressed: AtomicBool,
    /// The descriptors in flight that had been sent by it when it came here.
    came_with: usize,
}

/// Two connected ends. Needs the context of a tokio runtime.
pub(super) fn channel(capacity: u32) -> io::Result<[SocketEnd; 2]> {
    let parts = PortParts {
        capacity: u8::try_from(capacity).map_err(io::Error::other)?,
        side: 0,
        in_flight: 0,
        sent: 0,
        taken: 0,
        received: 0,
    };
    let pair = |kind| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, kind, flags, None)
    };
    let (messages, other_messages) = pair(SocketType::SEQPACKET)?;
    let (credit, other_credit) = pair(SocketType::STREAM)?;
    for socket in [&messages, &other_messages] {
        sockopt::set_socket_send_buffer_size(socket, BUFFER)?;
    }
    let [arena, other_arena] = Arena::pair(parts.capacity)?;
    Ok([
        (messages, credit, arena),
        (other_messages, other_credit, other_arena),
    ]
    .map(|(messages, credit, arena)| SocketEnd::new(messages, credit, arena, parts)))
}

/// Maximum of packets that are discarded with an end: more than any buffer holds.
const MAX_DRAINED: usize = 1 << 16;

const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

impl SocketEnd {
    fn new(messages: OwnedFd, credit: OwnedFd, arena: Arena, parts: PortParts) -> Self {
        let buffer = sockopt::socket_send_buffer_size(&messages).unwrap_or(0);
        // The kernel counts what it allocates: up to twice the size of small packets, a few
        // pages more for large ones.
        let each = buffer / usize::from(parts.capacity.max(1));
        let small = (each / 2).saturating_sub(PER_PACKET);
        SocketEnd {
            inline: small.max(each.saturating_sub(SPARE)).clamp(LEAST, MOST),
            messages: Socket::new(messages),
            credit: Credit::new(Socket::new(credit), parts),
            arena,
            asked: AtomicBool::new(false),
            haste: Haste::default(),
            broken: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
            came_with: usize::from(parts.in_flight),
        }
    }

    pub(super) fn lent(&self) -> (PortParts, [BorrowedFd<'_>; PARTS]) {
        let fds = [
            self.messages.fd.as_fd(),
            self.credit.socket.fd.as_fd(),
            self.arena.file.as_fd(),
        ];
        (self.all_parts(), fds)
    }

    /// Counts the descriptors in flight that had been sent by it when it came, for its new
    /// holder.
    pub(super) fn adopt(&self, holder: &Arc<InFlight>) {
        if self.came_with > 0 {
            self.credit.charge(holder.adopt(self.came_with));
        }
    }

    /// Its sender has too much in flight: returns the error for it, or `Ok` if it may have
    /// less by now.
    pub(super) fn pressed(&self) -> Result<(), PortError> {
        let mut books = self.credit.books();
        let before = self.credit.in_flight();
        if let Some(said) = self.unread()
            && self.credit.heard(&mut books, said).is_err()
        {
            return Err(self.broke());
        }
        let any = self.credit.discharge(&books);
        if self.credit.in_flight() < before {
            return Ok(());
        }
        if self.is_closed() {
            return Err(PortError::Closed);
        }
        self.pressed.store(any, Ordering::Relaxed);
        Err(match any {
            true => PortError::WouldBlock,
            false => PortError::Limit,
        })
    }

    /// Whether nothing more can be sent.
    fn is_closed(&self) -> bool {
        self.broken.load(Ordering::Relaxed) || self.messages.is_hung_up()
    }

    pub(super) fn into_parts(self) -> io::Result<(PortParts, [OwnedFd; PARTS])> {
        let parts = self.all_parts();
        self.handed_over();
        let fds = self.lent().1.map(|fd| fd.try_clone_to_owned());
        let [messages, credit, file] = fds;
        Ok((parts, [messages?, credit?, file?]))
    }

    /// The next holder counts what it has in flight.
    pub(super) fn handed_over(&self) {
        drop(self.credit.take_charges());
    }

    fn all_parts(&self) -> PortParts {
        PortParts {
            side: self.arena.side,
            ..self.credit.parts()
        }
    }

    /// Checks an end from a process that is not trusted. Needs the context of a tokio
    /// runtime.
    pub(super) fn from_parts(parts: PortParts, fds: [OwnedFd; PARTS]) -> io::Result<Self> {
        let [messages, credit, file] = fds;
        for (fd, kind) in [
            (&messages, SocketType::SEQPACKET),
            (&credit, SocketType::STREAM),
        ] {
            if sockopt::socket_domain(fd)? != AddressFamily::UNIX
                || sockopt::socket_type(fd)? != kind
            {
                return Err(io::Error::other("not an end of a channel"));
            }
        }
        if !(1..=Port::MAX_CAPACITY).contains(&u32::from(parts.capacity)) {
            return Err(io::Error::other("no channel has this capacity"));
        }
        if parts.sent.wrapping_sub(parts.taken) > u64::from(parts.capacity) {
            return Err(io::Error::other("more of its messages wait than may"));
        }
        let arena = Arena::new(file, parts.side, parts.capacity)?;
        Ok(SocketEnd::new(messages, credit, arena, parts))
    }

    pub(super) fn try_send(&self, message: Message) -> Result<(), Unsent> {
        match self.send_parts(&message) {
            Ok(()) => {
                self.asked.store(true, Ordering::Relaxed);
                self.sent(message);
                Ok(())
            }
            Err(error) => Err(Unsent::new(error, message)),
        }
    }

    /// Drops the ports that were sent, which stay open at the other end.
    fn sent(&self, mut message: Message) {
        let mut charge = message.charge.take();
        for port in message.ports.iter().filter_map(Port::as_socket) {
            for moved in port.credit.take_charges() {
                if let Some(charge) = &mut charge {
                    charge.absorb(moved);
                }
            }
        }
        if let Some(charge) = charge {
            self.credit.charge(charge);
        }
    }

    fn send_parts(&self, message: &Message) -> Result<(), PortError> {
        self.pressed.store(false, Ordering::Relaxed);
        // A task that learns of this message finds room wherever this thread has made some.
        credit::settle_others(&self.credit);
        if self.broken.load(Ordering::Relaxed) {
            return Err(PortError::Closed);
        }
        let mut books = self.credit.books();
        match self.has_room(&mut books) {
            Ok(Room::Free) => {}
            Ok(Room::Full) => return Err(PortError::WouldBlock),
            Ok(Room::Closed) => return Err(PortError::Closed),
            Err(Broken) => return Err(self.broke()),
        }
        let in_arena = message.data.len() > self.inline;
        let mut fds: Vec<BorrowedFd<'_>> = Vec::with_capacity(MAX_DESCRIPTORS);
        let mut ports = Vec::with_capacity(message.ports.len());
        for port in &message.ports {
            let end = port.as_socket().ok_or(PortError::OtherRunner)?;
            let (parts, lent) = end.lent();
            ports.push(parts);
            fds.extend(lent);
        }
        let mut regions = Vec::with_capacity(message.regions.len());
        for region in &message.regions {
            // The sender has checked that it may move; a region of a queue has no such parts.
            let (file, parts) = sendable(region).ok_or(PortError::OtherRunner)?;
            regions.push(parts);
            fds.push(file);
        }
        let head = Head {
            credit: books.outgoing(),
            in_arena,
            len: message.data.len(),
            ports,
            regions,
        };
        let head = head.to_bytes().ok_or(PortError::TooLarge)?;
        let data = if in_arena {
            let put = self.arena.put(books.number_to_send(), &message.data);
            put.map_err(|_| PortError::Limit)?;
            &[]
        } else {
            &message.data[..]
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(PortError::Limit);
        }
        let packet = [IoSlice::new(&head), IoSlice::new(data)];
        loop {
            return match sendmsg(&self.messages.fd, &packet, &mut control, SEND) {
                Ok(_) => {
                    books.sent();
                    Ok(())
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Err(PortError::WouldBlock),
                Err(Errno::PIPE | Errno::CONNRESET | Errno::CONNREFUSED | Errno::NOTCONN) => {
                    Err(PortError::Closed)
                }
                Err(_) => Err(PortError::Limit),
            };
        }
    }

    /// Whether one more may be sent, after reading credit if necessary.
    fn has_room(&self, books: &mut Books) -> Result<Room, Broken> {
        let room = self.credit.room(books)?;
        if room != Room::Full {
            return Ok(room);
        }
        let Some(said) = self.unread() else {
            return Ok(room);
        };
        self.credit.heard(books, said)?;
        self.credit.room(books)
    }

    /// The credit in the first unread message; `None` if it is not valid, which is for its
    /// receiver to find.
    fn unread(&self) -> Option<Said> {
        let mut head = [0; HEADER];
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        loop {
            match recv(&self.messages.fd, &mut head, flags) {
                Ok((count, _)) if count == HEADER => return Said::read(&head),
                Err(Errno::INTR) => {}
                _ => return None,
            }
        }
    }

    /// The other side broke the rules: nothing more is believed.
    fn broke(&self) -> PortError {
        self.broken.store(true, Ordering::Relaxed);
        self.close();
        PortError::Closed
    }

    /// Receives a message; blocks this thread for a moment if there is none.
    pub(super) fn receive_soon(&self, moment: Moment) -> Result<Message, PortError> {
        if !self.asked.swap(false, Ordering::Relaxed) {
            match self.try_receive() {
                Err(PortError::WouldBlock) => {}
                other => return other,
            }
        }
        if self.haste.is_worth_it() {
            let began = Instant::now();
            while began.elapsed() < SPIN {
                match self.try_receive() {
                    Err(PortError::WouldBlock) => {}
                    other => {
                        self.haste.was_worth_it();
                        return other;
                    }
                }
            }
            self.haste.was_in_vain();
        }
        credit::settle_to_receive(&self.credit);
        if !self.messages.is_soon(PollFlags::IN, moment) {
            return Err(PortError::WouldBlock);
        }
        self.try_receive()
    }

    /// Whether there is room, after blocking this thread for a moment if necessary.
    pub(super) fn has_room_soon(&self, moment: Moment) -> bool {
        credit::settle();
        let (socket, interest) = self.for_room();
        socket.is_soon(events(interest), moment)
    }

    pub(super) fn try_receive(&self) -> Result<Message, PortError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(PortError::Closed);
        }
        // Held from reading the packet to taking its credit: notes and counts are valid in the
        // order in which they came.
        let mut books = self.credit.books();
        let (packet, fds) = match self.receive_packet() {
            Ok(received) => received,
            Err(error) => {
                if error == PortError::WouldBlock {
                    self.credit.nothing_came(&mut books);
                }
                return Err(error);
            }
        };
        let head = packet.head.and_then(|head| Head::read(head, &packet.rest));
        let Some((head, inline)) = head else {
            return Err(self.broke());
        };
        // Before its receipt is reported: then its slot is another message's.
        let data = match head.in_arena {
            true => self.arena.get(books.number_to_receive(), head.len),
            false => Some(inline),
        };
        let Some(data) = data else {
            return Err(self.broke());
        };
        if self.credit.received(&mut books, head.credit).is_err() {
            return Err(self.broke());
        }
        drop(books);
        let Some(fds) = fds else {
            return Err(PortError::Limit);
        };
        let _context = self.messages.handle.enter();
        message_of(head, data, fds).map_err(|error| match error {
            Bad::Limit => PortError::Limit,
            Bad::Nonsense => self.broke(),
        })
    }

    /// The next packet and its descriptors; `None` if there was no room for them.
    fn receive_packet(&self) -> Result<(Packet, Option<Vec<OwnedFd>>), PortError> {
        thread_local! {
            static PACKET: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_HEAD + MOST + 1]);
        }
        PACKET.with_borrow_mut(|packet| {
            let mut was_reset = false;
            loop {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
                let mut head = [0; HEADER];
                let mut into = [IoSliceMut::new(&mut head), IoSliceMut::new(packet)];
                let received = match recvmsg(&self.messages.fd, &mut into, &mut control, flags) {
                    Ok(received) => received,
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => return Err(PortError::WouldBlock),
                    // The other end is gone, with unread messages; what it sent is still here.
                    Err(Errno::CONNRESET) if !was_reset => {
                        was_reset = true;
                        continue;
                    }
                    Err(_) => return Err(PortError::Closed),
                };
                let mut fds = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        fds.extend(rights);
                    }
                }
                if received.bytes == 0 {
                    return Err(PortError::Closed);
                }
                let lost = received.flags.contains(ReturnFlags::CTRUNC);
                // The data begins at the start of an allocation: a guest gets it without a
                // copy.
                let rest = received.bytes.saturating_sub(HEADER);
                let packet = Packet {
                    head: (received.bytes >= HEADER).then_some(head),
                    rest: Bytes::copy_from_slice(&packet[..rest]),
                };
                return Ok((packet, (!lost).then_some(fds)));
            }
        })
    }

    /// Whether there is a message, or the end, now.
    pub(super) fn has_message(&self) -> bool {
        self.messages.is(PollFlags::IN)
    }

    pub(super) async fn message(&self) -> bool {
        self.messages.ready(Interest::READABLE).await
    }

    pub(super) async fn room(&self) -> bool {
        let (socket, interest) = self.for_room();
        socket.ready(interest).await
    }

    pub(super) fn poll_message(&self, cx: &mut Context<'_>) -> Poll<bool> {
        self.messages.poll_ready(Interest::READABLE, cx)
    }

    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let (socket, interest) = self.for_room();
        socket.poll_ready(interest, cx)
    }

    /// What shows that there is room: notes, or the buffer if there is credit.
    fn for_room(&self) -> (&Socket, Interest) {
        let is_pressed = self.pressed.load(Ordering::Relaxed);
        if !is_pressed && self.credit.has_room(&self.credit.books()) {
            (&self.messages, Interest::WRITABLE)
        } else {
            (&self.credit.socket, Interest::READABLE)
        }
    }

    pub(super) fn close(&self) {
        for socket in [&self.messages, &self.credit.socket] {
            let _ = shutdown(&socket.fd, Shutdown::Both);
        }
    }
}

impl Drop for SocketEnd {
    fn drop(&mut self) {
        let charges = self.credit.take_charges();
        if charges.is_empty() {
            return;
        }
        // It looks closed to others, but the count of unread messages is still known.
        self.close();
        let mut nothing = [0; 1];
        // Packets left here would keep their descriptors.
        for _ in 0..MAX_DRAINED {
            if !matches!(
                recv(&self.messages.fd, &mut nothing, RecvFlags::DONTWAIT),
                Ok((1.., _))
            ) {
                break;
            }
        }
        Charge::leave(charges, self.messages.fd.clone());
    }
}

/// A received packet.
struct Packet {
    /// `None` if it was shorter.
    head: Option<[u8; HEADER]>,
    rest: Bytes,
}

/// The file and description of a region that other processes can have.
fn sendable(region: &Region) -> Option<(BorrowedFd<'_>, Parts)> {
    region.to_send().ok().filter(|_| region.is_elsewhere())
}

/// Why a packet has no message.
enum Bad {
    /// It is not valid.
    Nonsense,
    /// It is valid, but there is no memory for it.
    Limit,
}

/// Makes a message from a packet of a process that is not trusted. Needs the context of a
/// tokio runtime.
fn message_of(head: Head, data: Bytes, fds: Vec<OwnedFd>) -> Result<Message, Bad> {
    let mut limit = false;
    read_message(head, data, fds, &mut limit).ok_or(if limit { Bad::Limit } else { Bad::Nonsense })
}

/// The message; or `None`, and whether memory is short.
fn read_message(head: Head, data: Bytes, fds: Vec<OwnedFd>, limit: &mut bool) -> Option<Message> {
    if fds.len() != head.ports.len() * PARTS + head.regions.len() {
        return None;
    }
    let mut fds = fds.into_iter();
    let ports = head.ports.into_iter().map(|parts| {
        let end = SocketEnd::from_parts(parts, [fds.next()?, fds.next()?, fds.next()?]).ok()?;
        Some(Port::socket(end))
    });
    let ports = ports.collect::<Option<Vec<_>>>()?;
    let regions = head.regions.into_iter().map(|parts| {
        let region = Region::from_parts(fds.next()?, parts);
        region.inspect_err(|error| *limit |= error.is_limit()).ok()
    });
    Some(Message {
        data,
        regions: regions.collect::<Option<_>>()?,
        ports,
        charge: None,
    })
}

#[cfg(test)]
mod tests;
