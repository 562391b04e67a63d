//! The attempts from the inside, and their results.

use rustix::fs::MemfdFlags;
use rustix::process::{WaitOptions, getppid, kill_process, waitpid};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use wrun_sandbox::region::{Draft, Kind, Region, RegionError};
use wrun_sys::attempt::{self, call};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Attempt {
    Nothing,
    Wasm,
    ReadPasswd,
    ListRoot,
    ReadProc,
    Fork,
    Thread,
    Exec,
    Ptrace,
    Unshare,
    KillParent,
    SignalSelf,
    MapCode,
    MakeCode,
    SocketUnix,
    SocketUdp,
    SocketTcp,
    Connect(u16),
    Raise,
    BecomeDumpable,
    Abort,
    TooMuchMemory,
    EnoughMemory,
    WriteFile,
    ReadGranted,
    WriteGranted,
    RenameGranted,
    OutOfGranted,
    Spin,
    WriteOpen,
    Listen,
    OtherAbi,
    FastOpen,
    PairOfDatagrams,
    UseRegion,
    FreezeRegion,
    LargeFile,
    MakeFile,
    MakeRegion,
    SharedMemory,
    PunchHole,
    PullPages,
    Append,
    Async,
    Direct,
    NotWait,
    Lease,
    Owner,
}

/// Operations on a region's descriptor that are allowed or refused, whatever is granted.
pub(super) const TO_OTHERS: [Attempt; 7] = [
    Attempt::PunchHole,
    Attempt::PullPages,
    Attempt::Append,
    Attempt::Async,
    Attempt::Direct,
    Attempt::Lease,
    Attempt::Owner,
];

impl Attempt {
    pub(super) fn make(
        self,
        dirs: &[(std::os::fd::BorrowedFd<'_>, bool)],
        module: Option<&(wasmtime::Engine, wasmtime::Module)>,
        mut result: &File,
        given: &File,
    ) -> io::Result<()> {
        use rustix::fs::{CWD, Mode, OFlags, openat};
        let failed = |error: wasmtime::Error| io::Error::other(error.to_string());
        let open = |path: &str, flags: OFlags| -> io::Result<std::os::fd::OwnedFd> {
            let (dir, _) = dirs.first().expect("a directory");
            Ok(openat(dir, path, flags, Mode::from_raw_mode(0o644))?)
        };
        let refused = |error| match error {
            RegionError::System { error, .. } => error,
            other => io::Error::other(other),
        };
        let region_of = |kind| {
            let draft = Draft::from_runner(given.try_clone()?.into(), 1 << 20, kind);
            draft.and_then(Draft::finish).map_err(refused)
        };
        let tcp = libc::SOCK_STREAM as usize;
        match self {
            Attempt::Nothing => Ok(()),
            Attempt::Wasm => {
                let (engine, module) = module.expect("a module");
                let mut store = wasmtime::Store::new(engine, ());
                let instance = wasmtime::Instance::new(&mut store, module, &[]).map_err(failed)?;
                let run = instance
                    .get_typed_func::<(), i32>(&mut store, "run")
                    .map_err(failed)?;
                assert_eq!(run.call(&mut store, ()).map_err(failed)?, 42);
                let trap = instance
                    .get_typed_func::<(), ()>(&mut store, "trap")
                    .map_err(failed)?;
                let error = trap.call(&mut store, ()).expect_err("it traps");
                assert!(error.is::<wasmtime::Trap>());
                Ok(())
            }
            Attempt::ReadPasswd => File::open("/etc/passwd").map(drop),
            Attempt::ListRoot => {
                openat(CWD, "/", OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
                Ok(())
            }
            Attempt::ReadProc => File::open("/proc/self/status").map(drop),
            Attempt::Fork => {
                call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0]).map(|pid| {
                    if pid == 0 {
                        attempt::exit(0)
                    }
                })
            }
            Attempt::Thread => std::thread::Builder::new().spawn(|| ()).map(drop),
            Attempt::Exec => call(libc::SYS_execve, [0; 6]).map(drop),
            Attempt::Ptrace => call(libc::SYS_ptrace, [0; 6]).map(drop),
            Attempt::Unshare => call(libc::SYS_unshare, [0; 6]).map(drop),
            Attempt::KillParent => {
                let parent = getppid().ok_or(io::ErrorKind::NotFound)?;
                Ok(kill_process(parent, rustix::process::Signal::TERM)?)
            }
            Attempt::SignalSelf => {
                let own = rustix::process::getpid();
                let own = own.as_raw_nonzero().get() as usize;
                call(libc::SYS_tgkill, [own, own, 0, 0, 0, 0]).map(drop)
            }
            Attempt::MapCode => attempt::map(libc::PROT_READ | libc::PROT_EXEC),
            Attempt::MakeCode => attempt::make_code(),
            Attempt::SocketUnix => call(libc::SYS_socket, [1, tcp, 0, 0, 0, 0]).map(drop),
            Attempt::SocketUdp => call(libc::SYS_socket, [2, 2, 0, 0, 0, 0]).map(drop),
            Attempt::SocketTcp => call(libc::SYS_socket, [2, tcp, 0, 0, 0, 0]).map(drop),
            Attempt::Connect(port) => std::net::TcpStream::connect(("127.0.0.1", port)).map(drop),
            Attempt::Raise => {
                let limit = rustix::process::getrlimit(rustix::process::Resource::Data);
                Ok(rustix::process::setrlimit(
                    rustix::process::Resource::Data,
                    limit,
                )?)
            }
            Attempt::BecomeDumpable => Ok(rustix::process::set_dumpable_behavior(
                rustix::process::DumpableBehavior::Dumpable,
            )?),
            Attempt::Abort => std::process::abort(),
            Attempt::TooMuchMemory | Attempt::EnoughMemory => {
                let bytes = if self == Attempt::EnoughMemory {
                    128 << 20
                } else {
                    2_usize << 30
                };
                let mut memory = Vec::<u8>::new();
                memory
                    .try_reserve_exact(bytes)
                    .map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))
            }
            Attempt::WriteFile => {
                let file = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC)?;
                File::from(file).write_all(b"x")
            }
            Attempt::ReadGranted => {
                let mut text = String::new();
                File::from(open("file", OFlags::RDONLY)?).read_to_string(&mut text)?;
                assert_eq!(text, "granted");
                Ok(())
            }
            Attempt::WriteGranted => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
                File::from(open("new", flags)?).write_all(b"new")
            }
            Attempt::RenameGranted => {
                let (dir, _) = dirs.first().expect("a directory");
                rustix::fs::mkdirat(dir, "sub", Mode::from_raw_mode(0o755))?;
                rustix::fs::renameat(dir, "new", dir, "sub/new")?;
                rustix::fs::unlinkat(dir, "sub/new", rustix::fs::AtFlags::empty())?;
                Ok(rustix::fs::unlinkat(
                    dir,
                    "sub",
                    rustix::fs::AtFlags::REMOVEDIR,
                )?)
            }
            Attempt::OutOfGranted => {
                open("../outside", OFlags::RDONLY)?;
                Ok(())
            }
            Attempt::WriteOpen => result.write_all(b"x"),
            Attempt::FastOpen => {
                let flags = libc::MSG_FASTOPEN as usize;
                call(libc::SYS_sendmsg, [0, 0, flags, 0, 0, 0]).map(drop)
            }
            Attempt::PairOfDatagrams => call(libc::SYS_socketpair, [1, 2, 0, 0, 0, 0]).map(drop),
            Attempt::Listen => TcpListener::bind("127.0.0.1:0").map(drop),
            // The numbers of x86_64's other interface, which no list has.
            Attempt::OtherAbi => call(0x4000_0000 + libc::SYS_getpid, [0; 6]).map(drop),
            Attempt::UseRegion => {
                let region = region_of(Kind::Shared)?;
                region.write(0, b"x").map_err(refused)?;
                let before = region.load_u32(0).map_err(refused)?;
                assert_eq!(before, u32::from(b'x'));
                let region = region_of(Kind::Exclusive)?;
                let (file, parts) = region.to_send().map_err(refused)?;
                Region::from_parts(file.try_clone_to_owned()?, parts)
                    .map(drop)
                    .map_err(refused)
            }
            Attempt::FreezeRegion => region_of(Kind::Exclusive)?.freeze().map_err(refused),
            Attempt::LargeFile => {
                let at = 65 << 20;
                call(
                    libc::SYS_pwrite64,
                    [
                        given.as_raw_fd() as usize,
                        c"x".as_ptr() as usize,
                        1,
                        at,
                        0,
                        0,
                    ],
                )
                .map(drop)
            }
            Attempt::MakeFile => {
                rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
                    .map(drop)
                    .map_err(Into::into)
            }
            Attempt::MakeRegion => Draft::new(1 << 20, Kind::Shared, true)
                .map(drop)
                .map_err(refused),
            Attempt::PullPages => call(
                libc::SYS_madvise,
                [0, 0, libc::MADV_REMOVE as usize, 0, 0, 0],
            )
            .map(drop),
            Attempt::SharedMemory => {
                let flags = (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as usize;
                let none = usize::MAX;
                call(libc::SYS_mmap, [0, 4096, 3, flags, none, 0]).map(drop)
            }
            Attempt::PunchHole => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                let file = given.as_raw_fd() as usize;
                call(libc::SYS_fallocate, [file, mode as usize, 0, 4096, 0, 0]).map(drop)
            }
            Attempt::Append => set_flags(given, libc::O_APPEND),
            Attempt::Async => set_flags(given, libc::O_ASYNC),
            // With a flag that may be set.
            Attempt::Direct => set_flags(given, libc::O_DIRECT | libc::O_NONBLOCK),
            Attempt::NotWait => set_flags(given, libc::O_NONBLOCK),
            Attempt::Lease => control(given, libc::F_SETLEASE, libc::F_RDLCK),
            Attempt::Owner => control(given, libc::F_SETOWN, 1),
            Attempt::Spin => loop {
                std::hint::spin_loop();
            },
        }
    }
}

fn control(file: &File, command: i32, value: i32) -> io::Result<()> {
    let args = [
        file.as_raw_fd() as usize,
        command as usize,
        value as usize,
        0,
        0,
        0,
    ];
    call(libc::SYS_fcntl, args).map(drop)
}

fn set_flags(file: &File, flags: i32) -> io::Result<()> {
    control(file, libc::F_SETFL, libc::O_RDWR | flags)
}

pub(super) fn errno_of(result: io::Result<()>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(error) => match error.raw_os_error() {
            Some(errno) => name_of(errno),
            None => error.to_string(),
        },
    }
}

pub(super) fn name_of(errno: i32) -> String {
    match errno {
        libc::EPERM => "EPERM".into(),
        libc::EACCES => "EACCES".into(),
        libc::ENOENT => "ENOENT".into(),
        libc::ENOSYS => "ENOSYS".into(),
        libc::ENOMEM => "ENOMEM".into(),
        libc::EFBIG => "EFBIG".into(),
        libc::ENETUNREACH => "ENETUNREACH".into(),
        libc::ECONNREFUSED => "ECONNREFUSED".into(),
        errno => io::Error::from_raw_os_error(errno).to_string(),
    }
}

pub(super) fn in_child(go: impl FnOnce() -> io::Result<()>) -> String {
    let child = attempt::fork().expect("a fork");
    if child.is_none() {
        let code = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(go)) {
            Ok(Ok(())) => 0,
            Ok(Err(error)) => error.raw_os_error().unwrap_or(200),
            Err(_) => 201,
        };
        attempt::exit(code);
    }
    let status = waitpid(child, WaitOptions::empty())
        .expect("it ends")
        .expect("it ended")
        .1;
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => "ok".into(),
        (Some(200), _) => "failed".into(),
        (Some(201), _) => "panicked".into(),
        (Some(errno), _) => name_of(errno),
        (_, Some(libc::SIGSYS)) => "SIGSYS".into(),
        (_, Some(libc::SIGABRT)) => "SIGABRT".into(),
        (_, Some(libc::SIGXCPU)) => "SIGXCPU".into(),
        (_, signal) => format!("signal {signal:?}"),
    }
}
