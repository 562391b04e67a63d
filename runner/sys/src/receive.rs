//! Receiving from a Unix socket: bytes, descriptors, and the sender.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Room for the control messages: 253 descriptors, the kernel's own limit, and the sender.
const CONTROL: usize = 1280;

/// What one call received, except for the bytes.
pub struct Received {
    pub bytes: usize,
    pub descriptors: Vec<OwnedFd>,
    /// There were more control messages than there was room for.
    pub is_cut: bool,
    /// The process that sent it, by its number here, as the kernel states it if the socket
    /// was set up for that. `None` for a process without a number here.
    pub speaker: Option<u32>,
}

#[repr(align(8))]
struct Control([u8; CONTROL]);

/// Receives once, into `bytes`. Descriptors are closed in programs that this one starts.
///
/// # Errors
///
/// As `recvmsg(2)`.
// Not rustix's function: it reads the sender as a number that is not zero, which the number
// of a process in another namespace is.
#[expect(unsafe_code, reason = "no safe recvmsg reports the sender")]
pub fn receive(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<Received> {
    let mut control = Control([0; CONTROL]);
    let mut into = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all zeroes are an empty `msghdr`.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut into;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL as _;
    // SAFETY: the header's pointers are to local buffers of the lengths that it states.
    let received = unsafe {
        libc::recvmsg(
            socket.as_fd().as_raw_fd(),
            &raw mut header,
            libc::MSG_CMSG_CLOEXEC,
        )
    };
    let mut received = Received {
        bytes: usize::try_from(received).map_err(|_| io::Error::last_os_error())?,
        descriptors: Vec::new(),
        is_cut: header.msg_flags & libc::MSG_CTRUNC != 0,
        speaker: None,
    };
    // SAFETY: the kernel filled the header, whose control buffer is aligned and still
    // alive; `CMSG_NXTHDR` stays within it.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: a header that the kernel wrote, with `cmsg_len` bytes from its own beginning
        // on, which are within the buffer. The descriptors are new and owned here.
        unsafe {
            let of = (*message).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    let data = data.cast::<libc::c_int>();
                    for at in 0..of / size_of::<libc::c_int>() {
                        let fd = data.add(at).read_unaligned();
                        received.descriptors.push(OwnedFd::from_raw_fd(fd));
                    }
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if of >= size_of::<libc::ucred>() => {
                    let who = data.cast::<libc::ucred>().read_unaligned();
                    received.speaker = u32::try_from(who.pid).ok().filter(|pid| *pid > 0);
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_kernel_says_who_sends() {
        let (mut ours, theirs) = UnixStream::pair().expect("socket");
        let mut bytes = [0; 8];
        ours.write_all(b"who").expect("sends");
        let before = receive(&theirs, &mut bytes).expect("receives");
        assert_eq!((before.bytes, before.speaker), (3, None));
        sockopt::set_socket_passcred(&theirs, true).expect("asked");
        ours.write_all(b"me").expect("sends");
        let after = receive(&theirs, &mut bytes).expect("receives");
        assert_eq!((after.bytes, after.speaker), (2, Some(std::process::id())));
        assert!(after.descriptors.is_empty() && !after.is_cut);
        drop(ours);
        assert_eq!(receive(&theirs, &mut bytes).expect("ends").bytes, 0);
    }
}
