//! A descriptor that reads as empty and discards what is written.

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use std::io;
use std::os::fd::OwnedFd;

/// `/dev/null`; if it does not exist (a container, a chroot), the read end of a pipe
/// without a writer: writing to it is an error (`EBADF`), which standard libraries ignore
/// for stdout and stderr.
///
/// # Errors
///
/// No descriptors are left.
pub fn null() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open("/dev/null", flags, Mode::empty()) {
        Ok(null) => Ok(null),
        Err(_) => ended(),
    }
}

fn ended() -> io::Result<OwnedFd> {
    let (reader, _writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn it_is_empty_with_a_device_or_without() {
        let without = ended().expect("a pipe");
        for null in [&null().expect("a descriptor"), &without] {
            assert_eq!(rustix::io::read(null, &mut [0; 8]), Ok(0));
        }
        assert_eq!(rustix::io::write(&without, b"x"), Err(Errno::BADF));
    }
}
