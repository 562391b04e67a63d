//! Channels between processes: a socket pair for messages and one for credit, whose
//! ends travel as descriptors, with what they have counted.
//!
//! A message is one packet ([`packet`](super::packet)), which says how many its sender
//! has received; a note in the other socket does where no message will
//! ([`credit`](super::credit)). Data that many packets of would not fit a socket's
//! buffer travels in a memory file. Ports and regions travel as their descriptors.
//!
//! The other end is not trusted. Invariants: no call blocks, whatever flags the
//! other side sets on what both have; a length is checked before anything is
//! allocated; a packet that makes no sense closes the channel.

use super::credit::{self, Books, Broken, Credit, Room};
use super::packet::{Credit as Said, HEADER, Head, MAX_HEAD, PortParts};
use super::sealed::{contents, in_memory, is_sealed};
use super::watched::{Haste, Moment, SPIN, Socket, events};
use super::{Message, Port, PortError, Shared, Unsent};
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

/// Descriptors of one end: messages, credit.
pub(crate) const PARTS: usize = 2;

/// What a socket's buffer is asked to hold; the system may allow less.
const BUFFER: usize = 4 << 20;
/// What travels in its packet in any case.
const LEAST: usize = 2048;
/// Data of one packet, at most.
const MOST: usize = 64 << 10;
/// What the kernel counts for a packet beside its bytes.
const PER_PACKET: usize = 1024;
/// The same for a large one, which is in whole pages.
const SPARE: usize = 12 << 10;

const MAX_DESCRIPTORS: usize = 1 + Message::MAX_PORTS * PARTS + Message::MAX_REGIONS;

/// One end.
pub(super) struct End {
    messages: Socket,
    credit: Arc<Credit>,
    /// Data up to this size travels in its packet: so many fit the buffer.
    inline: usize,
    /// The last thing done here was sending: what is received next is an answer, and
    /// rarely there yet.
    asked: AtomicBool,
    haste: Haste,
    /// The other side broke the rules.
    broken: AtomicBool,
}

/// Two connected ends. Needs the context of a tokio runtime.
pub(super) fn channel(capacity: u32) -> io::Result<[End; 2]> {
    let parts = PortParts {
        capacity: u8::try_from(capacity).map_err(io::Error::other)?,
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
    Ok([(messages, credit), (other_messages, other_credit)]
        .map(|(messages, credit)| End::new(messages, credit, parts)))
}

const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

impl End {
    fn new(messages: OwnedFd, credit: OwnedFd, parts: PortParts) -> Self {
        let buffer = sockopt::socket_send_buffer_size(&messages).unwrap_or(0);
        // The kernel counts what it allocates: up to twice of what is small, a few
        // pages more of what is large.
        let each = buffer / usize::from(parts.capacity.max(1));
        let small = (each / 2).saturating_sub(PER_PACKET);
        End {
            inline: small.max(each.saturating_sub(SPARE)).clamp(LEAST, MOST),
            messages: Socket::new(messages),
            credit: Credit::new(Socket::new(credit), parts),
            asked: AtomicBool::new(false),
            haste: Haste::default(),
            broken: AtomicBool::new(false),
        }
    }

    pub(super) fn lent(&self) -> (PortParts, [BorrowedFd<'_>; PARTS]) {
        let fds = [self.messages.fd.as_fd(), self.credit.socket.fd.as_fd()];
        (self.credit.parts(), fds)
    }

    pub(super) fn into_parts(self) -> io::Result<(PortParts, [OwnedFd; PARTS])> {
        let parts = self.credit.parts();
        let credit = Arc::into_inner(self.credit);
        let credit = credit.ok_or_else(|| io::Error::other("somebody looks at it"))?;
        let fds = [self.messages.into_fd()?, credit.socket.into_fd()?];
        Ok((parts, fds))
    }

    /// Checks what somebody sent who is not trusted. Needs the context of a tokio
    /// runtime.
    pub(super) fn from_parts(parts: PortParts, fds: [OwnedFd; PARTS]) -> io::Result<Self> {
        let [messages, credit] = fds;
        for (fd, kind) in [
            (&messages, SocketType::SEQPACKET),
            (&credit, SocketType::STREAM),
        ] {
            if sockopt::socket_domain(fd)? != AddressFamily::UNIX
                || sockopt::socket_type(fd)? != kind
            {
                return Err(io::Error::other("it is no end of a channel"));
            }
        }
        if !(1..=Port::MAX_CAPACITY).contains(&u32::from(parts.capacity)) {
            return Err(io::Error::other("no channel has this capacity"));
        }
        if parts.sent.wrapping_sub(parts.taken) > u64::from(parts.capacity) {
            return Err(io::Error::other("more of its messages wait than may"));
        }
        Ok(End::new(messages, credit, parts))
    }

    pub(super) fn try_send(&self, message: Message) -> Result<(), Unsent> {
        match self.send_parts(&message, None) {
            Ok(()) => {
                self.asked.store(true, Ordering::Relaxed);
                // What was sent stays open at the other end.
                drop(message);
                Ok(())
            }
            Err(error) => Err(Unsent::new(error, message)),
        }
    }

    /// Sends data that others get, too; the bytes that were copied.
    pub(super) fn try_send_shared(&self, shared: &Shared) -> Result<usize, PortError> {
        match shared.as_bytes() {
            Some(data) if data.len() <= self.inline => {
                self.send_parts(&Message::new(data.clone()), None)?;
                Ok(data.len())
            }
            _ => {
                let file = shared.file().ok_or(PortError::Limit)?;
                let file = Some((file, shared.len()));
                self.send_parts(&Message::default(), file)?;
                Ok(0)
            }
        }
    }

    /// Sends a message, whose data may lie in a sealed file already, of this length.
    fn send_parts(
        &self,
        message: &Message,
        sealed: Option<(BorrowedFd<'_>, usize)>,
    ) -> Result<(), PortError> {
        // Who hears of this message finds room wherever this thread has made some.
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
        let made = if message.data.len() > self.inline {
            Some(in_memory(&message.data).map_err(|_| PortError::Limit)?)
        } else {
            None
        };
        let made = made.as_ref().map(|file| (file.as_fd(), message.data.len()));
        let file = sealed.or(made);
        let mut fds: Vec<BorrowedFd<'_>> = Vec::with_capacity(MAX_DESCRIPTORS);
        fds.extend(file.map(|(file, _)| file));
        let mut ports = Vec::with_capacity(message.ports.len());
        for port in &message.ports {
            let end = port.as_socket().ok_or(PortError::OtherRunner)?;
            let (parts, lent) = end.lent();
            ports.push(parts);
            fds.extend(lent);
        }
        let mut regions = Vec::with_capacity(message.regions.len());
        for region in &message.regions {
            // Who sends has seen to it that it may move; others have one that does not.
            let (file, parts) = sendable(region).ok_or(PortError::OtherRunner)?;
            regions.push(parts);
            fds.push(file);
        }
        let head = Head {
            credit: books.outgoing(),
            in_file: file.is_some(),
            len: file.map_or(message.data.len(), |(_, len)| len),
            ports,
            regions,
        };
        let head = head.to_bytes().ok_or(PortError::TooLarge)?;
        let data = if file.is_some() {
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

    /// Whether one more may be sent, after a look at what was said of it if need be.
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

    /// What the first message says that lies unread; none where it makes no sense, which
    /// is for whoever receives it to find.
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

    /// Receives a message; blocks this thread for a moment when there is none.
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

    /// Whether there is room, if need be after a moment in which this thread is
    /// blocked.
    pub(super) fn has_room_soon(&self, moment: Moment) -> bool {
        credit::settle();
        let (socket, interest) = self.for_room();
        socket.is_soon(events(interest), moment)
    }

    pub(super) fn try_receive(&self) -> Result<Message, PortError> {
        let (head, data, fds) = self.receive_parts()?;
        self.message_of(head, data, fds)
    }

    /// As [`End::try_receive`], for data that goes on to others: what lies in a file stays
    /// there.
    pub(super) fn try_receive_shared(&self) -> Result<Shared, PortError> {
        let (mut head, data, mut fds) = self.receive_parts()?;
        if !head.in_file || head.len <= self.inline {
            let data = self.message_of(head, data, fds)?.data;
            let copied = data.len();
            return Ok(Shared::bytes(data, copied));
        }
        let len = std::mem::take(&mut head.len);
        head.in_file = false;
        let file = (!fds.is_empty()).then(|| fds.remove(0));
        let Some(file) = file.filter(|file| is_sealed(file, len as u64)) else {
            return Err(self.broke());
        };
        // What came along is looked at as ever, and closed.
        self.message_of(head, Bytes::new(), fds)?;
        Ok(Shared::in_file(file, len))
    }

    /// The next packet, taken apart.
    fn receive_parts(&self) -> Result<(Head, Bytes, Vec<OwnedFd>), PortError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(PortError::Closed);
        }
        // Held from the packet to what is said of it: notes and counts are believed in
        // the order in which they came.
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
        let Some((head, data)) = head else {
            return Err(self.broke());
        };
        if self.credit.received(&mut books, head.credit).is_err() {
            return Err(self.broke());
        }
        drop(books);
        let fds = fds.ok_or(PortError::Limit)?;
        Ok((head, data, fds))
    }

    fn message_of(&self, head: Head, data: Bytes, fds: Vec<OwnedFd>) -> Result<Message, PortError> {
        let _context = self.messages.handle.enter();
        message_of(head, data, fds).map_err(|error| match error {
            Bad::Limit => PortError::Limit,
            Bad::Nonsense => self.broke(),
        })
    }

    /// The next packet, and what came with it; none where there was no room for
    /// its descriptors.
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
                    // The other end is gone, with something unread; what it sent
                    // is still here.
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
                // The data begins where the memory does: a guest gets it without a copy.
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

    /// What tells of room: notes, or where there is some, the buffer.
    fn for_room(&self) -> (&Socket, Interest) {
        if self.credit.has_room(&self.credit.books()) {
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

/// What was received.
struct Packet {
    /// None where there was less.
    head: Option<[u8; HEADER]>,
    rest: Bytes,
}

/// The file of a region that other processes can have, and what it is.
fn sendable(region: &Region) -> Option<(BorrowedFd<'_>, Parts)> {
    region.to_send().ok().filter(|_| region.is_elsewhere())
}

/// Why there is no message in a packet.
enum Bad {
    /// It makes no sense.
    Nonsense,
    /// It does; but there is no memory for it.
    Limit,
}

/// A message out of what somebody sent who is not trusted. Needs the context of a
/// tokio runtime.
fn message_of(head: Head, data: Bytes, fds: Vec<OwnedFd>) -> Result<Message, Bad> {
    let mut limit = false;
    read_message(head, data, fds, &mut limit).ok_or(if limit { Bad::Limit } else { Bad::Nonsense })
}

/// The message; or none, and whether it is for want of memory.
fn read_message(head: Head, inline: Bytes, fds: Vec<OwnedFd>, limit: &mut bool) -> Option<Message> {
    let descriptors = head.ports.len() * PARTS + head.regions.len();
    if fds.len() != usize::from(head.in_file) + descriptors {
        return None;
    }
    let mut fds = fds.into_iter();
    let data = if head.in_file {
        contents(fds.next()?, head.len)?
    } else {
        inline
    };
    let ports = head.ports.into_iter().map(|parts| {
        let end = End::from_parts(parts, [fds.next()?, fds.next()?]).ok()?;
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Transport;
    use crate::port::packet::{IN_FILE, INLINE, kind_byte};
    use crate::region::{Kind, Ledger};
    use rustix::fs::{MemfdFlags, OFlags, fcntl_getfl, fcntl_setfl, memfd_create};
    use rustix::io::pwrite;
    use rustix::net::send;

    fn within<T>(work: impl FnOnce() -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime");
        let _context = runtime.enter();
        work()
    }

    fn raw(to: &End, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        sendmsg(&to.messages.fd, &[IoSlice::new(bytes)], &mut control, SEND).expect("sent");
    }

    fn head(kind: u8, ports: u8, zero: u8, len: u32) -> Vec<u8> {
        let mut head = vec![kind, ports, 0, zero];
        head.extend(len.to_le_bytes());
        head.extend(0_u64.to_le_bytes());
        head
    }

    fn region(kind: u8, offset: u64, len: u64) -> Vec<u8> {
        let mut head = head(INLINE, 0, 0, 0);
        head[2] = 1;
        head.push(kind);
        head.extend(offset.to_le_bytes());
        head.extend(len.to_le_bytes());
        head
    }

    fn made(len: u64, kind: Kind) -> Region {
        let ledger = Ledger::new(u64::MAX, true);
        let draft = ledger.make(len, kind).expect("a draft");
        draft.finish().expect("a region")
    }

    #[test]
    fn packets_that_make_no_sense_close_the_channel() {
        within(|| {
            let file = in_memory(b"12345").expect("a file");
            let open = memfd_create("open", MemfdFlags::ALLOW_SEALING).expect("a file");
            pwrite(&open, b"12345", 0).expect("written");
            let (pipe, _writer) = std::io::pipe().expect("a pipe");
            let [one, other] = channel(1).expect("a channel");
            let [strange, _far] = channel(1).expect("a channel");
            let port = |capacity: u8, sent: u64| {
                let counts = [sent, 0, 0].map(u64::to_le_bytes).concat();
                [head(INLINE, 1, 0, 0), vec![capacity], counts].concat()
            };
            let mut many = head(INLINE, 0, 0, 0);
            many[2] = 9;
            let mut received = head(INLINE, 0, 0, 0);
            received[8] = 1;
            let (messages, credit) = (
                strange.messages.fd.as_fd(),
                strange.credit.socket.fd.as_fd(),
            );
            let exclusive = made(4096, Kind::Exclusive);
            let mut frozen = made(4096, Kind::Exclusive);
            frozen.freeze().expect("freezes");
            let [memory, ice] = [&exclusive, &frozen].map(|it| it.to_send().expect("goes").0);
            let cases: Vec<(&str, Vec<u8>, Vec<BorrowedFd<'_>>)> = vec![
                ("short", vec![0; HEADER - 1], vec![]),
                ("a kind", head(2, 0, 0, 0), vec![]),
                ("notes", head(INLINE, 0, 2, 0), vec![]),
                ("more received than sent", received, vec![]),
                ("less than it says", head(INLINE, 0, 0, 1), vec![]),
                ("more", [head(INLINE, 0, 0, 0), vec![0]].concat(), vec![]),
                (
                    "a length",
                    head(IN_FILE, 0, 0, u32::MAX),
                    vec![file.as_fd()],
                ),
                ("no file", head(IN_FILE, 0, 0, 5), vec![]),
                (
                    "two files",
                    head(IN_FILE, 0, 0, 5),
                    vec![file.as_fd(), file.as_fd()],
                ),
                ("another length", head(IN_FILE, 0, 0, 4), vec![file.as_fd()]),
                ("not sealed", head(IN_FILE, 0, 0, 5), vec![open.as_fd()]),
                ("no file at all", head(IN_FILE, 0, 0, 5), vec![pipe.as_fd()]),
                (
                    "data and file",
                    [head(IN_FILE, 0, 0, 5), vec![1]].concat(),
                    vec![file.as_fd()],
                ),
                ("many regions", many, vec![]),
                (
                    "half a region",
                    region(0, 0, 4096)[..HEADER + 12].into(),
                    vec![memory],
                ),
                ("no region", region(0, 0, 4096), vec![]),
                ("two for one", region(0, 0, 4096), vec![memory, memory]),
                ("a kind of region", region(3, 0, 4096), vec![memory]),
                ("not frozen", region(1, 0, 4096), vec![memory]),
                ("frozen", region(0, 0, 4096), vec![ice]),
                ("shared and frozen", region(2, 0, 4096), vec![ice]),
                ("nothing of it", region(0, 0, 0), vec![memory]),
                ("beyond its end", region(0, 0, 4097), vec![memory]),
                (
                    "beyond all ends",
                    region(0, u64::MAX - 4095, 4096),
                    vec![memory],
                ),
                ("between pages", region(0, 1, 1), vec![memory]),
                ("a message as region", region(0, 0, 5), vec![file.as_fd()]),
                ("a pipe as region", region(0, 0, 4096), vec![pipe.as_fd()]),
                ("a socket as region", region(0, 0, 4096), vec![messages]),
                (
                    "a region as message",
                    head(IN_FILE, 0, 0, 4096),
                    vec![memory],
                ),
                ("a gift", head(INLINE, 0, 0, 0), vec![file.as_fd()]),
                ("many ports", head(INLINE, 9, 0, 0), vec![]),
                ("one socket", port(1, 0), vec![messages]),
                (
                    "half a port",
                    port(1, 0)[..HEADER + 24].into(),
                    vec![messages, credit],
                ),
                ("no capacity", port(0, 0), vec![messages, credit]),
                ("capacity", port(65, 0), vec![messages, credit]),
                ("more than may wait", port(1, 2), vec![messages, credit]),
                ("the wrong way around", port(1, 0), vec![credit, messages]),
                ("no sockets", port(1, 0), vec![file.as_fd(), pipe.as_fd()]),
            ];
            for (what, bytes, fds) in cases {
                let [one, other] = channel(1).expect("a channel");
                raw(&one, &bytes, &fds);
                assert_eq!(
                    other.try_receive().expect_err(what),
                    PortError::Closed,
                    "{what}"
                );
                assert_eq!(
                    other.try_receive().expect_err(what),
                    PortError::Closed,
                    "{what}"
                );
                let unsent = other.try_send(Message::new("x")).expect_err(what);
                assert_eq!(unsent.error, PortError::Closed, "{what}");
            }
            // What does make sense.
            raw(&one, &head(IN_FILE, 0, 0, 5), &[file.as_fd()]);
            assert_eq!(other.try_receive().expect("received").data, "12345");
            raw(&one, &port(1, 0), &[messages, credit]);
            assert_eq!(other.try_receive().expect("received").ports.len(), 1);
            for (kind, file) in [(0, memory), (1, ice), (2, memory)] {
                raw(&one, &region(kind, 0, 4096), &[file]);
                let message = other.try_receive().expect("received");
                assert_eq!(kind_byte(message.regions[0].kind()), kind);
            }
        });
    }

    #[test]
    fn what_goes_to_many_is_one_file() {
        within(|| {
            let inode = |shared: &Shared| {
                let file = shared.file().expect("a file");
                rustix::fs::fstat(file).expect("a file").st_ino
            };
            let [from, one] = channel(64).expect("a channel");
            let ends = [0; 2].map(|_| channel(64).expect("a channel"));
            for (len, in_file) in [(0, false), (LEAST, false), (Message::MAX_DATA, true)] {
                let data = vec![1; len];
                let (_kept, along) = Transport::Socket.channel(1).expect("a channel");
                from.try_send(Message::new(data.clone()).port(along))
                    .expect("sent");
                let shared = one.try_receive_shared().expect("received");
                assert_eq!(shared.as_bytes().is_none(), in_file, "{len}");
                for [near, far] in &ends {
                    let copied = near.try_send_shared(&shared).expect("sent");
                    assert_eq!(copied, if in_file { 0 } else { len });
                    if in_file {
                        let again = far.try_receive_shared().expect("received");
                        assert_eq!(inode(&again), inode(&shared));
                    } else {
                        assert_eq!(far.try_receive().expect("received").data, data);
                    }
                }
            }
            // What is not sealed goes on to nobody.
            let open = memfd_create("open", MemfdFlags::ALLOW_SEALING).expect("a file");
            let large = u32::try_from(Message::MAX_DATA).expect("fits");
            pwrite(&open, &vec![0; Message::MAX_DATA], 0).expect("written");
            raw(&from, &head(IN_FILE, 0, 0, large), &[open.as_fd()]);
            let refused = one.try_receive_shared().expect_err("not sealed");
            assert_eq!(refused, PortError::Closed);
        });
    }

    #[test]
    fn what_cannot_move_comes_back_with_everything() {
        within(|| {
            let (one, other) = Transport::Socket.channel(1).expect("a channel");
            let local = Ledger::new(u64::MAX, false);
            let here = local.make(1, Kind::Shared).expect("a draft");
            let here = here.finish().expect("a region");
            let mapped = made(4096, Kind::Exclusive);
            let lease = mapped.map(0, 4096).expect("maps");
            for stays in [here, mapped] {
                let message = Message::new("x")
                    .region(made(1, Kind::Shared))
                    .region(stays);
                let unsent = one.try_send(message).expect_err("it stays");
                assert_eq!(unsent.error, PortError::OtherRunner);
                assert_eq!(unsent.message.regions.len(), 2);
            }
            drop(lease);
            // Its credit, too.
            let full = Message::new("x").region(made(1, Kind::Shared));
            one.try_send(full).expect("there is room");
            let refused = Message::default().region(made(2, Kind::Shared));
            let unsent = one.try_send(refused).expect_err("full");
            assert_eq!(unsent.error, PortError::WouldBlock);
            assert_eq!(unsent.message.regions[0].len(), 2);
            assert_eq!(other.try_receive().expect("received").regions[0].len(), 1);
            one.try_send(unsent.message).expect("there is room");
        });
    }

    #[test]
    fn nothing_blocks_whatever_the_other_side_sets() {
        within(|| {
            let [one, other] = channel(1).expect("a channel");
            for socket in [
                &one.messages,
                &one.credit.socket,
                &other.messages,
                &other.credit.socket,
            ] {
                let flags = fcntl_getfl(&socket.fd).expect("flags");
                fcntl_setfl(&socket.fd, flags - OFlags::NONBLOCK).expect("set");
            }
            assert_eq!(
                other.try_receive().expect_err("nothing"),
                PortError::WouldBlock
            );
            one.try_send("x".into()).expect("there is room");
            let unsent = one.try_send("y".into()).expect_err("full");
            assert_eq!(unsent.error, PortError::WouldBlock);
            // Notes until none fit.
            for _ in 0..100_000 {
                if send(&other.credit.socket.fd, &[0; 64], SEND).is_err() {
                    break;
                }
            }
            // One that nobody has room for.
            assert!(other.try_receive().is_ok());
            let unsent = one.try_send("y".into()).expect_err("not told");
            assert_eq!(unsent.error, PortError::WouldBlock);
        });
    }

    #[test]
    fn credit_for_what_was_not_sent_closes_the_channel() {
        within(|| {
            for (sent, note) in [(0, 1), (1, 2), (2, 255), (2, 3)] {
                let [one, other] = channel(2).expect("a channel");
                (0..sent).for_each(|_| one.try_send("x".into()).expect("there is room"));
                send(&other.credit.socket.fd, &[note], SEND).expect("sent");
                let mut says = head(INLINE, 0, 1, 0);
                raw(&other, &says, &[]);
                let refused = one.try_receive().expect_err("a lie");
                assert_eq!(refused, PortError::Closed, "{sent} {note}");
                let [one, other] = channel(2).expect("a channel");
                (0..sent).for_each(|_| one.try_send("x".into()).expect("there is room"));
                says[3] = 0;
                says[8] = note;
                raw(&other, &says, &[]);
                let refused = one.try_receive().expect_err("a lie");
                assert_eq!(refused, PortError::Closed, "{sent} {note}");
            }
            // It is looked at for want of room, too.
            let [one, other] = channel(1).expect("a channel");
            one.try_send("x".into()).expect("there is room");
            send(&other.credit.socket.fd, &[2], SEND).expect("sent");
            let unsent = one.try_send("y".into()).expect_err("a lie");
            assert_eq!(unsent.error, PortError::Closed);
        });
    }

    #[test]
    fn counts_move_along() {
        within(|| {
            let (one, other) = Transport::Socket.channel(1).expect("a channel");
            let moved = |port: Port| {
                let (parts, fds) = port.into_parts().expect("parts");
                Port::from_parts(parts, fds).expect("a port")
            };
            let (mut one, mut other) = (one, other);
            for _ in 0..300 {
                one.try_send("it").expect("there is room");
                one = moved(one);
                let unsent = one.try_send("no").expect_err("full");
                assert_eq!(unsent.error, PortError::WouldBlock);
                assert_eq!(other.try_receive().expect("received").data, "it");
                other = moved(other);
                other.try_send("back").expect("there is room");
                assert_eq!(one.try_receive().expect("received").data, "back");
            }
        });
    }

    /// Whether a note is there to be read.
    fn is_noted(end: &End) -> bool {
        end.credit.socket.is(PollFlags::IN)
    }

    #[tokio::test]
    async fn an_answer_says_what_is_owed_and_a_turn_that_ends_notes_it() {
        let [one, other] = channel(1).expect("a channel");
        // As in another process: what it receives it notes by itself.
        let apart = |work: &(dyn Fn() + Sync)| {
            std::thread::scope(|scope| scope.spawn(work).join().expect("it works"));
        };
        let ask = || apart(&|| one.try_send("ask".into()).expect("there is room"));
        let hear = || apart(&|| drop(one.try_receive().expect("received")));
        let answer = || {
            other.try_receive().expect("received");
            other.try_send("answer".into()).expect("there is room");
        };
        credit::in_turns(async {
            // That it answers is learned from the first.
            ask();
            answer();
            assert!(is_noted(&one));
            hear();
            for _ in 0..300 {
                ask();
                answer();
                assert!(!is_noted(&one));
                hear();
            }
            ask();
            answer();
            assert!(!is_noted(&one));
            tokio::task::yield_now().await;
            // It need not read the answer.
            ask();
            hear();
            other.try_receive().expect("received");
            assert!(!is_noted(&one));
            // Whoever it tells finds room.
            let [elsewhere, _far] = channel(1).expect("a channel");
            elsewhere.try_send("told".into()).expect("there is room");
            assert!(is_noted(&one));
            ask();
            other.try_receive().expect("received");
        })
        .await;
        ask();
        other.try_receive().expect("received");
        // Where nobody's turn ends, at once.
        ask();
    }

    #[tokio::test]
    async fn who_takes_turns_is_told_by_the_answer_alone() {
        let [one, other] = channel(1).expect("a channel");
        let apart = |work: &(dyn Fn() + Sync)| {
            std::thread::scope(|scope| scope.spawn(work).join().expect("it works"));
        };
        let ask = || apart(&|| one.try_send("ask".into()).expect("there is room"));
        let is_full = || apart(&|| drop(one.try_send("more".into()).expect_err("full")));
        let hear = || apart(&|| drop(one.try_receive().expect("received")));
        let receive = || other.receive_soon(Moment::Timed);
        let answer = || {
            receive().expect("received");
            other.try_send("answer".into()).expect("there is room");
        };
        let waits = || assert_eq!(receive().expect_err("nothing"), PortError::WouldBlock);
        credit::in_turns(async {
            for round in 0..300 {
                ask();
                is_full();
                answer();
                waits();
                assert_eq!(is_noted(&one), round + 1 < 16, "{round}");
                hear();
            }
            // Who has not read the answer has room, and no more than that.
            ask();
            answer();
            waits();
            assert!(!is_noted(&one));
            ask();
            is_full();
            // That was no turn.
            receive().expect("received");
            waits();
            assert!(is_noted(&one));
            hear();
            for _ in 0..40 {
                ask();
                answer();
                waits();
                hear();
            }
            ask();
            answer();
            waits();
            assert!(!is_noted(&one));
            tokio::task::yield_now().await;
        })
        .await;
        // Whoever waits for a note has it when the turn has ended.
        assert!(is_noted(&one));
    }

    #[test]
    fn what_lies_unread_is_believed_no_more_than_what_is_received() {
        within(|| {
            for (received, notes, closes) in [(1, 0, false), (2, 0, true), (1, 2, false)] {
                let [one, other] = channel(1).expect("a channel");
                one.try_send("x".into()).expect("there is room");
                let mut says = head(INLINE, 0, notes, 0);
                says[8] = received;
                raw(&other, &says, &[]);
                let sent = one.try_send("y".into());
                match (closes, notes) {
                    (true, _) => assert_eq!(sent.expect_err("a lie").error, PortError::Closed),
                    (_, 0) => sent.expect("there is room"),
                    _ => {
                        assert_eq!(sent.expect_err("nonsense").error, PortError::WouldBlock);
                        assert_eq!(one.try_receive().expect_err("it"), PortError::Closed);
                    }
                }
            }
            let [one, other] = channel(1).expect("a channel");
            one.try_send("x".into()).expect("there is room");
            raw(&other, &[0; HEADER - 1], &[]);
            let unsent = one.try_send("y".into()).expect_err("nonsense");
            assert_eq!(unsent.error, PortError::WouldBlock);
        });
    }
}
