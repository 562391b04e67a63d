//! What a worker that was taken over does with a region that it was sent: in raw system
//! calls, on the descriptor that other processes have as well. Only in builds for tests.

use super::inject::{Open, PAGE, call};
use std::io;

/// An attempt on a region's descriptor, and the function that makes it.
type Trick = (&'static str, fn(usize) -> io::Result<usize>);

const WHOLE: usize = 4096;

/// Each would take something from other holders if it succeeded.
const TRICKS: &[Trick] = &[
    ("punch", |fd| {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        call(libc::SYS_fallocate, [fd, mode as usize, 0, WHOLE, 0, 0])
    }),
    ("zero-range", |fd| {
        let mode = libc::FALLOC_FL_ZERO_RANGE as usize;
        call(libc::SYS_fallocate, [fd, mode, 0, WHOLE, 0, 0])
    }),
    ("collapse-range", |fd| {
        let mode = libc::FALLOC_FL_COLLAPSE_RANGE as usize;
        call(libc::SYS_fallocate, [fd, mode, 0, WHOLE, 0, 0])
    }),
    ("remove", |fd| {
        let at = map(fd)?;
        call(
            libc::SYS_madvise,
            [at, PAGE, libc::MADV_REMOVE as usize, 0, 0, 0],
        )
    }),
    ("append", |fd| set_flags(fd, libc::O_APPEND)),
    ("async", |fd| set_flags(fd, libc::O_ASYNC)),
    ("direct", |fd| set_flags(fd, libc::O_DIRECT)),
    ("no-access-time", |fd| set_flags(fd, libc::O_NOATIME)),
    ("append-and-not-wait", |fd| {
        set_flags(fd, libc::O_APPEND | libc::O_NONBLOCK)
    }),
    ("truncate", |fd| {
        call(libc::SYS_ftruncate, [fd, 0, 0, 0, 0, 0])
    }),
    ("grow", |fd| {
        call(libc::SYS_ftruncate, [fd, 1 << 30, 0, 0, 0, 0])
    }),
    ("seal-writes-to-come", |fd| {
        fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE)
    }),
    ("seal-writes", |fd| {
        fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_WRITE)
    }),
    ("seal-seals", |fd| {
        fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SEAL)
    }),
    ("owner", |fd| fcntl(fd, libc::F_SETOWN, 1)),
    ("lease", |fd| fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK)),
    ("lock", |fd| {
        call(
            libc::SYS_flock,
            [
                fd,
                libc::LOCK_EX as usize | libc::LOCK_NB as usize,
                0,
                0,
                0,
                0,
            ],
        )
    }),
    ("mode", |fd| call(libc::SYS_fchmod, [fd, 0, 0, 0, 0, 0])),
    ("owner-of-file", |fd| {
        call(libc::SYS_fchown, [fd, 1, 1, 0, 0, 0])
    }),
    ("attribute", |fd| {
        let name = c"user.x".as_ptr() as usize;
        call(libc::SYS_fsetxattr, [fd, name, name, 1, 0, 0])
    }),
    ("copy-range", |fd| {
        call(libc::SYS_copy_file_range, [fd, 0, fd, 0, 1, 0])
    }),
    ("send-file", |fd| {
        call(libc::SYS_sendfile, [fd, fd, 0, 1, 0, 0])
    }),
    ("splice", |fd| call(libc::SYS_splice, [fd, 0, fd, 0, 1, 0])),
    ("open-anew", |fd| {
        let path = super::inject::path_of(&format!("/proc/self/fd/{fd}"))?;
        let args = [
            super::inject::CWD,
            path.as_ptr() as usize,
            libc::O_RDWR as usize,
            0,
            0,
            0,
        ];
        call(libc::SYS_openat, args)
    }),
];

fn fcntl(fd: usize, command: i32, value: i32) -> io::Result<usize> {
    let args = [fd, command as usize, value as usize, 0, 0, 0];
    call(libc::SYS_fcntl, args)
}

fn set_flags(fd: usize, flags: i32) -> io::Result<usize> {
    fcntl(fd, libc::F_SETFL, libc::O_RDWR | flags)
}

/// The first page, shared.
fn map(fd: usize) -> io::Result<usize> {
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    let shared = libc::MAP_SHARED as usize;
    call(libc::SYS_mmap, [0, PAGE, prot, shared, fd, 0])
}

/// A packet of one message, with its descriptors.
struct Packet {
    socket: usize,
    bytes: Vec<u8>,
    fds: Vec<Open>,
}

/// Whether a descriptor is readable within this many milliseconds.
fn readable(fd: usize, patience: i64) -> bool {
    let mut poll = libc::pollfd {
        fd: fd as i32,
        events: libc::POLLIN,
        revents: 0,
    };
    let time = libc::timespec {
        tv_sec: patience / 1000,
        tv_nsec: patience % 1000 * 1_000_000,
    };
    let args = [&raw mut poll as usize, 1, &raw const time as usize, 0, 0, 0];
    call(libc::SYS_ppoll, args).is_ok_and(|ready| ready > 0)
}

/// The socket for messages of the port that the task was given.
fn messages() -> io::Result<usize> {
    let kind = |fd: usize| {
        let (mut kind, mut len) = (0_i32, 4_u32);
        let args = [
            fd,
            libc::SOL_SOCKET as usize,
            libc::SO_TYPE as usize,
            &raw mut kind as usize,
            &raw mut len as usize,
            0,
        ];
        call(libc::SYS_getsockopt, args).map(|_| kind)
    };
    (3..1024)
        .find(|fd| kind(*fd).is_ok_and(|kind| kind == libc::SOCK_SEQPACKET))
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOTSOCK))
}

/// Buffers of a message that is received or sent.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    fds: [i32; 16],
}

/// Moves one packet through a socket, with its descriptors.
fn transfer(
    number: libc::c_long,
    socket: usize,
    bytes: &mut [u8],
    control: &mut Control,
    len: usize,
) -> io::Result<(usize, usize)> {
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut message = [0_usize; 7];
    message[2] = &raw mut part as usize;
    message[3] = 1;
    message[4] = if len > 0 {
        control as *mut Control as usize
    } else {
        0
    };
    message[5] = len;
    let at = message.as_mut_ptr() as usize;
    let moved = call(number, [socket, at, 0, 0, 0, 0])?;
    Ok((moved, message[5]))
}

fn control() -> Control {
    Control {
        header: libc::cmsghdr {
            cmsg_len: 0,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        },
        fds: [-1; 16],
    }
}

/// The next message of the task's port.
fn receive() -> io::Result<Packet> {
    let socket = messages()?;
    if !readable(socket, 60_000) {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    let mut bytes = vec![0; 4096];
    let mut control = control();
    let (got, _) = transfer(
        libc::SYS_recvmsg,
        socket,
        &mut bytes,
        &mut control,
        size_of::<Control>(),
    )?;
    bytes.truncate(got);
    let fds = control.fds.iter().filter(|fd| **fd >= 0);
    Ok(Packet {
        socket,
        bytes,
        fds: fds.map(|fd| Open(*fd as usize)).collect(),
    })
}

impl Packet {
    /// Sends the packet back to its sender.
    fn echo(&mut self) -> io::Result<()> {
        let mut control = control();
        for (to, fd) in control.fds.iter_mut().zip(&self.fds) {
            *to = fd.0 as i32;
        }
        let len = size_of::<libc::cmsghdr>() + 4 * self.fds.len();
        control.header.cmsg_len = len as _;
        let socket = self.socket;
        transfer(
            libc::SYS_sendmsg,
            socket,
            &mut self.bytes,
            &mut control,
            len,
        )
        .map(drop)
    }

    fn region(&self) -> io::Result<usize> {
        let region = self.fds.first();
        region
            .map(|fd| fd.0)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

/// Makes every attempt on a region that comes in a message: the errors, by name.
pub(super) fn tricks(_: &str) -> io::Result<String> {
    let packet = receive()?;
    let region = packet.region()?;
    let tried = TRICKS.iter().map(|(name, trick)| {
        let said = match trick(region) {
            Ok(_) => "done".to_owned(),
            Err(error) => error.raw_os_error().unwrap_or(0).to_string(),
        };
        format!("{name}={said}")
    });
    Ok(tried.collect::<Vec<_>>().join(" "))
}

/// Sends a region back and keeps it: `mapping` or `descriptor`; or `nothing`. What is kept
/// is written to until another message comes. With `seal`, it first seals the file against
/// other writers.
pub(super) fn keeps(what: &str) -> io::Result<String> {
    let mut packet = receive()?;
    let region = packet.region()?;
    let at = match what {
        "mapping" => Some(map(region)?),
        _ => None,
    };
    if what == "seal" {
        fcntl(region, libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE)?;
    }
    packet.echo()?;
    if matches!(what, "mapping" | "nothing") {
        packet.fds.clear();
    }
    let mut count = 0_u64;
    while !count.is_multiple_of(64) || !readable(packet.socket, 0) {
        count += 1;
        let bytes = count.to_le_bytes();
        match (at, what) {
            (Some(at), _) => scribble(at, count),
            (None, "descriptor") => {
                let from = bytes.as_ptr() as usize;
                call(libc::SYS_pwrite64, [region, from, 8, 0, 0, 0])?;
            }
            _ => drop(readable(packet.socket, 10)),
        }
    }
    Ok(format!("wrote {count} times"))
}

#[expect(unsafe_code, reason = "memory is written to by address")]
fn scribble(at: usize, value: u64) {
    // SAFETY: the caller has mapped this page for writing, and has no reference to it.
    unsafe { std::ptr::write_volatile(at as *mut u64, value) }
}
