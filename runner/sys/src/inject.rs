//! What the host's code could do after an attacker took it over: the actions that a
//! comparison orders, in raw system calls, and the building blocks of the tests' own
//! probes.
//!
//! An action must not harm the machine even if nothing stops it; see [`Injection`].

use std::ffi::{CStr, CString};
use std::io;
use std::mem::size_of;
use wrun_types::injection::{Injection, InjectionResult, Whose};

/// Performs an action. It may not return.
pub fn inject(act: &Injection) -> InjectionResult {
    let hash = |bytes: &[u8]| blake3::hash(bytes).as_bytes().to_vec();
    let (done, senseless) = match act {
        Injection::Segfault => (segfault(), Call::None),
        Injection::Abort => std::process::abort(),
        Injection::OomKill => (kill_self().map(|()| Vec::new()), Call::None),
        Injection::ReadFile(path) => (read_file(path).map(|bytes| hash(&bytes)), Call::Open),
        // Only a new file: not one that exists, and not through a link.
        Injection::WriteFile(path) => {
            let written = write_file(path, libc::O_EXCL | libc::O_NOFOLLOW);
            (written.map(|_| Vec::new()), Call::Open)
        }
        Injection::Connect(port) => match tcp_socket() {
            Ok(socket) => (connect(&socket, *port).map(|()| Vec::new()), Call::Connect),
            Err(error) => (Err(error), Call::Socket),
        },
        Injection::Fork => (fork(), Call::Clone),
        Injection::Exec(program) => (exec(program).map(|()| Vec::new()), Call::Exec),
        Injection::Ptrace(whose) => (
            number_of(*whose).and_then(attach).map(|()| Vec::new()),
            Call::Ptrace,
        ),
        Injection::Signal(whose) => (
            number_of(*whose).and_then(may_signal).map(|()| Vec::new()),
            Call::Kill,
        ),
        Injection::Memory { of, at } => (
            memory_of(*of, *at).map(|bytes| hash(&bytes)),
            Call::ReadMemory,
        ),
        Injection::ExecutableMemory => (map_code().map(|_| Vec::new()), Call::Map),
        Injection::Environment(whose) => (
            number_of(*whose)
                .and_then(|pid| read_file(&format!("/proc/{pid}/environ")))
                .map(|bytes| hash(&bytes)),
            Call::Open,
        ),
    };
    match done {
        Ok(did) => InjectionResult::Did(did),
        Err(error) => InjectionResult::Refused {
            errno: error.raw_os_error().unwrap_or(0),
            senseless: senseless.errno(),
        },
    }
}

/// A system call with arguments that the kernel itself refuses. A filter that refuses the
/// call by its number does so with its own error.
enum Call {
    None,
    Open,
    Socket,
    Connect,
    Clone,
    Exec,
    Ptrace,
    Kill,
    ReadMemory,
    Map,
}

impl Call {
    /// Its error; 0 if it succeeded.
    fn errno(self) -> i32 {
        let (inet, stream) = (libc::AF_INET as usize, libc::SOCK_STREAM as usize);
        let result = match self {
            Call::None => return 0,
            // Without a path.
            Call::Open => call(libc::SYS_openat, [CWD, 0, 0, 0, 0, 0]),
            // A protocol that is not TCP.
            Call::Socket => call(libc::SYS_socket, [inet, stream, 200, 0, 0, 0]),
            // Without a valid descriptor.
            Call::Connect => call(libc::SYS_connect, [usize::MAX, 0, 0, 0, 0, 0]),
            // Handlers can only be shared together with memory.
            Call::Clone => {
                let flags = (libc::CLONE_SIGHAND | libc::SIGCHLD) as usize;
                call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0])
            }
            // Without a program.
            Call::Exec => call(libc::SYS_execve, [0; 6]),
            // An unknown request, for no process.
            Call::Ptrace => call(libc::SYS_ptrace, [0x7fff, 0, 0, 0, 0, 0]),
            // An unknown signal.
            Call::Kill => call(libc::SYS_kill, [own() as usize, 200, 0, 0, 0, 0]),
            // Unknown flags.
            Call::ReadMemory => call(libc::SYS_process_vm_readv, [own() as usize, 0, 0, 0, 0, 1]),
            // Without a length.
            Call::Map => map(0, CODE, libc::MAP_PRIVATE),
        };
        match result {
            Ok(_) => 0,
            Err(error) => error.raw_os_error().unwrap_or(0),
        }
    }
}

// --- building blocks ------------------------------------------------------

/// Any system call.
#[expect(unsafe_code, reason = "calls that no library would make")]
pub(super) fn call(number: libc::c_long, args: [usize; 6]) -> io::Result<usize> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: every caller here passes null, or addresses of its own values of the size
    // that the call requires, which outlive it. The effect of a call on the process is the
    // purpose of the action; a call that ends or replaces the process is the last thing
    // that an action does.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// An opened descriptor, for further calls.
pub(super) struct Open(pub(super) usize);

impl Drop for Open {
    fn drop(&mut self) {
        let _ = call(libc::SYS_close, [self.0, 0, 0, 0, 0, 0]);
    }
}

pub(super) const CWD: usize = libc::AT_FDCWD as usize;

pub(super) fn path_of(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}

pub(super) fn open(path: &str, flags: i32) -> io::Result<Open> {
    let path = path_of(path)?;
    let flags = (flags | libc::O_CLOEXEC) as usize;
    call(
        libc::SYS_openat,
        [CWD, path.as_ptr() as usize, flags, 0o600, 0, 0],
    )
    .map(Open)
}

/// Reads up to [`Injection::READ`] bytes.
pub(super) fn read(open: &Open) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; Injection::READ];
    let at = bytes.as_mut_ptr() as usize;
    let read = call(libc::SYS_read, [open.0, at, bytes.len(), 0, 0, 0])?;
    bytes.truncate(read);
    Ok(bytes)
}

pub(super) fn write(descriptor: usize, bytes: &[u8]) -> io::Result<usize> {
    let at = bytes.as_ptr() as usize;
    call(libc::SYS_write, [descriptor, at, bytes.len(), 0, 0, 0])
}

pub(super) fn own() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Maps memory at an address that the kernel chooses.
pub(super) fn map(len: usize, protection: i32, flags: i32) -> io::Result<usize> {
    let flags = flags | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    call(
        libc::SYS_mmap,
        [0, len, protection as usize, flags as usize, usize::MAX, 0],
    )
}

#[expect(unsafe_code, reason = "memory is touched by address")]
pub(super) fn touch(at: usize) -> u8 {
    // SAFETY: either the address is mapped for reading and nothing else writes there (the
    // callers' own mappings, or bytes of a comparison that ordered to read them), or it is
    // mapped without any right and reading it ends the process, which is the purpose.
    unsafe { std::ptr::read_volatile(at as *const u8) }
}

// --- actions --------------------------------------------------------------

pub(super) const PAGE: usize = 4096;
const CODE: i32 = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;

pub(super) fn read_file(path: &str) -> io::Result<Vec<u8>> {
    read(&open(path, libc::O_RDONLY)?)
}

pub(super) fn write_file(path: &str, flags: i32) -> io::Result<usize> {
    let file = open(path, flags | libc::O_WRONLY | libc::O_CREAT)?;
    write(file.0, b"written")
}

pub(super) fn new_socket(family: i32, kind: i32, protocol: i32) -> io::Result<Open> {
    let kind = kind | libc::SOCK_CLOEXEC;
    let args = [family as usize, kind as usize, protocol as usize, 0, 0, 0];
    call(libc::SYS_socket, args).map(Open)
}

pub(super) fn tcp_socket() -> io::Result<Open> {
    new_socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP)
}

pub(super) fn loopback(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes([127, 0, 0, 1]),
        },
        sin_zero: [0; 8],
    }
}

pub(super) const LOOPBACK: usize = size_of::<libc::sockaddr_in>();

pub(super) fn connect(socket: &Open, port: u16) -> io::Result<()> {
    let address = loopback(port);
    let at = &raw const address as usize;
    call(libc::SYS_connect, [socket.0, at, LOOPBACK, 0, 0, 0]).map(drop)
}

/// The status of a process that was started and ended at once.
fn fork() -> io::Result<Vec<u8>> {
    let status = in_child(|| Injection::FORKED)?;
    Ok(vec![u8::try_from(status).unwrap_or(u8::MAX)])
}

/// Runs `does` in a new process, and returns its status. The process is a fork of a program
/// that may have threads: `does` takes no lock and allocates no memory.
pub(super) fn in_child(does: impl FnOnce() -> i32) -> io::Result<i32> {
    let pid = match call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0])? {
        0 => super::exit_now(does()),
        pid => pid,
    };
    let mut status = 0_i32;
    let at = &raw mut status as usize;
    call(libc::SYS_wait4, [pid, at, 0, 0, 0, 0])?;
    match libc::WIFEXITED(status) {
        true => Ok(libc::WEXITSTATUS(status)),
        false => Err(io::Error::other("the process did not exit")),
    }
}

/// Becomes a program; a shell exits with [`Injection::EXECUTED`].
pub(super) fn exec(program: &str) -> io::Result<()> {
    let program = path_of(program)?;
    let words: [&CStr; 3] = [&program, c"-c", c"exit 42"];
    let [program, option, command] = words.map(|word| word.as_ptr() as usize);
    let args = [program, option, command, 0];
    let at = args.as_ptr() as usize;
    call(libc::SYS_execve, [program, at, at + 24, 0, 0, 0]).map(drop)
}

/// Attaches to a process and detaches, which stops it for a moment. A process cannot debug
/// itself: a new process attaches to this one, and detaches by ending.
pub(super) fn attach(pid: i32) -> io::Result<()> {
    const SEIZE: usize = 0x4206;
    const INTERRUPT: usize = 0x4207;
    let target = pid as usize;
    let seize = || call(libc::SYS_ptrace, [SEIZE, target, 0, 0, 0, 0]);
    if pid == own() {
        let errno = in_child(|| match seize() {
            Ok(_) => 0,
            Err(error) => error.raw_os_error().unwrap_or(libc::EPERM),
        })?;
        return match errno {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        };
    }
    seize()?;
    let _ = call(libc::SYS_ptrace, [INTERRUPT, target, 0, 0, 0, 0]);
    let all = libc::__WALL as usize;
    let _ = call(libc::SYS_wait4, [target, 0, all, 0, 0, 0]);
    let detach = libc::PTRACE_DETACH as usize;
    let _ = call(libc::SYS_ptrace, [detach, target, 0, 0, 0, 0]);
    Ok(())
}

/// Whether a signal may be sent: number 0 sends none.
pub(super) fn may_signal(pid: i32) -> io::Result<()> {
    let pid = pid as isize as usize;
    call(libc::SYS_kill, [pid, 0, 0, 0, 0, 0]).map(drop)
}

/// Reads memory of any process, by address.
pub(super) fn read_memory(pid: i32, at: usize, bytes: &mut [u8]) -> io::Result<usize> {
    let mine = [bytes.as_mut_ptr() as usize, bytes.len()];
    let theirs = [at, bytes.len()];
    let (mine, theirs) = (mine.as_ptr() as usize, theirs.as_ptr() as usize);
    call(
        libc::SYS_process_vm_readv,
        [pid as usize, mine, 1, theirs, 1, 0],
    )
}

/// The number of the process here. If the runner's numbers are not valid here, another
/// process cannot be named, only this one.
fn number_of(whose: Whose) -> io::Result<i32> {
    match whose {
        Whose::Own => Ok(own()),
        Whose::Process(pid) if pid == own() => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        Whose::Process(pid) => Ok(pid),
    }
}

/// Memory of this process is read directly; the kernel is called for that of another.
fn memory_of(whose: Whose, at: u64) -> io::Result<Vec<u8>> {
    let at = usize::try_from(at).map_err(io::Error::other)?;
    let mut bytes = [0_u8; Injection::MEMORY];
    let pid = number_of(whose)?;
    if whose == Whose::Own {
        return Ok((at..at.saturating_add(Injection::MEMORY))
            .map(touch)
            .collect());
    }
    let read = read_memory(pid, at, &mut bytes)?;
    Ok(bytes[..read.min(bytes.len())].to_vec())
}

pub(super) fn map_code() -> io::Result<usize> {
    map(PAGE, CODE, libc::MAP_PRIVATE)
}

pub(super) fn segfault() -> io::Result<Vec<u8>> {
    let nothing = map(PAGE, libc::PROT_NONE, libc::MAP_PRIVATE)?;
    Ok(vec![touch(nothing)])
}

/// By the signal that cannot be caught, to its own thread: a worker may not send it to any
/// other.
pub(super) fn kill_self() -> io::Result<()> {
    let thread = call(libc::SYS_gettid, [0; 6])?;
    let kill = libc::SIGKILL as usize;
    call(libc::SYS_tgkill, [own() as usize, thread, kill, 0, 0, 0]).map(drop)
}
