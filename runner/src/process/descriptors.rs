//! How a worker gets its descriptors: over a socket that it finds as its stdin.
//!
//! Giving a child more than its three streams otherwise needs code between fork
//! and exec, and with that a fork that copies the runner's page tables and makes
//! it copy every page it then writes. A start without such code shares the memory
//! until exec. Invariant: a worker starts with all of its descriptors or none.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Descriptors in one message, at most.
const MOST: usize = 8;

/// A message that carries descriptors carries a byte at least.
const BYTE: [u8; 1] = [0];

/// Leaves descriptors in a socket for the worker that will have its other end.
pub(super) fn send<const N: usize>(
    socket: impl AsFd,
    descriptors: [BorrowedFd<'_>; N],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    sendmsg(
        socket,
        &[IoSlice::new(&BYTE)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Takes what was sent, exactly; all are closed on exec.
pub(super) fn receive<const N: usize>(socket: impl AsFd) -> io::Result<[OwnedFd; N]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = BYTE;
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let received: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    received
        .try_into()
        .map_err(|_| io::Error::other("not the descriptors of a worker"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_was_sent_arrives_in_order() {
        let (ours, theirs) = UnixStream::pair().expect("socket");
        let (mut out, input) = io::pipe().expect("pipe");
        let file = tempfile::tempfile().expect("file");
        let others = file.as_fd();
        send(&ours, [others, input.as_fd(), others, others]).expect("sends");
        drop((ours, input));
        let [_, input, _, _] = receive(&theirs).expect("arrive");
        io::PipeWriter::from(input)
            .write_all(b"through")
            .expect("writes");
        let mut text = String::new();
        out.read_to_string(&mut text).expect("reads");
        assert_eq!(text, "through");
    }

    #[test]
    fn a_stdin_without_descriptors_is_refused() {
        let (mut ours, theirs) = UnixStream::pair().expect("socket");
        ours.write_all(b"x").expect("writes");
        assert!(receive::<4>(&theirs).is_err());
        drop(ours);
        assert!(receive::<4>(&theirs).is_err());
        let file = tempfile::tempfile().expect("file");
        assert!(receive::<4>(&file).is_err());
    }
}
