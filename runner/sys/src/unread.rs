//! Bytes that were sent over a socket and not received yet.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether bytes sent by this socket wait to be received. On a Unix socket the receiver's
/// memory counts as the sender's until then.
#[expect(unsafe_code, reason = "no safe call asks for it")]
pub fn has_unread(socket: BorrowedFd<'_>) -> bool {
    let mut bytes: libc::c_int = 0;
    // SAFETY: `TIOCOUTQ`, which is `SIOCOUTQ` for sockets, writes one `c_int` to the
    // pointer, which is to a local one. The descriptor is open.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    asked == 0 && bytes > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send,
        shutdown, socketpair,
    };
    use std::os::fd::AsFd;

    #[test]
    fn what_was_sent_is_unread_until_it_is_received() {
        let flags = SocketFlags::CLOEXEC;
        for lost in [false, true] {
            let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
            let (one, other) = pair.expect("sockets");
            assert!(!has_unread(one.as_fd()));
            for _ in 0..2 {
                send(&one, b"x", SendFlags::empty()).expect("sent");
            }
            shutdown(&one, Shutdown::Both).expect("shut");
            recv(&other, &mut [0; 8], RecvFlags::empty()).expect("received");
            assert!(has_unread(one.as_fd()));
            if lost {
                drop(other);
            } else {
                recv(&other, &mut [0; 8], RecvFlags::empty()).expect("received");
            }
            assert!(!has_unread(one.as_fd()));
        }
    }
}
