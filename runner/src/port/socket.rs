//! Channels between processes: a socket pair for messages and one for credit, whose
//! ends travel as descriptors.
//!
//! A message is one packet. Credit is bytes, one for each message that may still
//! wait: a sender takes one, a receiver puts one back. So the capacity holds
//! whoever has the ends, without a counter that would have to move along. Data that
//! many packets of would not fit a socket's buffer travels in a memory file. Ports and
//! regions travel as their descriptors.
//!
//! The other end is not trusted. Invariants: no call blocks, whatever flags the
//! other side sets on what both have; a length is checked before anything is
//! allocated; a packet that makes no sense closes the channel.

use super::{Message, Port, PortError, Unsent};
use crate::region::{Kind, Parts, Region};
use crate::sys;
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{
    FileType, MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create,
};
use rustix::io::{Errno, pread, pwrite};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recv,
    recvmsg, send, sendmsg, shutdown, socketpair, sockopt,
};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

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

/// Kind, ports, regions, a byte that is zero, the length of the data.
const HEADER: usize = 8;
/// The capacity of a port, and its credits that came along.
const PORT: usize = 2;
/// The kind of a region, where it is in its file, its length.
const REGION: usize = 17;
const INLINE: u8 = 0;
const IN_FILE: u8 = 1;
const MAX_HEAD: usize = HEADER + Message::MAX_PORTS * PORT + Message::MAX_REGIONS * REGION;
const MAX_DESCRIPTORS: usize = 1 + Message::MAX_PORTS * PARTS + Message::MAX_REGIONS;

/// How long a thread that has nothing else to do is blocked by a call, before it looks
/// what else there is: more than an answer takes, no more than a guest may compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A millisecond. A timer for each wait costs more than the wait, where programming
    /// a timer is a matter for the hypervisor.
    Timed,
    /// Until the next signal: a timer that runs anyway sends one.
    Tick,
}

impl Moment {
    fn timeout(self) -> Option<Timespec> {
        match self {
            Moment::Timed => Some(Timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            }),
            Moment::Tick => None,
        }
    }
}

/// How long it is looked again and again before that. An answer of somebody who looks
/// the same way, on another processor, is there earlier, and nobody is to be woken.
/// Longer than waking somebody takes: else, once both were late, both stay so.
const SPIN: Duration = Duration::from_micros(50);

/// Whether looking again and again pays: not on one processor, nor where others take
/// their time.
#[derive(Default)]
struct Haste {
    /// So many times it is not tried.
    pause: AtomicU32,
    /// How often in a row it was in vain.
    failures: AtomicU32,
}

impl Haste {
    fn is_worth_it(&self) -> bool {
        let less = |pause: u32| pause.checked_sub(1);
        let relaxed = Ordering::Relaxed;
        self.pause.fetch_update(relaxed, relaxed, less).is_err()
    }

    fn was_worth_it(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// The next time comes later and later.
    fn was_in_vain(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(6);
        self.pause.store(8 << failures, Ordering::Relaxed);
    }
}

/// What is to be known of an end beside its descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortParts {
    pub(crate) capacity: u8,
    /// Credits that were taken and not used.
    pub(crate) credit: u8,
}

/// One end.
pub(super) struct End {
    messages: Socket,
    credit: Socket,
    capacity: u8,
    /// Data up to this size travels in its packet: so many fit the buffer.
    inline: usize,
    /// Credits that were taken and not used.
    saved: AtomicU8,
    /// The last thing done here was sending: what is received next is an answer, and
    /// rarely there yet.
    asked: AtomicBool,
    haste: Haste,
    /// The other side broke the rules.
    broken: AtomicBool,
}

/// A socket, registered with the event loop once somebody waits for it.
struct Socket {
    fd: Arc<OwnedFd>,
    handle: Handle,
    watched: OnceLock<Option<AsyncFd<Arc<OwnedFd>>>>,
}

impl Socket {
    /// Needs the context of a tokio runtime.
    fn new(fd: OwnedFd) -> Self {
        Socket {
            fd: Arc::new(fd),
            handle: Handle::current(),
            watched: OnceLock::new(),
        }
    }

    /// None when there is no event loop any more.
    fn watched(&self) -> Option<&AsyncFd<Arc<OwnedFd>>> {
        let watched = self.watched.get_or_init(|| {
            let _context = self.handle.enter();
            sys::watch(self.fd.clone()).ok()
        });
        watched.as_ref()
    }

    fn is(&self, events: PollFlags) -> bool {
        let mut watched = [PollFd::new(&self.fd, events)];
        // Whatever is wrong is for the call that follows to meet.
        !matches!(poll(&mut watched, Some(&Timespec::default())), Ok(0))
    }

    /// Whether it is, or becomes so within a moment; a signal ends it.
    fn is_soon(&self, events: PollFlags, moment: Moment) -> bool {
        let mut watched = [PollFd::new(&self.fd, events)];
        matches!(poll(&mut watched, moment.timeout().as_ref()), Ok(1..))
    }

    /// Waits for it to be readable or writable; `false` when nobody can tell.
    async fn ready(&self, interest: Interest) -> bool {
        let Some(watched) = self.watched() else {
            return false;
        };
        loop {
            let Ok(mut guard) = watched.ready(interest).await else {
                return false;
            };
            if self.is(events(interest)) {
                return true;
            }
            guard.clear_ready();
        }
    }

    fn poll_ready(&self, interest: Interest, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(watched) = self.watched() else {
            return Poll::Ready(false);
        };
        loop {
            let guard = if interest.is_readable() {
                ready!(watched.poll_read_ready(cx))
            } else {
                ready!(watched.poll_write_ready(cx))
            };
            let Ok(mut guard) = guard else {
                return Poll::Ready(false);
            };
            if self.is(events(interest)) {
                return Poll::Ready(true);
            }
            guard.clear_ready();
        }
    }

    fn into_fd(self) -> io::Result<OwnedFd> {
        drop(self.watched);
        // The other reference was the event loop's.
        Arc::into_inner(self.fd).ok_or_else(|| io::Error::other("somebody waits for it"))
    }
}

fn events(interest: Interest) -> PollFlags {
    if interest.is_readable() {
        PollFlags::IN
    } else {
        PollFlags::OUT
    }
}

/// Two connected ends. Needs the context of a tokio runtime.
pub(super) fn channel(capacity: u32) -> io::Result<[End; 2]> {
    let capacity = u8::try_from(capacity).map_err(io::Error::other)?;
    let pair = |kind| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socketpair(AddressFamily::UNIX, kind, flags, None)
    };
    let (messages, other_messages) = pair(SocketType::SEQPACKET)?;
    let (credit, other_credit) = pair(SocketType::STREAM)?;
    for socket in [&messages, &other_messages] {
        sockopt::set_socket_send_buffer_size(socket, BUFFER)?;
    }
    let all = vec![0; usize::from(capacity)];
    for socket in [&credit, &other_credit] {
        if send(socket, &all, SEND)? != all.len() {
            return Err(io::Error::other("no room for credit"));
        }
    }
    Ok([(messages, credit), (other_messages, other_credit)]
        .map(|(messages, credit)| End::new(messages, credit, capacity, 0)))
}

const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

impl End {
    fn new(messages: OwnedFd, credit: OwnedFd, capacity: u8, saved: u8) -> Self {
        let buffer = sockopt::socket_send_buffer_size(&messages).unwrap_or(0);
        // The kernel counts what it allocates: up to twice of what is small, a few
        // pages more of what is large.
        let each = buffer / usize::from(capacity.max(1));
        let small = (each / 2).saturating_sub(PER_PACKET);
        End {
            inline: small.max(each.saturating_sub(SPARE)).clamp(LEAST, MOST),
            messages: Socket::new(messages),
            credit: Socket::new(credit),
            capacity,
            saved: AtomicU8::new(saved),
            asked: AtomicBool::new(false),
            haste: Haste::default(),
            broken: AtomicBool::new(false),
        }
    }

    fn parts(&self) -> PortParts {
        PortParts {
            capacity: self.capacity,
            // The other side can have given more than it had.
            credit: self.saved.load(Ordering::Relaxed).min(self.capacity),
        }
    }

    pub(super) fn lent(&self) -> (PortParts, [BorrowedFd<'_>; PARTS]) {
        let fds = [self.messages.fd.as_fd(), self.credit.fd.as_fd()];
        (self.parts(), fds)
    }

    pub(super) fn into_parts(self) -> io::Result<(PortParts, [OwnedFd; PARTS])> {
        let parts = self.parts();
        Ok((parts, [self.messages.into_fd()?, self.credit.into_fd()?]))
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
        if parts.credit > parts.capacity {
            return Err(io::Error::other("it has more credit than there is"));
        }
        Ok(End::new(messages, credit, parts.capacity, parts.credit))
    }

    /// Takes the right to send one message; and with it what else there is, for the
    /// next ones.
    fn take_credit(&self) -> Result<(), PortError> {
        let one_less = |saved: u8| saved.checked_sub(1);
        let saved = self
            .saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if saved.is_ok() {
            return Ok(());
        }
        let mut credits = [0; Port::MAX_CAPACITY as usize];
        loop {
            return match recv(&self.credit.fd, &mut credits, RecvFlags::DONTWAIT) {
                Ok((0, _)) => Err(PortError::Closed),
                Ok((count, _)) => {
                    self.save_credits(u8::try_from(count - 1).unwrap_or(0));
                    Ok(())
                }
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Err(PortError::WouldBlock),
                Err(_) => Err(PortError::Closed),
            };
        }
    }

    pub(super) fn try_send(&self, message: Message) -> Result<(), Unsent> {
        match self.send_parts(&message) {
            Ok(()) => {
                self.asked.store(true, Ordering::Relaxed);
                // What was sent stays open at the other end.
                drop(message);
                Ok(())
            }
            Err(error) => Err(Unsent::new(error, message)),
        }
    }

    fn send_parts(&self, message: &Message) -> Result<(), PortError> {
        let mut head = Vec::with_capacity(MAX_HEAD);
        let mut fds: Vec<BorrowedFd<'_>> = Vec::with_capacity(MAX_DESCRIPTORS);
        let in_file = message.data.len() > self.inline;
        let len = u32::try_from(message.data.len()).map_err(|_| PortError::TooLarge)?;
        let ports = u8::try_from(message.ports.len()).map_err(|_| PortError::TooLarge)?;
        let regions = u8::try_from(message.regions.len()).map_err(|_| PortError::TooLarge)?;
        head.extend([if in_file { IN_FILE } else { INLINE }, ports, regions, 0]);
        head.extend(len.to_le_bytes());
        if self.broken.load(Ordering::Relaxed) {
            return Err(PortError::Closed);
        }
        self.take_credit()?;
        let file = if in_file {
            let file = in_memory(&message.data).inspect_err(|_| self.save_credit());
            Some(file.map_err(|_| PortError::Limit)?)
        } else {
            None
        };
        fds.extend(file.as_ref().map(AsFd::as_fd));
        for port in &message.ports {
            let Some(end) = port.as_socket() else {
                self.save_credit();
                return Err(PortError::OtherRunner);
            };
            let (parts, lent) = end.lent();
            head.extend([parts.capacity, parts.credit]);
            fds.extend(lent);
        }
        for region in &message.regions {
            // Who sends has seen to it that it may move; others have one that does not.
            let Some((file, parts)) = sendable(region) else {
                self.save_credit();
                return Err(PortError::OtherRunner);
            };
            head.push(kind_byte(parts.kind));
            head.extend(parts.offset.to_le_bytes());
            head.extend(parts.len.to_le_bytes());
            fds.push(file);
        }
        let data = if in_file { &[] } else { &message.data[..] };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            self.save_credit();
            return Err(PortError::Limit);
        }
        let packet = [IoSlice::new(&head), IoSlice::new(data)];
        loop {
            return match sendmsg(&self.messages.fd, &packet, &mut control, SEND) {
                Ok(_) => Ok(()),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.save_credit();
                    Err(PortError::WouldBlock)
                }
                Err(Errno::PIPE | Errno::CONNRESET | Errno::CONNREFUSED | Errno::NOTCONN) => {
                    Err(PortError::Closed)
                }
                Err(_) => {
                    self.save_credit();
                    Err(PortError::Limit)
                }
            };
        }
    }

    fn save_credit(&self) {
        self.save_credits(1);
    }

    fn save_credits(&self, count: u8) {
        let more = |saved: u8| Some(saved.saturating_add(count));
        let _ = self
            .saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
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
        if !self.messages.is_soon(PollFlags::IN, moment) {
            return Err(PortError::WouldBlock);
        }
        self.try_receive()
    }

    /// Whether there is room, if need be after a moment in which this thread is
    /// blocked.
    pub(super) fn has_room_soon(&self, moment: Moment) -> bool {
        let (socket, interest) = self.for_room();
        socket.is_soon(events(interest), moment)
    }

    pub(super) fn try_receive(&self) -> Result<Message, PortError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(PortError::Closed);
        }
        let (packet, fds) = self.receive_packet()?;
        // Its place is free again. That the other side does not take credit back is
        // its own loss.
        let _ = send(&self.credit.fd, &[0], SEND);
        let Some(fds) = fds else {
            return Err(PortError::Limit);
        };
        let _context = self.messages.handle.enter();
        message_of(packet, fds).map_err(|error| match error {
            Bad::Limit => PortError::Limit,
            Bad::Nonsense => {
                self.broken.store(true, Ordering::Relaxed);
                self.close();
                PortError::Closed
            }
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

    /// What tells of room: credit, or where there is some, the buffer.
    fn for_room(&self) -> (&Socket, Interest) {
        if self.saved.load(Ordering::Relaxed) > 0 {
            (&self.messages, Interest::WRITABLE)
        } else {
            (&self.credit, Interest::READABLE)
        }
    }

    pub(super) fn close(&self) {
        for socket in [&self.messages, &self.credit] {
            let _ = shutdown(&socket.fd, Shutdown::Both);
        }
    }
}

const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::GROW)
    .union(SealFlags::SHRINK);

/// Data in a memory file that nobody can change.
pub(crate) fn in_memory(data: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create("wrun-message", flags)?;
    let mut written = 0;
    while written < data.len() {
        match pwrite(&file, &data[written..], written as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(some) => written += some,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    fcntl_add_seals(&file, SEALS)?;
    Ok(file)
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

fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Exclusive => 0,
        Kind::Frozen => 1,
        Kind::Shared => 2,
    }
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
fn message_of(packet: Packet, fds: Vec<OwnedFd>) -> Result<Message, Bad> {
    let mut limit = false;
    read_message(packet, fds, &mut limit).ok_or(if limit { Bad::Limit } else { Bad::Nonsense })
}

/// The message; or none, and whether it is for want of memory.
fn read_message(packet: Packet, fds: Vec<OwnedFd>, limit: &mut bool) -> Option<Message> {
    let Packet { head, rest: bytes } = packet;
    let [kind, ports, regions, 0, a, b, c, d] = head? else {
        return None;
    };
    let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    let (ports, regions) = (usize::from(ports), usize::from(regions));
    if len > Message::MAX_DATA
        || ports > Message::MAX_PORTS
        || regions > Message::MAX_REGIONS
        || kind > IN_FILE
    {
        return None;
    }
    let in_file = kind == IN_FILE;
    let (parts, rest) = bytes.split_at_checked(ports * PORT)?;
    let (places, inline) = rest.split_at_checked(regions * REGION)?;
    if fds.len() != usize::from(in_file) + ports * PARTS + regions
        || inline.len() != if in_file { 0 } else { len }
    {
        return None;
    }
    let mut fds = fds.into_iter();
    let data = if in_file {
        contents(fds.next()?, len)?
    } else {
        bytes.slice(bytes.len() - len..)
    };
    let ports = parts
        .chunks_exact(PORT)
        .map(|parts| {
            let &[capacity, credit] = parts else {
                return None;
            };
            let parts = PortParts { capacity, credit };
            let end = End::from_parts(parts, [fds.next()?, fds.next()?]).ok()?;
            Some(Port::socket(end))
        })
        .collect::<Option<Vec<_>>>()?;
    let regions = places
        .as_chunks::<REGION>()
        .0
        .iter()
        .map(|place| {
            let parts = region_parts(place)?;
            let region = Region::from_parts(fds.next()?, parts);
            region.inspect_err(|error| *limit |= error.is_limit()).ok()
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Message {
        data,
        regions,
        ports,
    })
}

fn region_parts(place: &[u8; REGION]) -> Option<Parts> {
    let (&kind, place) = place.split_first()?;
    let (offset, len) = place.split_first_chunk()?;
    Some(Parts {
        kind: match kind {
            0 => Kind::Exclusive,
            1 => Kind::Frozen,
            2 => Kind::Shared,
            _ => return None,
        },
        offset: u64::from_le_bytes(*offset),
        len: u64::from_le_bytes(len.try_into().ok()?),
    })
}

/// Whether it is a memory file of so many bytes that nobody can change.
pub(crate) fn is_sealed(file: &OwnedFd, len: u64) -> bool {
    fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && u64::try_from(stat.st_size) == Ok(len)
    }) && fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS))
}

/// What a memory file has, which must be sealed: reading it neither waits nor comes
/// to another end than was said.
pub(crate) fn contents(file: OwnedFd, len: usize) -> Option<Bytes> {
    if !is_sealed(&file, len as u64) {
        return None;
    }
    let mut data = vec![0; len];
    let mut read = 0;
    while read < len {
        match pread(&file, &mut data[read..], read as u64) {
            Ok(0) => return None,
            Ok(some) => read += some,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(data.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Transport;
    use crate::region::Ledger;
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

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
        head
    }

    fn region(kind: u8, offset: u64, len: u64) -> Vec<u8> {
        let mut head = vec![INLINE, 0, 1, 0, 0, 0, 0, 0, kind];
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
            let port =
                |capacity: u8, credit: u8| [head(INLINE, 1, 0, 0), vec![capacity, credit]].concat();
            let (messages, credit) = (strange.messages.fd.as_fd(), strange.credit.fd.as_fd());
            let exclusive = made(4096, Kind::Exclusive);
            let mut frozen = made(4096, Kind::Exclusive);
            frozen.freeze().expect("freezes");
            let [memory, ice] = [&exclusive, &frozen].map(|it| it.to_send().expect("goes").0);
            let cases: Vec<(&str, Vec<u8>, Vec<BorrowedFd<'_>>)> = vec![
                ("short", vec![0; HEADER - 1], vec![]),
                ("a kind", head(2, 0, 0, 0), vec![]),
                ("reserved bytes", head(INLINE, 0, 1, 0), vec![]),
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
                ("many regions", vec![INLINE, 0, 9, 0, 0, 0, 0, 0], vec![]),
                (
                    "half a region",
                    region(0, 0, 4096)[..20].into(),
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
                ("half a port", port(1, 0), vec![messages]),
                ("no capacity", port(0, 0), vec![messages, credit]),
                ("capacity", port(65, 0), vec![messages, credit]),
                ("credit", port(1, 2), vec![messages, credit]),
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
            for socket in [&one.messages, &one.credit, &other.messages, &other.credit] {
                let flags = fcntl_getfl(&socket.fd).expect("flags");
                fcntl_setfl(&socket.fd, flags - OFlags::NONBLOCK).expect("set");
            }
            assert_eq!(
                other.try_receive().expect_err("nothing"),
                PortError::WouldBlock
            );
            // More credit than there is; then packets until none fit.
            for _ in 0..100_000 {
                if send(&other.credit.fd, &[0; 64], SEND).is_err() {
                    break;
                }
            }
            let refused =
                (0..100_000).find_map(|_| one.try_send(Message::new(vec![1; 1000])).err());
            assert_eq!(refused.expect("a bound").error, PortError::WouldBlock);
            // It gives back credit that nobody has room for.
            assert!(other.try_receive().is_ok());
        });
    }

    #[test]
    fn a_credit_in_hand_moves_along() {
        within(|| {
            let (one, other) = Transport::Socket.channel(1).expect("a channel");
            let End { saved, .. } = one.as_socket().expect("a socket");
            one.as_socket()
                .expect("a socket")
                .take_credit()
                .expect("one");
            saved.store(1, Ordering::Relaxed);
            let (parts, fds) = one.into_parts().expect("parts");
            assert_eq!(parts.credit, 1);
            let one = Port::from_parts(parts, fds).expect("a port");
            one.try_send("it").expect("there is room");
            assert_eq!(
                one.try_send("no").expect_err("full").error,
                PortError::WouldBlock
            );
            assert_eq!(other.try_receive().expect("received").data, "it");
            one.try_send("again").expect("there is room");
        });
    }
}
