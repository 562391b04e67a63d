//! Frames and descriptors over a Unix socket: both ends of the connections between a runner
//! and its processes.
//!
//! Descriptors are attached to the first byte of the frame that counts them, so they arrive
//! with it. Invariants: no more descriptors are kept than one message may bring, and
//! descriptors that no frame counted are a violation; reading frames that never end yields
//! to other tasks.

use crate::wire::{self, Decoder, FrameError, Hello};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use wrun_sandbox::turn::Turn;

/// Maximum of descriptors that one message may bring; the kernel's own limit is 253.
pub(super) const MAX_DESCRIPTORS: usize = 160;
/// Maximum of bytes that are received at a time.
const PIECE: usize = 8192;
/// The same within a message that is known to be longer.
const LARGE_PIECE: usize = 64 << 10;
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

/// The writing half of a connection.
pub(super) struct Sender {
    half: Option<OwnedWriteHalf>,
    /// Frames that are sent together with the next one.
    held: Vec<u8>,
}

impl Drop for Sender {
    fn drop(&mut self) {
        if let Some(half) = self.half.take() {
            // Both halves are dropped together: closing the socket has the effect of shutting
            // it down.
            half.forget();
        }
    }
}

impl Sender {
    pub(super) fn new(half: OwnedWriteHalf) -> Self {
        Sender {
            half: Some(half),
            held: Vec::new(),
        }
    }

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
        let Some(half) = &mut self.half else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if frame.is_empty() {
            return Ok(());
        }
        let stream: &tokio::net::UnixStream = half.as_ref();
        // Usually there is room; the event loop would have to be polled for it.
        let sent = match send_some(stream, frame, descriptors) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stream
                    .async_io(Interest::WRITABLE, || send_some(stream, frame, descriptors))
                    .await?
            }
            sent => sent?,
        };
        if sent == frame.len() {
            return Ok(());
        }
        half.write_all(&frame[sent..]).await
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
    half: OwnedReadHalf,
    inbox: Inbox,
    turn: Turn,
}

impl Receiver {
    pub(super) fn new(half: OwnedReadHalf) -> Self {
        Receiver {
            half,
            inbox: Inbox::default(),
            turn: Turn::new(),
        }
    }

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
        let _ = self.inbox.receive(self.half.as_ref());
    }

    /// Whether nothing has arrived, neither unread data nor the end.
    pub(super) fn is_quiet(&self) -> bool {
        self.inbox.decoder.is_empty() && self.inbox.descriptors.is_empty() && !self.is_readable()
    }

    /// Whether something has arrived, or the other side has closed its end.
    pub(super) fn is_readable(&self) -> bool {
        let stream = self.half.as_ref();
        let mut watched = [rustix::event::PollFd::new(
            stream,
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

    async fn more(&mut self) -> Result<(), ChannelError> {
        let stream = self.half.as_ref();
        let inbox = &mut self.inbox;
        let more = stream
            .async_io(Interest::READABLE, || inbox.receive(stream))
            .await;
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
    use std::os::unix::net::UnixStream;

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
}
