//! What the host's code in a worker could do after an attacker took it over, beyond the
//! actions that every build has ([`act`](super::inject)): in raw system calls, with their
//! results. Only in builds for tests.
//!
//! An action must not harm the machine even if nothing stops it: signals are number 0,
//! memory is mapped and hardly touched, mounts are made in a separate namespace.

use super::inject::{
    self, CWD, LOOPBACK, Open, PAGE, attach, call, loopback, map, may_signal, new_socket, open,
    own, path_of, touch, write,
};
use std::io;

/// The result of a probe as text; or how it was refused.
type Tried = io::Result<String>;

type Act = fn(&str) -> Tried;

/// The probes by name. The text after a colon in a request is their argument.
const PROBES: &[(&str, Act)] = &[
    // Files.
    ("read", read_path),
    ("read2", read_path_2),
    ("write", write_path),
    ("list", list_path),
    ("stat", stat_path),
    ("touch", touch_path),
    ("chmod", chmod_path),
    ("chown", chown_path),
    ("parent-memory-file", parent_memory_file),
    ("own-memory-file", own_memory_file),
    ("file-handle", file_handle),
    ("device-node", device_node),
    ("fill-disk", fill_disk),
    ("memory-file", memory_file),
    // The network and other sockets.
    ("socket-unix", |_| {
        socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)
    }),
    ("socket-netlink", |_| {
        socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)
    }),
    ("socket-raw", |_| {
        socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)
    }),
    ("socket-packet", |_| {
        socket(libc::AF_PACKET, libc::SOCK_RAW, 0)
    }),
    ("socket-vsock", |_| {
        socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)
    }),
    ("socket-crypto", |_| {
        socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)
    }),
    ("socket-udp", |_| socket(libc::AF_INET, libc::SOCK_DGRAM, 0)),
    ("socket-tcp", |_| {
        socket(libc::AF_INET, libc::SOCK_STREAM, 0)
    }),
    ("socket-pair", socket_pair),
    ("connect-abstract", connect_abstract),
    ("connect-tcp", connect_tcp),
    ("fast-open-tcp", fast_open_tcp),
    ("send-udp", send_udp),
    ("listen", |_| listen(true)),
    ("listen-unbound", |_| listen(false)),
    // Processes.
    ("fork", |_| forks(1)),
    ("fork-bomb", |_| forks(200)),
    ("clone3", clone3),
    ("spawn", spawn),
    ("thread", thread),
    ("exec", exec),
    ("exec-memory-file", exec_memory_file),
    ("exec-descriptor", exec_descriptor),
    ("ptrace-parent", ptrace_parent),
    ("signal-parent", |_| signal(parent())),
    ("signal-group", |_| signal(0)),
    ("signal-all", |_| signal(-1)),
    ("signal-siblings", |_| any(siblings(), signal)),
    ("signal-thread", signal_thread),
    ("signal-queue", signal_queue),
    ("signal-pidfd", signal_pidfd),
    ("memory-of-parent", |_| read_memory(parent())),
    ("memory-of-siblings", |_| any(siblings(), read_memory)),
    ("descriptor-of-parent", descriptor_of_parent),
    ("limits-of-parent", limits_of_parent),
    ("session", |_| {
        done(call(libc::SYS_setsid, [0; 6]), "a session")
    }),
    ("process-group", |_| {
        done(call(libc::SYS_setpgid, [0; 6]), "a process group")
    }),
    ("terminal", |_| {
        done(
            call(libc::SYS_ioctl, [0, libc::TIOCSTI as usize, 0, 0, 0, 0]),
            "typed",
        )
    }),
    // Rights.
    ("user-namespace", |_| unshare(libc::CLONE_NEWUSER)),
    ("net-namespace", |_| unshare(libc::CLONE_NEWNET)),
    ("enter-namespace", enter_namespace),
    ("mount", mount),
    ("chroot", chroot),
    ("become-root", |_| {
        done(call(libc::SYS_setuid, [0; 6]), "user 0")
    }),
    ("personality", personality),
    ("raise-limit", raise_limit),
    ("priority", priority),
    ("dumpable", |_| prctl(libc::PR_SET_DUMPABLE, 1)),
    ("forget-parent", |_| prctl(libc::PR_SET_PDEATHSIG, 0)),
    ("filter", filter),
    ("keys", keys),
    ("bpf", bpf),
    ("io-uring", io_uring),
    ("userfaultfd", |_| {
        opened(call(
            libc::SYS_userfaultfd,
            [libc::O_CLOEXEC as usize, 0, 0, 0, 0, 0],
        ))
    }),
    ("perf", perf),
    ("kernel-log", |_| {
        done(call(libc::SYS_syslog, [10, 0, 0, 0, 0, 0]), "its size")
    }),
    ("host-name", host_name),
    #[cfg(target_arch = "x86_64")]
    ("x32-call", |_| {
        done(call(0x4000_0000 + libc::SYS_getpid, [0; 6]), "a call")
    }),
    #[cfg(target_arch = "x86_64")]
    ("i386-call", i386_call),
    // Memory.
    ("map-code", map_code),
    ("make-code", |_| make_code(libc::SYS_mprotect)),
    ("make-code-with-key", |_| make_code(libc::SYS_pkey_mprotect)),
    ("memory", |_| memory(libc::MAP_PRIVATE, true)),
    ("memory-shared", |_| memory(libc::MAP_SHARED, true)),
    ("memory-as-stack", |_| {
        memory(libc::MAP_PRIVATE | libc::MAP_GROWSDOWN, true)
    }),
    ("memory-made-writable", |_| memory(libc::MAP_PRIVATE, false)),
    ("stack", stack),
    ("page-tables", page_tables),
    ("mappings", mappings),
    ("descriptors", descriptors),
    ("pipes", pipes),
    ("socket-buffers", socket_buffers),
    ("hoard-descriptors", hoard_descriptors),
    // Regions.
    ("region-tricks", super::keeper::tricks),
    ("region-keep", super::keeper::keeps),
    // Inherited state.
    ("environment", environment),
    ("open-descriptors", open_descriptors),
    ("write-streams", write_streams),
    ("fill-streams", fill_streams),
    ("send-descriptors", send_descriptors),
    ("send-rubbish", send_rubbish),
    // Endings.
    ("nothing", |_| Ok("nothing".into())),
    ("abort", |_| std::process::abort()),
    ("panic", |words| panic!("{words}")),
    // A panic that is not caught.
    ("panic-outside", |words| {
        let _ = std::panic::catch_unwind(|| panic!("{words}"));
        super::exit_now(101)
    }),
    ("say", |words| {
        say(words);
        std::process::abort()
    }),
    ("say-much", |words| {
        say(&words.repeat(100_000));
        Ok("said".into())
    }),
    ("segfault", segfault),
    ("oom-kill", oom_kill),
    ("illegal", illegal),
    ("overflow", |_| Ok(overflow(0).to_string())),
    ("exit", |_| super::exit_now(7)),
    ("exit-well", |_| super::exit_now(0)),
    ("stop", stop),
    ("spin", |_| spin()),
    ("sleep", |_| sleep()),
    ("silent", silent),
    ("linger", linger),
];

/// Runs the probe that `request` names, and returns its result: `did it: ...`, or `refused:
/// ...` with the system's error. It may not return.
pub fn probe(request: &str) -> String {
    let (name, argument) = request.split_once(':').unwrap_or((request, ""));
    let Some((_, act)) = PROBES.iter().find(|(known, _)| *known == name) else {
        return format!("there is no probe {name}");
    };
    match act(argument) {
        Ok(what) => format!("did it: {what}"),
        Err(error) => format!("refused: {}", name_of(&error)),
    }
}

fn name_of(error: &io::Error) -> String {
    let name = match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM",
        Some(libc::EACCES) => "EACCES",
        Some(libc::ENOENT) => "ENOENT",
        Some(libc::ENOSYS) => "ENOSYS",
        Some(libc::ENOMEM) => "ENOMEM",
        Some(libc::EINVAL) => "EINVAL",
        Some(libc::ESRCH) => "ESRCH",
        Some(libc::EFBIG) => "EFBIG",
        Some(libc::EMFILE) => "EMFILE",
        Some(libc::EAGAIN) => "EAGAIN",
        Some(libc::EROFS) => "EROFS",
        Some(libc::ENETUNREACH) => "ENETUNREACH",
        Some(libc::ECONNREFUSED) => "ECONNREFUSED",
        _ => return error.to_string(),
    };
    name.into()
}

// --- building blocks ------------------------------------------------------

fn done(result: io::Result<usize>, what: &str) -> Tried {
    result.map(|_| what.into())
}

fn opened(result: io::Result<usize>) -> Tried {
    result.map(|descriptor| {
        drop(Open(descriptor));
        "opened".into()
    })
}

/// The parent; if it has no number here, the next number that a process would get.
fn parent() -> i32 {
    match call(libc::SYS_getppid, [0; 6]) {
        Ok(0) | Err(_) => own() + 1,
        Ok(pid) => pid as i32,
    }
}

/// The other workers of this one's zygote, as far as `/proc` shows them; otherwise all
/// small numbers, which they have in a namespace.
fn siblings() -> Vec<i32> {
    let parent = parent();
    let known = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let pids: Vec<i32> = match known {
        Ok(list) if !list.is_empty() => list
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect(),
        _ => (2..200).collect(),
    };
    pids.into_iter().filter(|pid| *pid != own()).collect()
}

/// Tries all; returns the first success, or the first refusal other than that the process
/// does not exist.
fn any(pids: Vec<i32>, act: impl Fn(i32) -> Tried) -> Tried {
    let mut refused = io::Error::from_raw_os_error(libc::ESRCH);
    for pid in pids {
        match act(pid) {
            Ok(did) => return Ok(did),
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => refused = error,
            Err(_) => {}
        }
    }
    Err(refused)
}

#[expect(unsafe_code, reason = "memory is touched by address")]
fn scribble(at: usize) {
    // SAFETY: the callers have mapped this address for writing, and nothing else
    // uses it.
    unsafe { std::ptr::write_volatile(at as *mut u8, 1) }
}

/// The open descriptors and their kinds.
fn kinds() -> Vec<(usize, libc::mode_t)> {
    (0..4096)
        .filter_map(|descriptor| {
            let stat = stat_of(descriptor).ok()?;
            Some((descriptor, stat.st_mode & libc::S_IFMT))
        })
        .collect()
}

#[expect(unsafe_code, reason = "a structure that the kernel fills")]
fn stat_of(descriptor: usize) -> io::Result<libc::stat> {
    // SAFETY: all zeroes are a valid `stat`.
    let mut stat = unsafe { std::mem::zeroed::<libc::stat>() };
    let at = &raw mut stat as usize;
    call(libc::SYS_fstat, [descriptor, at, 0, 0, 0, 0])?;
    Ok(stat)
}

// --- files ----------------------------------------------------------------

fn read_path(path: &str) -> Tried {
    Ok(format!("{} bytes", inject::read_file(path)?.len()))
}

fn read_path_2(path: &str) -> Tried {
    let path = path_of(path)?;
    let how = [libc::O_CLOEXEC as u64, 0, 0];
    let at = how.as_ptr() as usize;
    let path = path.as_ptr() as usize;
    let file = call(libc::SYS_openat2, [CWD, path, at, 24, 0, 0]).map(Open)?;
    Ok(format!("{} bytes", inject::read(&file)?.len()))
}

fn write_path(path: &str) -> Tried {
    Ok(format!("{} bytes", inject::write_file(path, 0)?))
}

fn list_path(path: &str) -> Tried {
    let directory = open(path, libc::O_RDONLY | libc::O_DIRECTORY)?;
    let mut entries = [0_u64; 512];
    let at = entries.as_mut_ptr() as usize;
    let read = call(libc::SYS_getdents64, [directory.0, at, 4096, 0, 0, 0])?;
    Ok(format!("{read} bytes of names"))
}

/// With the flag for an open descriptor, which does not prevent a path from being followed.
fn stat_path(path: &str) -> Tried {
    let path = path_of(path)?;
    let mut statx = [0_u64; 32];
    let (path, at) = (path.as_ptr() as usize, statx.as_mut_ptr() as usize);
    let flags = libc::AT_EMPTY_PATH as usize;
    call(libc::SYS_statx, [CWD, path, flags, 0x7ff, at, 0])?;
    Ok(format!("it has {} bytes", statx[5]))
}

fn touch_path(path: &str) -> Tried {
    let path = path_of(path)?;
    let times: [i64; 4] = [1, 0, 1, 0];
    let (path, at) = (path.as_ptr() as usize, times.as_ptr() as usize);
    done(
        call(libc::SYS_utimensat, [CWD, path, at, 0, 0, 0]),
        "its time is 1970",
    )
}

fn chmod_path(path: &str) -> Tried {
    let path = path_of(path)?;
    let path = path.as_ptr() as usize;
    done(
        call(libc::SYS_fchmodat, [CWD, path, 0o600, 0, 0, 0]),
        "its mode is another",
    )
}

fn chown_path(path: &str) -> Tried {
    let path = path_of(path)?;
    let path = path.as_ptr() as usize;
    let (user, group) = (
        rustix::process::geteuid().as_raw() as usize,
        rustix::process::getegid().as_raw() as usize,
    );
    done(
        call(libc::SYS_fchownat, [CWD, path, user, group, 0, 0]),
        "its owner is set",
    )
}

fn parent_memory_file(_: &str) -> Tried {
    let file = open(&format!("/proc/{}/mem", parent()), libc::O_RDWR)?;
    let mut byte = 0_u8;
    let at = &raw mut byte as usize;
    let where_ = PROBES.as_ptr() as usize;
    done(
        call(libc::SYS_pread64, [file.0, at, 1, where_, 0, 0]),
        "opened for writing and read",
    )
}

/// Bypasses the rights of mappings: it would make code writable.
fn own_memory_file(_: &str) -> Tried {
    let file = open("/proc/self/mem", libc::O_RDWR)?;
    let byte = 0_u8;
    let at = &raw const byte as usize;
    done(
        call(libc::SYS_pwrite64, [file.0, at, 1, at, 0, 0]),
        "written",
    )
}

fn file_handle(_: &str) -> Tried {
    let path = path_of("/etc/passwd")?;
    let path = path.as_ptr() as usize;
    let mut handle = [0_u32; 34];
    handle[0] = 128;
    let mut mount = 0_i32;
    let (at, mount) = (handle.as_mut_ptr() as usize, &raw mut mount as usize);
    call(libc::SYS_name_to_handle_at, [CWD, path, at, mount, 0, 0])?;
    opened(call(libc::SYS_open_by_handle_at, [CWD, at, 0, 0, 0, 0]))
}

fn device_node(path: &str) -> Tried {
    let path = path_of(path)?;
    let (path, mode) = (path.as_ptr() as usize, (libc::S_IFCHR | 0o600) as usize);
    done(
        call(libc::SYS_mknodat, [CWD, path, mode, 0x103, 0, 0]),
        "made",
    )
}

/// A file without a name, which is removed when its descriptor is closed.
fn fill_disk(_: &str) -> Tried {
    let mut refused = io::Error::from_raw_os_error(libc::ENOENT);
    for place in [".", "/tmp", "/var/tmp", "/dev/shm", "/"] {
        let result = open(place, libc::O_RDWR | libc::O_TMPFILE)
            .and_then(|file| write(file.0, &[0; 1 << 16]));
        match result {
            Ok(bytes) => return Ok(format!("{bytes} bytes in {place}")),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn memory_file(_: &str) -> Tried {
    let name = c"probe".as_ptr() as usize;
    let file = call(libc::SYS_memfd_create, [name, 1, 0, 0, 0, 0]).map(Open)?;
    Ok(format!("{} bytes", write(file.0, &[0; 1 << 16])?))
}

// --- sockets --------------------------------------------------------------

/// Writes to stderr.
fn say(words: &str) {
    use std::io::Write;
    let _ = io::stderr().write_all(words.as_bytes());
}

fn socket(family: i32, kind: i32, protocol: i32) -> Tried {
    new_socket(family, kind, protocol).map(|_| "a socket".into())
}

fn socket_pair(_: &str) -> Tried {
    let mut pair = [0_i32; 2];
    let (family, kind) = (libc::AF_UNIX as usize, libc::SOCK_STREAM as usize);
    let at = pair.as_mut_ptr() as usize;
    call(libc::SYS_socketpair, [family, kind, 0, at, 0, 0])?;
    drop(pair.map(|descriptor| Open(descriptor as usize)));
    Ok("a pair".into())
}

fn port_of(text: &str) -> io::Result<u16> {
    text.parse().map_err(io::Error::other)
}

fn connect_tcp(port: &str) -> Tried {
    let port = port_of(port)?;
    inject::connect(&inject::tcp_socket()?, port)?;
    Ok("connected".into())
}

fn fast_open_tcp(port: &str) -> Tried {
    let address = loopback(port_of(port)?);
    let socket = new_socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let (at, data) = (&raw const address as usize, b"hello".as_ptr() as usize);
    let flags = libc::MSG_FASTOPEN as usize;
    done(
        call(libc::SYS_sendto, [socket.0, data, 5, flags, at, LOOPBACK]),
        "connected and sent",
    )
}

fn send_udp(port: &str) -> Tried {
    let address = loopback(port_of(port)?);
    let socket = new_socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let (at, data) = (&raw const address as usize, b"hello".as_ptr() as usize);
    done(
        call(libc::SYS_sendto, [socket.0, data, 5, 0, at, LOOPBACK]),
        "sent",
    )
}

fn connect_abstract(name: &str) -> Tried {
    let socket = new_socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let mut address = vec![0_u8; 3];
    address[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    address.extend(name.as_bytes());
    let at = address.as_ptr() as usize;
    done(
        call(libc::SYS_connect, [socket.0, at, address.len(), 0, 0, 0]),
        "connected",
    )
}

fn listen(bound: bool) -> Tried {
    let address = loopback(0);
    let socket = new_socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    if bound {
        let at = &raw const address as usize;
        call(libc::SYS_bind, [socket.0, at, LOOPBACK, 0, 0, 0])?;
    }
    done(
        call(libc::SYS_listen, [socket.0, 1, 0, 0, 0, 0]),
        "it listens",
    )
}

// --- processes ------------------------------------------------------------

fn forks(count: usize) -> Tried {
    for made in 0..count {
        match call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0]) {
            Ok(0) => super::exit_now(0),
            Ok(pid) => {
                let _ = call(libc::SYS_wait4, [pid, 0, 0, 0, 0, 0]);
            }
            Err(error) if made == 0 => return Err(error),
            Err(error) => return Ok(format!("{made} processes, then {error}")),
        }
    }
    Ok(format!("{count} processes"))
}

fn clone3(_: &str) -> Tried {
    let args = [0, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
    let at = args.as_ptr() as usize;
    let pid = call(libc::SYS_clone3, [at, 64, 0, 0, 0, 0])?;
    if pid == 0 {
        super::exit_now(0);
    }
    done(call(libc::SYS_wait4, [pid, 0, 0, 0, 0, 0]), "a process")
}

/// As `posix_spawn` does: a child that shares this memory until it executes a program.
#[expect(unsafe_code, reason = "a child on a stack of its own")]
fn spawn(_: &str) -> Tried {
    extern "C" fn child(_: *mut libc::c_void) -> libc::c_int {
        0
    }
    let mut stack = vec![0_u128; 4096];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the child has a stack that lives until it has ended, because this process
    // waits for it; it does nothing but return.
    let pid = unsafe {
        let top = stack.as_mut_ptr_range().end.cast();
        libc::clone(child, top, flags, std::ptr::null_mut())
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let _ = call(libc::SYS_wait4, [pid as usize, 0, 0, 0, 0, 0]);
    Ok("a process".into())
}

fn thread(_: &str) -> Tried {
    let thread = std::thread::Builder::new().spawn(|| ())?;
    let _ = thread.join();
    Ok("a thread".into())
}

fn exec(_: &str) -> Tried {
    inject::exec("/bin/sh")?;
    Ok(String::new())
}

fn exec_memory_file(_: &str) -> Tried {
    let name = c"probe".as_ptr() as usize;
    let file = call(libc::SYS_memfd_create, [name, 0, 0, 0, 0, 0]).map(Open)?;
    write(file.0, b"#!/bin/sh\nexit 43\n")?;
    exec_open(file.0)
}

fn exec_descriptor(_: &str) -> Tried {
    exec_open(0)
}

fn exec_open(descriptor: usize) -> Tried {
    let name = c"".as_ptr() as usize;
    let args = [name, 0];
    let at = args.as_ptr() as usize;
    let flags = libc::AT_EMPTY_PATH as usize;
    done(
        call(libc::SYS_execveat, [descriptor, name, at, at + 8, flags, 0]),
        "",
    )
}

fn ptrace_parent(_: &str) -> Tried {
    attach(parent())?;
    Ok("seized".into())
}

fn signal(pid: i32) -> Tried {
    may_signal(pid)?;
    Ok("it may".into())
}

fn signal_thread(_: &str) -> Tried {
    let pid = parent() as usize;
    done(call(libc::SYS_tgkill, [pid, pid, 0, 0, 0, 0]), "it may")
}

fn signal_queue(_: &str) -> Tried {
    let pid = parent() as usize;
    // The code of `sigqueue`, because processes may not send the kernel's codes.
    let info = [0_i32, 0, -1, 0].map(|it| it as u32);
    let mut whole = [0_u32; 32];
    whole[..4].copy_from_slice(&info);
    let at = whole.as_ptr() as usize;
    done(
        call(libc::SYS_rt_sigqueueinfo, [pid, 0, at, 0, 0, 0]),
        "it may",
    )
}

fn signal_pidfd(_: &str) -> Tried {
    let pid = parent() as usize;
    let pidfd = call(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0]).map(Open)?;
    done(
        call(libc::SYS_pidfd_send_signal, [pidfd.0, 0, 0, 0, 0, 0]),
        "it may",
    )
}

/// Memory at an address that is the same in all forks of a zygote.
fn read_memory(pid: i32) -> Tried {
    let read = inject::read_memory(pid, PROBES.as_ptr() as usize, &mut [0; 16])?;
    Ok(format!("{read} bytes"))
}

fn descriptor_of_parent(_: &str) -> Tried {
    let pid = parent() as usize;
    let pidfd = call(libc::SYS_pidfd_open, [pid, 0, 0, 0, 0, 0]).map(Open)?;
    opened(call(libc::SYS_pidfd_getfd, [pidfd.0, 0, 0, 0, 0, 0]))
}

fn limits_of_parent(_: &str) -> Tried {
    let mut limit = [0_u64; 2];
    let at = limit.as_mut_ptr() as usize;
    let which = libc::RLIMIT_NOFILE as usize;
    done(
        call(libc::SYS_prlimit64, [parent() as usize, which, 0, at, 0, 0]),
        "read",
    )
}

// --- rights ---------------------------------------------------------------

fn unshare(flags: i32) -> Tried {
    done(
        call(libc::SYS_unshare, [flags as usize, 0, 0, 0, 0, 0]),
        "a namespace",
    )
}

fn enter_namespace(_: &str) -> Tried {
    let namespace = open("/proc/self/ns/net", libc::O_RDONLY);
    let descriptor = namespace.as_ref().map_or(0, |open| open.0);
    done(
        call(libc::SYS_setns, [descriptor, 0, 0, 0, 0, 0]),
        "entered",
    )
}

/// In a separate namespace if possible, so that other processes are not affected.
fn mount(_: &str) -> Tried {
    unshare(libc::CLONE_NEWNS)?;
    let (root, none) = (c"/".as_ptr() as usize, c"none".as_ptr() as usize);
    let private = (libc::MS_REC | libc::MS_PRIVATE) as usize;
    call(libc::SYS_mount, [none, root, 0, private, 0, 0])?;
    let (place, kind) = (c"/tmp".as_ptr() as usize, c"tmpfs".as_ptr() as usize);
    done(
        call(libc::SYS_mount, [none, place, kind, 0, 0, 0]),
        "mounted",
    )
}

fn chroot(_: &str) -> Tried {
    let root = c"/".as_ptr() as usize;
    done(call(libc::SYS_chroot, [root, 0, 0, 0, 0, 0]), "a root")
}

fn personality(_: &str) -> Tried {
    // Makes data executable.
    const READ_IMPLIES_EXEC: usize = 0x0040_0000;
    done(
        call(libc::SYS_personality, [READ_IMPLIES_EXEC, 0, 0, 0, 0, 0]),
        "data is code",
    )
}

fn raise_limit(_: &str) -> Tried {
    let mut old = [0_u64; 2];
    let which = libc::RLIMIT_NOFILE as usize;
    let at = old.as_mut_ptr() as usize;
    call(libc::SYS_prlimit64, [0, which, 0, at, 0, 0])?;
    let new = [old[0], old[1] + 1];
    let at = new.as_ptr() as usize;
    done(call(libc::SYS_prlimit64, [0, which, at, 0, 0, 0]), "raised")
}

fn priority(_: &str) -> Tried {
    let more = -5_isize as usize;
    done(
        call(libc::SYS_setpriority, [0, 0, more, 0, 0, 0]),
        "before others",
    )
}

fn prctl(what: i32, value: usize) -> Tried {
    done(
        call(libc::SYS_prctl, [what as usize, value, 0, 0, 0, 0]),
        "set",
    )
}

/// A filter that allows everything.
fn filter(_: &str) -> Tried {
    #[repr(C)]
    struct Program {
        len: u16,
        code: usize,
    }
    const ALLOW: u64 = 0x7fff_0000_0000_0006;
    let code = ALLOW;
    let program = Program {
        len: 1,
        code: &raw const code as usize,
    };
    let at = &raw const program as usize;
    done(call(libc::SYS_seccomp, [1, 0, at, 0, 0, 0]), "a filter")
}

fn keys(_: &str) -> Tried {
    // KEYCTL_GET_KEYRING_ID of the session.
    let session = -3_isize as usize;
    done(call(libc::SYS_keyctl, [0, session, 0, 0, 0, 0]), "a key")
}

fn bpf(_: &str) -> Tried {
    // BPF_MAP_CREATE: an array of one.
    let attributes = [2_u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let at = attributes.as_ptr() as usize;
    opened(call(libc::SYS_bpf, [0, at, 72, 0, 0, 0]))
}

fn io_uring(_: &str) -> Tried {
    let mut parameters = [0_u64; 15];
    let at = parameters.as_mut_ptr() as usize;
    opened(call(libc::SYS_io_uring_setup, [1, at, 0, 0, 0, 0]))
}

fn perf(_: &str) -> Tried {
    // A software counter, of page faults.
    let attributes = [1 | (64_u64 << 32), 2, 0, 0, 0, 0, 0, 0];
    let at = attributes.as_ptr() as usize;
    let any = usize::MAX;
    opened(call(libc::SYS_perf_event_open, [at, 0, any, any, 0, 0]))
}

/// Sets it to the current name.
fn host_name(_: &str) -> Tried {
    let name = rustix::system::uname();
    let name = name.nodename();
    let at = name.as_ptr() as usize;
    let len = name.to_bytes().len();
    done(call(libc::SYS_sethostname, [at, len, 0, 0, 0, 0]), "set")
}

/// The system calls of 32 bits, whose numbers mean something else.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "an instruction that no library has")]
fn i386_call(_: &str) -> Tried {
    const GETPID: i32 = 20;
    let result: i32;
    // SAFETY: the kernel takes the call's number from `eax` and puts its result
    // there; this call reads and writes no memory. It may clobber r8 to r11.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("eax") GETPID => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    Ok(format!("a call: {}", result > 0))
}

// --- memory ---------------------------------------------------------------

const CHUNK: usize = 64 << 20;
/// More than any test permits.
const MUCH: usize = 16 << 30;

fn map_code(_: &str) -> Tried {
    inject::map_code()?;
    Ok("mapped".into())
}

fn make_code(number: libc::c_long) -> Tried {
    let page = map(PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE)?;
    let rights = (libc::PROT_READ | libc::PROT_EXEC) as usize;
    // Without a key, for the call that requires one.
    done(
        call(number, [page, PAGE, rights, usize::MAX, 0, 0]),
        "executable",
    )
}

/// As much as possible, up to more than should be available. One page of each piece is
/// touched.
fn memory(flags: i32, writable: bool) -> Tried {
    let mut got = 0;
    while got < MUCH {
        let rights = match writable {
            true => libc::PROT_READ | libc::PROT_WRITE,
            false => libc::PROT_READ,
        };
        let mapped = map(CHUNK, rights, flags).and_then(|at| {
            if !writable {
                let rights = (libc::PROT_READ | libc::PROT_WRITE) as usize;
                call(libc::SYS_mprotect, [at, CHUNK, rights, 0, 0, 0])?;
            }
            Ok(at)
        });
        match mapped {
            Ok(at) => scribble(at + CHUNK - 8),
            Err(error) if got == 0 => return Err(error),
            Err(error) => {
                return Ok(format!("{} MiB, then {}", got >> 20, name_of(&error)));
            }
        }
        got += CHUNK;
    }
    Ok(format!("{} MiB", got >> 20))
}

/// As large as the kernel lets the first thread's stack become.
fn stack(_: &str) -> Tried {
    let mut limit = [0_u64; 2];
    let at = limit.as_mut_ptr() as usize;
    let which = libc::RLIMIT_STACK as usize;
    call(libc::SYS_prlimit64, [0, which, 0, at, 0, 0])?;
    Ok(match limit[1] {
        u64::MAX => "without a limit".into(),
        most => format!("{} MiB", most >> 20),
    })
}

/// Reads a page of every 2 MiB: each requires a page of the kernel's for its table, which a
/// limit on data does not count.
fn page_tables(_: &str) -> Tried {
    const REACH: usize = 2 << 20;
    const STEP: usize = 2 << 30;
    const MOST: usize = 64 << 20;
    let mut tables = 0;
    while tables < MOST {
        match map(STEP, libc::PROT_READ, libc::MAP_PRIVATE) {
            Ok(at) => {
                for page in (at..at + STEP).step_by(REACH) {
                    touch(page);
                    tables += PAGE;
                }
            }
            Err(error) if tables == 0 => return Err(error),
            Err(error) => {
                return Ok(format!("{} MiB, then {}", tables >> 20, name_of(&error)));
            }
        }
    }
    Ok(format!("{} MiB, and more", tables >> 20))
}

/// Single pages that cannot be merged into one mapping.
fn mappings(_: &str) -> Tried {
    let until = |count: &mut usize| -> io::Result<()> {
        while *count < 1 << 20 {
            let rights = [libc::PROT_READ, libc::PROT_NONE][*count % 2];
            map(PAGE, rights, libc::MAP_PRIVATE)?;
            *count += 1;
        }
        Ok(())
    };
    let mut count = 0;
    match until(&mut count) {
        Ok(()) => Ok(format!("{count} mappings, and more")),
        Err(error) => Ok(format!("{count} mappings, then {}", name_of(&error))),
    }
}

fn descriptors(_: &str) -> Tried {
    let mut count = 0;
    let error = loop {
        match call(libc::SYS_dup, [0; 6]) {
            Ok(_) if count >= 1 << 20 => return Ok(format!("{count}, and more")),
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    Ok(format!("{count} descriptors, then {}", name_of(&error)))
}

fn pipes(_: &str) -> Tried {
    let mut pair = [0_i32; 2];
    let at = pair.as_mut_ptr() as usize;
    done(call(libc::SYS_pipe2, [at, 0, 0, 0, 0, 0]), "a pipe")
}

/// Memory that the kernel keeps for unread sockets.
fn socket_buffers(_: &str) -> Tried {
    const MOST: usize = 64 << 20;
    let mut kept = 0;
    while kept < MOST {
        let mut pair = [0_i32; 2];
        let (family, kind) = (libc::AF_UNIX as usize, libc::SOCK_STREAM as usize);
        let at = pair.as_mut_ptr() as usize;
        match call(libc::SYS_socketpair, [family, kind, 0, at, 0, 0]) {
            Ok(_) => {}
            Err(error) if kept == 0 => return Err(error),
            Err(error) => return Ok(format!("{} MiB, then {}", kept >> 20, name_of(&error))),
        }
        let data = [0_u8; 1 << 16];
        let (at, flags) = (data.as_ptr() as usize, libc::MSG_DONTWAIT as usize);
        while let Ok(sent) = call(
            libc::SYS_sendto,
            [pair[0] as usize, at, data.len(), flags, 0, 0],
        ) {
            kept += sent;
        }
    }
    Ok(format!("{} MiB, and more", kept >> 20))
}

/// Leaves descriptors in sockets until it is refused, and for a while after that.
fn hoard_descriptors(_: &str) -> Tried {
    const EACH: usize = 250;
    const MOST: usize = 1 << 18;
    const LEN: usize = 16 + 4 * EACH;
    // Length, SOL_SOCKET and SCM_RIGHTS, then the first descriptor repeatedly.
    let mut control = [0_u32; LEN / 4];
    control[0] = LEN as u32;
    (control[2], control[3]) = (1, 1);
    let mut sent = 0;
    let refused = 'all: loop {
        let mut pair = [0_i32; 2];
        let (family, kind) = (libc::AF_UNIX as usize, libc::SOCK_STREAM as usize);
        let at = pair.as_mut_ptr() as usize;
        call(libc::SYS_socketpair, [family, kind, 0, at, 0, 0])?;
        loop {
            let word = [0_u8];
            let vector = [word.as_ptr() as usize, word.len()];
            let at = vector.as_ptr() as usize;
            let along = control.as_ptr() as usize;
            let message: [usize; 7] = [0, 0, at, 1, along, LEN, 0];
            let (at, flags) = (message.as_ptr() as usize, libc::MSG_DONTWAIT as usize);
            match call(libc::SYS_sendmsg, [pair[0] as usize, at, flags, 0, 0, 0]) {
                Ok(_) if sent >= MOST => break 'all "and more".to_owned(),
                Ok(_) => sent += EACH,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => break 'all format!("then {}", name_of(&error)),
            }
        }
    };
    std::thread::sleep(std::time::Duration::from_secs(3));
    Ok(format!("{sent} descriptors, {refused}"))
}

// --- inherited state ------------------------------------------------------

fn environment(_: &str) -> Tried {
    match std::env::vars_os().count() {
        0 => Err(io::Error::other("there is none")),
        count => Ok(format!("{count} variables")),
    }
}

fn open_descriptors(_: &str) -> Tried {
    let list: Vec<String> = kinds()
        .into_iter()
        .map(|(descriptor, kind)| {
            let kind = match kind {
                libc::S_IFREG if is_sealed(descriptor) => "sealed memory",
                libc::S_IFREG => "file",
                libc::S_IFDIR => "directory",
                libc::S_IFCHR if is_null(descriptor) => "null",
                libc::S_IFCHR => "device",
                libc::S_IFBLK => "block device",
                libc::S_IFIFO => "pipe",
                libc::S_IFSOCK => match domain(descriptor) {
                    Ok(libc::AF_UNIX) => "unix socket",
                    _ => "socket",
                },
                _ => "kernel object",
            };
            format!("{descriptor} {kind}")
        })
        .collect();
    Ok(list.join(", "))
}

fn is_null(descriptor: usize) -> bool {
    stat_of(descriptor).is_ok_and(|stat| stat.st_rdev == libc::makedev(1, 3))
}

fn is_sealed(descriptor: usize) -> bool {
    let what = libc::F_GET_SEALS as usize;
    let seals = call(libc::SYS_fcntl, [descriptor, what, 0, 0, 0, 0]);
    seals.is_ok_and(|seals| seals & libc::F_SEAL_WRITE as usize != 0)
}

fn domain(descriptor: usize) -> io::Result<i32> {
    let (mut domain, mut len) = (0_i32, 4_u32);
    let (level, name) = (libc::SOL_SOCKET as usize, libc::SO_DOMAIN as usize);
    let (at, len) = (&raw mut domain as usize, &raw mut len as usize);
    call(libc::SYS_getsockopt, [descriptor, level, name, at, len, 0])?;
    Ok(domain)
}

fn write_streams(_: &str) -> Tried {
    let (out, err) = (write(1, b"probe\n")?, write(2, b"probe\n")?);
    Ok(format!("{out} and {err} bytes"))
}

/// Until the streams take no more.
fn fill_streams(_: &str) -> Tried {
    loop {
        write(2, &[b'x'; 4096])?;
    }
}

/// The sockets of this process, including its runner's.
fn sockets() -> Vec<usize> {
    kinds()
        .into_iter()
        .filter(|(descriptor, kind)| *descriptor > 2 && *kind == libc::S_IFSOCK)
        .map(|(descriptor, _)| descriptor)
        .collect()
}

fn send_descriptors(_: &str) -> Tried {
    let mut sent = 0;
    for socket in sockets() {
        // Length, SOL_SOCKET and SCM_RIGHTS, two descriptors.
        let control: [u32; 6] = [24, 0, 1, 1, 0, 0];
        // A whole frame: it requests its input.
        let word = [1, 0, 0, 0, 0_u8];
        let vector = [word.as_ptr() as usize, word.len()];
        let message: [usize; 7] = [
            0,
            0,
            vector.as_ptr() as usize,
            1,
            control.as_ptr() as usize,
            24,
            0,
        ];
        let at = message.as_ptr() as usize;
        let flags = libc::MSG_DONTWAIT as usize;
        if call(libc::SYS_sendmsg, [socket, at, flags, 0, 0, 0]).is_ok() {
            sent += 1;
        }
    }
    then_wait(sent)
}

fn send_rubbish(_: &str) -> Tried {
    let rubbish = [0xff_u8; 512];
    let mut sent = 0;
    for socket in sockets() {
        let (at, flags) = (rubbish.as_ptr() as usize, libc::MSG_DONTWAIT as usize);
        if call(libc::SYS_sendto, [socket, at, rubbish.len(), flags, 0, 0]).is_ok() {
            sent += 1;
        }
    }
    then_wait(sent)
}

/// Gives the other end time to react.
fn then_wait(sent: usize) -> Tried {
    if sent == 0 {
        return Err(io::Error::other("there is no socket"));
    }
    std::thread::sleep(std::time::Duration::from_secs(5));
    Ok(format!("sent to {sent} sockets"))
}

// --- endings --------------------------------------------------------------

fn segfault(_: &str) -> Tried {
    inject::segfault()?;
    Ok("read".into())
}

fn oom_kill(_: &str) -> Tried {
    inject::kill_self()?;
    Ok("and went on".into())
}

#[expect(unsafe_code, reason = "an instruction that does not exist")]
fn illegal(_: &str) -> Tried {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: it does not return: the processor refuses the instruction.
    unsafe {
        std::arch::asm!("ud2", options(noreturn))
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        // SAFETY: it does not return.
        unsafe { libc::raise(libc::SIGILL) };
        Ok(String::new())
    }
}

/// Recurses until the stack is full.
fn overflow(depth: usize) -> usize {
    let mut room = [depth; 512];
    std::hint::black_box(&mut room);
    if depth == usize::MAX {
        return depth;
    }
    overflow(depth + 1) + room[depth % 512]
}

fn stop(_: &str) -> Tried {
    let pid = own() as usize;
    let thread = call(libc::SYS_gettid, [0; 6])?;
    let stop = libc::SIGSTOP as usize;
    done(
        call(libc::SYS_tgkill, [pid, thread, stop, 0, 0, 0]),
        "and went on",
    )
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn sleep() -> ! {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

/// Closes everything by which its runner could notice it.
fn silent(_: &str) -> Tried {
    for (descriptor, _) in kinds() {
        drop(Open(descriptor));
    }
    spin()
}

/// Tries to remain when all others are gone.
fn linger(_: &str) -> Tried {
    let _ = prctl(libc::PR_SET_PDEATHSIG, 0);
    let _ = call(libc::SYS_setsid, [0; 6]);
    for (descriptor, _) in kinds() {
        drop(Open(descriptor));
    }
    sleep()
}
