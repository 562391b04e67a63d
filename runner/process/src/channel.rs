//! Frames and descriptors over a Unix socket: both ends of the connections between a runner
//! and its processes.
//!
//! Descriptors are attached to the first byte of the frame that counts them, so they arrive
//! with it. Invariants: no more descriptors are kept than one message may bring, and
//! descriptors that no frame counted are a violation; reading frames that never end yields
//! to other tasks.
//!
//! A socket is watched by the event loop from the first wait on: a thread that waits by itself does
//! without ([`direct`]). It is watched for what arrives alone: if it were watched for room to write,
//! too, each message that the other side takes would wake the event loop here for nothing, which
//! takes a processor from that side while it begins its task.

use crate::wire::{self, Decoder, FrameError, Hello};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::Interest;
use wrun_sandbox::turn::Turn;
use wrun_sys::{Watched, direct};

/// Maximum of descriptors that one message may bring; the kernel's own limit is 253.
pub(super) const MAX_DESCRIPTORS: usize = 160;
/// Maximum of bytes that are received at a time.
const PIECE: usize = 8192;
/// The same within a message that is known to be longer.
const LARGE_PIECE: usize = 64 << 10;
/// How long a sender waits before it looks for room again, if there is no descriptor to be told
/// by.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Bytes of messages that are held back.
const MAX_HELD: usize = 32 << 10;

/// Why nothing more comes from the other side.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    /// It closed its end, or died.
    #[error("it closed the connection")]
    Closed,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("it sent descriptors that were not requested")]
    Descriptors,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Whether the system refused to send or receive descriptors because of a shortage that
/// other processes may have caused: nothing was sent, and the socket is unchanged.
pub(super) fn is_want(error: &io::Error) -> bool {
    let want = [
        Errno::TOOMANYREFS,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::NOBUFS,
    ];
    want.iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Data that arrived and was not taken yet.
#[derive(Default)]
pub(super) struct Inbox {
    decoder: Decoder,
    descriptors: VecDeque<OwnedFd>,
    /// For parts of long messages; made for the first of them.
    large: Vec<u8>,
    /// Bytes that were received last.
    received: usize,
    /// Some descriptors were lost, because this process had no room for them.
    is_cut: bool,
    /// The last sender, as the kernel states it if the socket was set up for that.
    speaker: Option<u32>,
}

impl Inbox {
    /// Receives once; `false` at the end of the stream. Descriptors that this process had
    /// no room for are reported by [`Inbox::take`].
    pub(super) fn receive(&mut self, socket: impl AsFd) -> io::Result<bool> {
        let mut small = [0; PIECE];
        let bytes = match self.decoder.missing() > PIECE {
            true => {
                self.large.resize(LARGE_PIECE, 0);
                &mut self.large[..]
            }
            false => &mut small[..],
        };
        let received = wrun_sys::receive(socket, bytes)?;
        self.received = received.bytes;
        self.descriptors.extend(received.descriptors);
        if self.descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::Error::other("too many descriptors at once"));
        }
        self.speaker = received.speaker.or(self.speaker);
        self.is_cut |= received.is_cut;
        self.decoder.push(&bytes[..received.bytes]);
        Ok(received.bytes > 0)
    }

    /// The next whole message; `None` until more arrives.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        self.decoder.next()
    }

    /// The greeting; `None` until it has arrived.
    fn hello(&mut self) -> Result<Option<Hello>, FrameError> {
        match self.decoder.take_raw::<{ Hello::LEN }>() {
            Some(bytes) => Hello::decode(&bytes).map(Some),
            None => Ok(None),
        }
    }

    /// The descriptor that came with the first message that was not handled yet.
    pub(super) fn take_one(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// The descriptors that the last message counted; or the error that this process had no
    /// room for them ([`is_want`]). One read ends with a message that has descriptors, and
    /// may begin with others that have none: more than were counted belong to a later
    /// message.
    pub(super) fn take(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        let here = self.descriptors.len();
        if here < count && std::mem::take(&mut self.is_cut) {
            self.descriptors.clear();
            return Err(Errno::MFILE.into());
        }
        if here < count || (here > count && self.decoder.is_empty()) {
            return Err(io::Error::other("not the descriptors that were counted"));
        }
        Ok(self.descriptors.drain(..count).collect())
    }
}

/// Sends a message at once, on a blocking socket.
pub(super) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let frame = wire::encode(message).map_err(io::Error::other)?;
    send_bytes(socket, &frame, descriptors)
}

/// As [`send`], for bytes that are not a frame, such as the greeting.
pub(super) fn send_bytes(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut sent = send_some(&socket, bytes, descriptors)?;
    while sent < bytes.len() {
        sent += send_some(&socket, &bytes[sent..], &[])?;
    }
    Ok(())
}

fn send_some(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    let flags = SendFlags::NOSIGNAL;
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Both halves of a connection, by a socket that does not block. The connection is closed when both
/// are dropped.
pub(super) fn split(socket: UnixStream) -> (Receiver, Sender) {
    let socket = Arc::new(OwnedFd::from(socket));
    let receiver = Receiver {
        watched: None,
        socket: socket.clone(),
        inbox: Inbox::default(),
        turn: Turn::new(),
    };
    let sender = Sender {
        socket,
        room: None,
        held: Vec::new(),
    };
    (receiver, sender)
}

/// The writing half of a connection.
pub(super) struct Sender {
    socket: Arc<OwnedFd>,
    /// Tells when there is room to write again. Made when there was none for the first time.
    room: Option<Watched>,
    /// Frames that are sent together with the next one.
    held: Vec<u8>,
}

impl Sender {
    /// Sends a frame; the descriptors go with its first byte.
    pub(super) async fn send(
        &mut self,
        frame: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        self.flush().await?;
        self.send_now(frame, descriptors).await
    }

    /// Holds a message back until the next one, or until [`Sender::flush`]: several small ones
    /// are then one write, and wake their reader once.
    pub(super) async fn hold(&mut self, message: &impl Serialize) -> io::Result<()> {
        let frame = wire::encode(message).map_err(io::Error::other)?;
        self.held.extend_from_slice(&frame);
        match self.held.len() < MAX_HELD {
            true => Ok(()),
            false => self.flush().await,
        }
    }

    /// Whether messages are held back.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Sends what is held back.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        self.send_now(&held, &[]).await
    }

    async fn send_now(&mut self, frame: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut sent = 0;
        while sent < frame.len() {
            let descriptors = if sent == 0 { descriptors } else { &[] };
            // Usually there is room; the event loop would have to be polled for it.
            match send_some(&self.socket, &frame[sent..], descriptors) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sent += self.send_later(&frame[sent..], descriptors).await?;
                }
                now => sent += now?,
            }
        }
        Ok(())
    }

    /// Sends something once there is room.
    async fn send_later(
        &mut self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<usize> {
        if self.room.is_none() {
            // The event loop takes a descriptor once, and it is the reader's.
            let twin = self.socket.try_clone();
            self.room = twin
                .and_then(|twin| wrun_sys::watch(Arc::new(twin), Interest::WRITABLE))
                .ok();
        }
        match &self.room {
            Some(room) => {
                let sending = room.async_io(Interest::WRITABLE, |room| {
                    send_some(room, bytes, descriptors)
                });
                sending.await
            }
            // This process has no descriptor left.
            None => {
                tokio::time::sleep(LOOK_AGAIN).await;
                match send_some(&self.socket, bytes, descriptors) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                    sent => sent,
                }
            }
        }
    }

    pub(super) fn frame(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
        wire::encode(message)
    }

    pub(super) async fn say(&mut self, message: &impl Serialize) -> io::Result<()> {
        if self.holds() {
            self.hold(message).await?;
            return self.flush().await;
        }
        let frame = wire::encode(message).map_err(io::Error::other)?;
        self.send(&frame, &[]).await
    }
}

/// The reading half of a connection.
pub(super) struct Receiver {
    /// From the first wait in an event loop on.
    watched: Option<Watched>,
    socket: Arc<OwnedFd>,
    inbox: Inbox,
    turn: Turn,
}

impl Receiver {
    /// The next message, from a sender that may send no descriptors. Cancel safe.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<T, ChannelError> {
        let message = self.next_with_descriptors().await?;
        if self.inbox.descriptors.is_empty() {
            Ok(message)
        } else {
            self.inbox.descriptors.clear();
            Err(ChannelError::Descriptors)
        }
    }

    /// The next message, whose descriptors are for [`Receiver::take`]. Cancel
    /// safe.
    pub(super) async fn next_with_descriptors<T: DeserializeOwned>(
        &mut self,
    ) -> Result<T, ChannelError> {
        loop {
            // Before anything is taken, which would be lost with this future.
            self.turn.give_way().await;
            if let Some(message) = self.inbox.next()? {
                self.turn.spend(0);
                return Ok(message);
            }
            self.more().await?;
            self.turn.spend(self.inbox.received);
        }
    }

    /// Whether a whole message has been read and not taken yet.
    pub(super) fn has_message(&self) -> bool {
        self.inbox.decoder.has_message()
    }

    /// The last sender, if its socket was set up for that: a process, by its number here.
    pub(super) fn speaker(&self) -> Option<u32> {
        self.inbox.speaker
    }

    /// Reads what has arrived already, without the event loop.
    pub(super) fn look(&mut self) {
        // An empty socket, the end or an error is left to the next read of a message.
        let _ = self.inbox.receive(&self.socket);
    }

    /// Whether nothing has arrived, neither unread data nor the end.
    pub(super) fn is_quiet(&self) -> bool {
        self.inbox.decoder.is_empty() && self.inbox.descriptors.is_empty() && !self.is_readable()
    }

    /// Whether something has arrived, or the other side has closed its end.
    pub(super) fn is_readable(&self) -> bool {
        let mut watched = [rustix::event::PollFd::new(
            &self.socket,
            rustix::event::PollFlags::IN,
        )];
        let now = rustix::event::Timespec::default();
        !matches!(rustix::event::poll(&mut watched, Some(&now)), Ok(0))
    }

    /// The greeting, which comes first.
    pub(super) async fn hello(&mut self) -> Result<Hello, ChannelError> {
        loop {
            if let Some(hello) = self.inbox.hello()? {
                return Ok(hello);
            }
            self.more().await?;
        }
    }

    /// The descriptors that the last message counted.
    pub(super) fn take(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        self.inbox.take(count)
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let inbox = &mut self.inbox;
        let watched = match &self.watched {
            Some(watched) => watched,
            None => {
                if direct::is_here(cx.waker()) {
                    match inbox.receive(&self.socket) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        received => return Poll::Ready(received),
                    }
                    if direct::awaits(cx.waker(), self.socket.as_fd()) {
                        return Poll::Pending;
                    }
                }
                let watched = wrun_sys::watch(self.socket.clone(), Interest::READABLE)?;
                self.watched.insert(watched)
            }
        };
        loop {
            let mut ready = ready!(watched.poll_read_ready(cx))?;
            if let Ok(received) = ready.try_io(|_| inbox.receive(&self.socket)) {
                return Poll::Ready(received);
            }
        }
    }

    async fn more(&mut self) -> Result<(), ChannelError> {
        let more = std::future::poll_fn(|cx| self.poll_more(cx)).await;
        match more {
            Ok(true) => Ok(()),
            Ok(false) => Err(ChannelError::Closed),
            // The error of a socket whose other end is gone with unread data.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Err(ChannelError::Closed)
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_arrive_with_their_message() {
        let (ours, theirs) = UnixStream::pair().expect("socket");
        let file = tempfile::tempfile().expect("file");
        send(&ours, &7_u32, &[]).expect("sends");
        send(&ours, &8_u32, &[file.as_fd(), file.as_fd()]).expect("sends");
        drop(ours);
        let mut inbox = Inbox::default();
        // Both at once: the first has none of the second's descriptors.
        assert!(inbox.receive(&theirs).expect("receives"));
        assert_eq!(inbox.next::<u32>(), Ok(Some(7)));
        assert_eq!(inbox.take(0).expect("none").len(), 0);
        assert_eq!(inbox.next::<u32>(), Ok(Some(8)));
        assert!(inbox.take(1).is_err());
        assert!(inbox.take(3).is_err());
        assert_eq!(inbox.take(2).expect("there").len(), 2);
        assert!(!inbox.receive(&theirs).expect("ends"));
    }

    /// More than fits into a socket, while the reader is slow, and descriptors in between.
    #[tokio::test]
    async fn what_does_not_fit_is_sent_when_there_is_room() {
        let (ours, theirs) = UnixStream::pair().expect("socket");
        for socket in [&ours, &theirs] {
            socket.set_nonblocking(true).expect("set");
        }
        let (_kept, mut sender) = split(ours);
        let (mut receiver, _keeps) = split(theirs);
        let file = tempfile::tempfile().expect("file");
        let sending = async {
            for number in 0..40_u8 {
                let frame = Sender::frame(&vec![number; 100_000]).expect("a frame");
                sender.send(&frame, &[file.as_fd()]).await.expect("sent");
            }
            sender.room.is_some()
        };
        let receiving = async {
            for number in 0..40_u8 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                let message: Vec<u8> = receiver.next_with_descriptors().await.expect("a message");
                assert_eq!(message, vec![number; 100_000]);
                assert_eq!(receiver.take(1).expect("its descriptor").len(), 1);
            }
        };
        let (has_waited, ()) = tokio::join!(sending, receiving);
        assert!(has_waited);
    }
}
