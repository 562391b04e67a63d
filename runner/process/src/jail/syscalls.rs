//! The system calls of workers, as data: each with its caller, its arguments, and its
//! purpose. This is the file to review.
//!
//! A call without a row is refused (`EPERM`). Rows of one call add up. Found by tracing
//! every guest of this tree, and by reading what wasmtime, tokio, the standard library and
//! libc do on rarer paths. Calls that Landlock cannot refuse are decided here: no change of
//! owners, modes, attributes or locks of files; times and stat of files remain, if
//! directories are granted.

use super::plan::{Grants, Role};
use libc::c_long;

/// The arguments of one call, for some processes.
pub(super) struct Row {
    #[cfg_attr(not(test), expect(dead_code, reason = "for those who read this"))]
    pub(super) name: &'static str,
    pub(super) number: c_long,
    pub(super) who: Who,
    /// All must hold.
    pub(super) tests: &'static [Test],
    #[cfg_attr(not(test), expect(dead_code, reason = "for those who read this"))]
    pub(super) why: &'static str,
}

/// The processes for which a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    All,
    Zygote,
    Worker,
    /// Zygotes and workers, before a task has the process.
    Before,
    /// Zygotes, workers: not processes that may have threads.
    Tasks,
    /// If directories are granted.
    Files,
    /// If connections are granted.
    Tcp,
    /// If the task imports ports.
    Talks,
    /// If it does not.
    Mute,
    /// If the task imports regions.
    Regions,
    Compiler,
}

impl Who {
    pub(super) fn is(self, role: Role, grants: Grants) -> bool {
        match self {
            Who::All => true,
            Who::Zygote => role == Role::Zygote,
            Who::Worker => role == Role::Worker,
            Who::Before | Who::Tasks => role != Role::Compiler,
            Who::Files => grants.files,
            Who::Tcp => grants.tcp,
            Who::Talks => grants.talks && role != Role::Compiler,
            Who::Mute => !grants.talks && role != Role::Compiler,
            Who::Regions => grants.regions,
            Who::Compiler => role == Role::Compiler,
        }
    }
}

/// The test of one argument, counted from 0. An argument of 32 bits is compared as the
/// kernel reads it.
#[derive(Clone, Copy)]
pub(super) enum Test {
    OneOf(u8, &'static [u32]),
    Bits {
        arg: u8,
        mask: u32,
        value: u32,
    },
    Null(u8),
    NotNull(u8),
    /// The number of this process.
    Own(u8),
    NotOwn(u8),
}
use Test::{Bits, NotNull, NotOwn, Null, OneOf, Own};
use Who::{All, Before, Compiler, Files, Mute, Regions, Talks, Tasks, Tcp, Worker, Zygote};

const fn row(
    name: &'static str,
    number: c_long,
    who: Who,
    tests: &'static [Test],
    why: &'static str,
) -> Row {
    Row {
        name,
        number,
        who,
        tests,
        why,
    }
}

/// `clone` as a plain fork: nothing shared, a signal to the parent, optionally a
/// descriptor, and the address where libc keeps the thread's number.
const FORK: Test = Bits {
    arg: 0,
    mask: !((libc::CLONE_PIDFD | libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID) as u32),
    value: libc::SIGCHLD as u32,
};

/// `clone` as the C libraries make a thread; musl sets a bit without effect.
const THREAD: Test = Bits {
    arg: 0,
    mask: !(libc::CLONE_DETACHED as u32),
    value: (libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID) as u32,
};

/// `clone` of a process, of any kind.
const NO_THREAD: Test = Bits {
    arg: 0,
    mask: libc::CLONE_THREAD as u32,
    value: 0,
};

const fn clone_with(flag: libc::c_int) -> Test {
    Bits {
        arg: 0,
        mask: flag as u32,
        value: flag as u32,
    }
}

/// Memory that is not executable.
const NO_CODE: Test = Bits {
    arg: 2,
    mask: libc::PROT_EXEC as u32,
    value: 0,
};

/// Memory that counts against the limit on data, which shared memory and memory that grows
/// down do not.
const COUNTED: Test = Bits {
    arg: 3,
    mask: (libc::MAP_TYPE | libc::MAP_GROWSDOWN) as u32,
    value: libc::MAP_PRIVATE as u32,
};

/// Memory of a file, which counts against the limit on files: not shared anonymous memory.
const OF_A_FILE: Test = Bits {
    arg: 3,
    mask: (libc::MAP_TYPE | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN) as u32,
    value: libc::MAP_SHARED as u32,
};

/// Of the flags that can be set on an open file, only whether calls block. The others would
/// affect all processes that have the description: where writes go, and signals.
const ONLY_WAITING: Test = Bits {
    arg: 2,
    mask: (libc::O_APPEND | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME) as u32,
    value: 0,
};

/// The calling process, not another one by its number.
const ITSELF: Test = OneOf(0, &[0]);

/// The descriptor itself, not a path below it.
const fn itself(flags: u8) -> Test {
    Bits {
        arg: flags,
        mask: libc::AT_EMPTY_PATH as u32,
        value: libc::AT_EMPTY_PATH as u32,
    }
}

const INET: Test = OneOf(0, &[libc::AF_INET as u32, libc::AF_INET6 as u32]);
const STREAM: Test = Bits {
    arg: 1,
    mask: 0xf,
    value: libc::SOCK_STREAM as u32,
};

const PACKETS: Test = Bits {
    arg: 1,
    mask: 0xf,
    value: libc::SOCK_SEQPACKET as u32,
};

/// No TCP Fast Open: with it, a sending call also connects, and Landlock does not see it.
const NOT_CONNECTING: Test = Bits {
    arg: 2,
    mask: libc::MSG_FASTOPEN as u32,
    value: 0,
};
const TCP: Test = OneOf(2, &[0, libc::IPPROTO_TCP as u32]);

/// The allowed calls. Sorted by name.
#[rustfmt::skip]
pub(super) const ALLOWED: &[Row] = &[
    row("brk", libc::SYS_brk, All, &[], "malloc"),
    row("clock_getres", libc::SYS_clock_getres, All, &[], "WASI clocks"),
    row("clock_gettime", libc::SYS_clock_gettime, All, &[], "time, where it is not read without a call; CPU time"),
    row("clock_nanosleep", libc::SYS_clock_nanosleep, All, &[], "waiting"),
    row("clone", libc::SYS_clone, Zygote, &[FORK], "a process for each task"),
    row("clone", libc::SYS_clone, Compiler, &[THREAD], "compiling on several processors"),
    row("clone3", libc::SYS_clone3, All, &[], "another filter answers ENOSYS, and libc goes back to clone"),
    row("close", libc::SYS_close, All, &[], "descriptors"),
    row("connect", libc::SYS_connect, Tcp, &[], "WASI sockets; the host's check comes first, Landlock after"),
    row("dup", libc::SYS_dup, All, &[], "descriptors"),
    #[cfg(target_arch = "x86_64")]
    row("dup2", libc::SYS_dup2, All, &[], "streams"),
    row("dup3", libc::SYS_dup3, All, &[], "streams"),
    row("epoll_create1", libc::SYS_epoll_create1, All, &[], "tokio"),
    row("epoll_ctl", libc::SYS_epoll_ctl, All, &[], "tokio"),
    row("epoll_pwait", libc::SYS_epoll_pwait, All, &[], "tokio"),
    #[cfg(target_arch = "x86_64")]
    row("epoll_wait", libc::SYS_epoll_wait, All, &[], "tokio"),
    row("eventfd2", libc::SYS_eventfd2, All, &[], "tokio"),
    row("exit", libc::SYS_exit, All, &[], "the end of a thread"),
    row("exit_group", libc::SYS_exit_group, All, &[], "the end"),
    row("fadvise64", libc::SYS_fadvise64, Files, &[], "WASI files: advise"),
    row("fallocate", libc::SYS_fallocate, Regions, &[OneOf(1, &[0])], "a region's pages are reserved; no holes, whatever else is granted"),
    row("fchdir", libc::SYS_fchdir, Files, &[], "granted directories, which have no path here"),
    row("fcntl", libc::SYS_fcntl, All, &[OneOf(1, &[
        libc::F_DUPFD as u32, libc::F_DUPFD_CLOEXEC as u32, libc::F_GETFD as u32,
        libc::F_SETFD as u32, libc::F_GETFL as u32, libc::F_GET_SEALS as u32,
    ])], "descriptors: copies and flags; no locks, owners or leases"),
    row("fcntl", libc::SYS_fcntl, All, &[OneOf(1, &[libc::F_SETFL as u32]), ONLY_WAITING],
        "waiting or not; nothing that others notice who have the same file description"),
    row("fcntl", libc::SYS_fcntl, Regions, &[OneOf(1, &[libc::F_ADD_SEALS as u32])], "a region keeps its bytes when it is frozen, a large message when it is sent"),
    row("fdatasync", libc::SYS_fdatasync, Files, &[], "WASI files: sync-data"),
    row("fstat", libc::SYS_fstat, All, &[], "what a descriptor is"),
    row("fstatfs", libc::SYS_fstatfs, Regions, &[], "whether what was handed over is ordinary memory"),
    row("fsync", libc::SYS_fsync, Files, &[], "WASI files: sync"),
    row("ftruncate", libc::SYS_ftruncate, Files, &[], "WASI files: set-size"),
    row("ftruncate", libc::SYS_ftruncate, Compiler, &[], "the size of its result"),
    row("futex", libc::SYS_futex, All, &[], "locks"),
    row("getcpu", libc::SYS_getcpu, All, &[], "malloc's arenas, where it is not read without a call"),
    row("getdents64", libc::SYS_getdents64, Files, &[], "WASI files: read-directory"),
    row("getegid", libc::SYS_getegid, All, &[], "libc"),
    row("geteuid", libc::SYS_geteuid, All, &[], "libc"),
    row("getgid", libc::SYS_getgid, All, &[], "libc"),
    row("getpeername", libc::SYS_getpeername, Tasks, &[], "WASI sockets"),
    row("getpid", libc::SYS_getpid, All, &[], "abort, and whose child this is"),
    row("getppid", libc::SYS_getppid, All, &[], "whether the parent is alive"),
    row("getrandom", libc::SYS_getrandom, All, &[], "random numbers"),
    row("getrusage", libc::SYS_getrusage, All, &[], "what a task cost"),
    row("getsockname", libc::SYS_getsockname, Tasks, &[], "WASI sockets"),
    row("getsockopt", libc::SYS_getsockopt, Tasks, &[], "WASI sockets; the kind of a socket that was handed over"),
    row("gettid", libc::SYS_gettid, All, &[], "abort, locks, timers"),
    row("gettimeofday", libc::SYS_gettimeofday, All, &[], "time, where it is not read without a call"),
    row("getuid", libc::SYS_getuid, All, &[], "libc"),
    row("ioctl", libc::SYS_ioctl, All, &[OneOf(1, &[
        libc::FIONBIO as u32, libc::FIONREAD as u32, libc::TIOCOUTQ as u32, libc::TCGETS as u32,
    ])], "waiting or not, how much there is or lies unread, whether a stream is a terminal"),
    row("landlock_add_rule", libc::SYS_landlock_add_rule, Before, &[], "the task's own walls"),
    row("landlock_create_ruleset", libc::SYS_landlock_create_ruleset, Before, &[], "the task's own walls"),
    row("landlock_restrict_self", libc::SYS_landlock_restrict_self, Before, &[], "the task's own walls"),
    row("linkat", libc::SYS_linkat, Files, &[], "WASI files: link-at"),
    row("lseek", libc::SYS_lseek, All, &[], "files, the compiler's result among them"),
    row("madvise", libc::SYS_madvise, All, &[OneOf(2, &[
        libc::MADV_NORMAL as u32, libc::MADV_DONTNEED as u32, libc::MADV_FREE as u32,
        libc::MADV_HUGEPAGE as u32, libc::MADV_NOHUGEPAGE as u32, libc::MADV_COLLAPSE as u32,
    ])], "malloc and wasmtime give memory back; nobody takes pages out of a region"),
    row("membarrier", libc::SYS_membarrier, All, &[], "wasmtime, between writing code and running it, on some processors"),
    row("memfd_create", libc::SYS_memfd_create, Talks, &[
        OneOf(1, &[libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING]),
    ], "channels: the data of a large message; regions are the runner's to make"),
    row("mkdirat", libc::SYS_mkdirat, Files, &[], "WASI files: create-directory-at"),
    row("mmap", libc::SYS_mmap, All, &[NO_CODE, COUNTED], "memory: heaps, stacks, a guest's memories"),
    row("mmap", libc::SYS_mmap, Regions, &[NO_CODE, OF_A_FILE], "a region, laid over a guest's memory"),
    row("mprotect", libc::SYS_mprotect, All, &[NO_CODE], "a guest's memories grow"),
    row("mremap", libc::SYS_mremap, All, &[], "realloc"),
    row("munmap", libc::SYS_munmap, All, &[], "memory is given back"),
    row("nanosleep", libc::SYS_nanosleep, All, &[], "waiting"),
    row("newfstatat", libc::SYS_newfstatat, All, &[itself(3)], "what a descriptor is"),
    row("newfstatat", libc::SYS_newfstatat, Files, &[], "WASI files: stat-at"),
    row("openat", libc::SYS_openat, Files, &[], "WASI files: open-at"),
    row("openat2", libc::SYS_openat2, Files, &[], "WASI files: open-at, beneath a directory"),
    row("pidfd_open", libc::SYS_pidfd_open, Zygote, &[], "ending its own children"),
    row("pidfd_send_signal", libc::SYS_pidfd_send_signal, Zygote, &[], "ending its own children"),
    row("pipe2", libc::SYS_pipe2, All, &[], "streams within the process"),
    #[cfg(target_arch = "x86_64")]
    row("poll", libc::SYS_poll, All, &[], "waiting for a descriptor"),
    row("ppoll", libc::SYS_ppoll, All, &[], "waiting for a descriptor"),
    row("prctl", libc::SYS_prctl, Compiler, &[OneOf(0, &[libc::PR_SET_NAME as u32])], "the name of a thread"),
    row("prctl", libc::SYS_prctl, Before, &[OneOf(0, &[
        libc::PR_SET_PDEATHSIG as u32, libc::PR_SET_NO_NEW_PRIVS as u32, libc::PR_GET_NO_NEW_PRIVS as u32,
    ])], "the task's own walls"),
    row("pread64", libc::SYS_pread64, All, &[], "files, and code that is mapped"),
    row("preadv", libc::SYS_preadv, Files, &[], "WASI files: read"),
    row("preadv2", libc::SYS_preadv2, Files, &[], "WASI files: read"),
    row("prlimit64", libc::SYS_prlimit64, All, &[ITSELF, Null(2)], "its limits are read"),
    row("prlimit64", libc::SYS_prlimit64, Before, &[ITSELF], "the task's own limits"),
    row("prlimit64", libc::SYS_prlimit64, Compiler, &[
        ITSELF, OneOf(1, &[libc::RLIMIT_NPROC as _]),
    ], "no more threads once it has those it needs"),
    row("pwrite64", libc::SYS_pwrite64, Files, &[], "WASI files: write"),
    row("pwrite64", libc::SYS_pwrite64, Compiler, &[], "its result"),
    row("pwrite64", libc::SYS_pwrite64, Regions, &[], "regions: write; large messages"),
    row("pwritev", libc::SYS_pwritev, Files, &[], "WASI files: write"),
    row("pwritev2", libc::SYS_pwritev2, Files, &[], "WASI files: append"),
    row("read", libc::SYS_read, All, &[], "streams, orders"),
    row("readlinkat", libc::SYS_readlinkat, Files, &[], "WASI files: readlink-at"),
    row("readv", libc::SYS_readv, All, &[], "streams"),
    row("recvfrom", libc::SYS_recvfrom, Tasks, &[], "sockets that were connected"),
    row("recvmsg", libc::SYS_recvmsg, Tasks, &[], "descriptors that are handed over"),
    row("renameat", libc::SYS_renameat, Files, &[], "WASI files: rename-at"),
    row("renameat2", libc::SYS_renameat2, Files, &[], "WASI files: rename-at"),
    row("restart_syscall", libc::SYS_restart_syscall, All, &[], "the kernel goes on waiting after a stop"),
    row("rseq", libc::SYS_rseq, All, &[], "libc, for a new thread"),
    row("rt_sigaction", libc::SYS_rt_sigaction, All, &[], "wasmtime's traps, timers, abort"),
    row("rt_sigprocmask", libc::SYS_rt_sigprocmask, All, &[], "wasmtime's traps, fork, threads, abort"),
    row("rt_sigreturn", libc::SYS_rt_sigreturn, All, &[], "the end of a signal handler"),
    row("sched_getaffinity", libc::SYS_sched_getaffinity, All, &[], "how many processors there are"),
    row("sched_yield", libc::SYS_sched_yield, All, &[], "locks"),
    row("seccomp", libc::SYS_seccomp, Before, &[], "the task's own walls"),
    row("sendmsg", libc::SYS_sendmsg, Tasks, &[NOT_CONNECTING], "descriptors that are handed over"),
    row("sendto", libc::SYS_sendto, Tasks, &[Null(4)], "sockets that were connected, no other address"),
    row("set_robust_list", libc::SYS_set_robust_list, All, &[], "libc, in a child and for a new thread"),
    row("setitimer", libc::SYS_setitimer, Tasks, &[], "the ticks that preempt guests"),
    row("setsockopt", libc::SYS_setsockopt, Tasks, &[
        OneOf(1, &[libc::SOL_SOCKET as u32]),
        OneOf(2, &[
            libc::SO_REUSEADDR as u32, libc::SO_KEEPALIVE as u32, libc::SO_RCVBUF as u32, libc::SO_SNDBUF as u32,
        ]),
    ], "WASI sockets: options"),
    row("setsockopt", libc::SYS_setsockopt, Tasks, &[
        OneOf(1, &[libc::IPPROTO_TCP as u32]),
        OneOf(2, &[
            libc::TCP_NODELAY as u32, libc::TCP_KEEPIDLE as u32, libc::TCP_KEEPINTVL as u32, libc::TCP_KEEPCNT as u32,
        ]),
    ], "WASI sockets: options"),
    row("setsockopt", libc::SYS_setsockopt, Tasks, &[
        OneOf(1, &[libc::IPPROTO_IPV6 as u32]),
        OneOf(2, &[libc::IPV6_V6ONLY as u32, libc::IPV6_UNICAST_HOPS as u32]),
    ], "WASI sockets: options"),
    row("setsockopt", libc::SYS_setsockopt, Tasks, &[
        OneOf(1, &[libc::IPPROTO_IP as u32]), OneOf(2, &[libc::IP_TTL as u32]),
    ], "WASI sockets: options"),
    row("shutdown", libc::SYS_shutdown, Tasks, &[], "the end of one direction of a socket"),
    row("sigaltstack", libc::SYS_sigaltstack, All, &[], "wasmtime's traps on a full stack"),
    row("socket", libc::SYS_socket, Tasks, &[INET, STREAM, TCP], "WASI sockets; without a grant it can be made and not connected, so that the report can tell where to"),
    row("socketpair", libc::SYS_socketpair, Before, &[OneOf(0, &[libc::AF_UNIX as u32]), STREAM], "tokio, where the program has its `signal` feature: a pair for each process, made with its event loop"),
    row("socketpair", libc::SYS_socketpair, Talks, &[OneOf(0, &[libc::AF_UNIX as u32]), STREAM], "channels: their credit"),
    row("socketpair", libc::SYS_socketpair, Talks, &[OneOf(0, &[libc::AF_UNIX as u32]), PACKETS], "channels: their messages; no datagrams, which may go to any address"),
    row("statx", libc::SYS_statx, All, &[itself(2)], "what a descriptor is"),
    row("statx", libc::SYS_statx, Files, &[], "WASI files: stat-at"),
    row("symlinkat", libc::SYS_symlinkat, Files, &[], "WASI files: symlink-at"),
    row("tgkill", libc::SYS_tgkill, Zygote, &[], "abort in its children, whose numbers are not known yet"),
    row("tgkill", libc::SYS_tgkill, All, &[Own(0)], "abort"),
    row("unlinkat", libc::SYS_unlinkat, Files, &[], "WASI files: unlink-file-at, remove-directory-at"),
    row("utimensat", libc::SYS_utimensat, Files, &[], "WASI files: set-times"),
    row("wait4", libc::SYS_wait4, Zygote, &[], "how its children ended"),
    row("waitid", libc::SYS_waitid, Zygote, &[], "how its children ended"),
    row("write", libc::SYS_write, All, &[], "streams, answers"),
    row("writev", libc::SYS_writev, All, &[], "streams, answers"),
];

/// Calls that nothing in a worker makes by mistake: the process ends. Sorted by name.
#[rustfmt::skip]
pub(super) const FATAL: &[Row] = &[
    row("add_key", libc::SYS_add_key, All, &[], "the kernel's keys"),
    row("bpf", libc::SYS_bpf, All, &[], "code in the kernel"),
    row("chroot", libc::SYS_chroot, All, &[], "another root"),
    row("clone", libc::SYS_clone, Compiler, &[NO_THREAD], "a process"),
    row("clone", libc::SYS_clone, Worker, &[NO_THREAD], "a process"),
    row("clone", libc::SYS_clone, Zygote, &[clone_with(libc::CLONE_VFORK)], "a program about to be started"),
    row("clone", libc::SYS_clone, All, &[clone_with(libc::CLONE_NEWNS)], "namespaces, which give rights"),
    row("clone", libc::SYS_clone, All, &[clone_with(libc::CLONE_NEWUSER)], "namespaces, which give rights"),
    row("clone", libc::SYS_clone, All, &[clone_with(libc::CLONE_NEWPID)], "namespaces, which give rights"),
    row("clone", libc::SYS_clone, All, &[clone_with(libc::CLONE_NEWNET)], "namespaces, which give rights"),
    row("clone", libc::SYS_clone, All, &[clone_with(libc::CLONE_NEWIPC)], "namespaces, which give rights"),
    row("delete_module", libc::SYS_delete_module, All, &[], "code in the kernel"),
    row("execve", libc::SYS_execve, All, &[], "another program"),
    row("execveat", libc::SYS_execveat, All, &[], "another program"),
    row("finit_module", libc::SYS_finit_module, All, &[], "code in the kernel"),
    #[cfg(target_arch = "x86_64")]
    row("fork", libc::SYS_fork, All, &[], "a process"),
    row("fsconfig", libc::SYS_fsconfig, All, &[], "mounts"),
    row("fsmount", libc::SYS_fsmount, All, &[], "mounts"),
    row("fsopen", libc::SYS_fsopen, All, &[], "mounts"),
    row("fspick", libc::SYS_fspick, All, &[], "mounts"),
    row("init_module", libc::SYS_init_module, All, &[], "code in the kernel"),
    row("io_uring_enter", libc::SYS_io_uring_enter, All, &[], "system calls that no filter sees"),
    row("io_uring_register", libc::SYS_io_uring_register, All, &[], "system calls that no filter sees"),
    row("io_uring_setup", libc::SYS_io_uring_setup, All, &[], "system calls that no filter sees"),
    #[cfg(target_arch = "x86_64")]
    row("ioperm", libc::SYS_ioperm, All, &[], "the machine's ports"),
    #[cfg(target_arch = "x86_64")]
    row("iopl", libc::SYS_iopl, All, &[], "the machine's ports"),
    row("kexec_file_load", libc::SYS_kexec_file_load, All, &[], "another kernel"),
    row("kexec_load", libc::SYS_kexec_load, All, &[], "another kernel"),
    row("keyctl", libc::SYS_keyctl, All, &[], "the kernel's keys"),
    row("mount", libc::SYS_mount, All, &[], "mounts"),
    row("mount_setattr", libc::SYS_mount_setattr, All, &[], "mounts"),
    row("move_mount", libc::SYS_move_mount, All, &[], "mounts"),
    row("name_to_handle_at", libc::SYS_name_to_handle_at, All, &[], "files past every directory"),
    row("open_by_handle_at", libc::SYS_open_by_handle_at, All, &[], "files past every directory"),
    row("open_tree", libc::SYS_open_tree, All, &[], "mounts"),
    row("perf_event_open", libc::SYS_perf_event_open, All, &[], "other processes, the kernel"),
    row("pidfd_getfd", libc::SYS_pidfd_getfd, All, &[], "another process's descriptors"),
    row("pivot_root", libc::SYS_pivot_root, All, &[], "another root"),
    row("process_vm_readv", libc::SYS_process_vm_readv, All, &[], "another process's memory"),
    row("process_vm_writev", libc::SYS_process_vm_writev, All, &[], "another process's memory"),
    row("ptrace", libc::SYS_ptrace, All, &[], "another process"),
    row("reboot", libc::SYS_reboot, All, &[], "the machine"),
    row("request_key", libc::SYS_request_key, All, &[], "the kernel's keys"),
    row("setns", libc::SYS_setns, All, &[], "namespaces"),
    row("swapoff", libc::SYS_swapoff, All, &[], "the machine"),
    row("swapon", libc::SYS_swapon, All, &[], "the machine"),
    row("umount2", libc::SYS_umount2, All, &[], "mounts"),
    row("unshare", libc::SYS_unshare, All, &[], "namespaces, which give rights"),
    row("userfaultfd", libc::SYS_userfaultfd, All, &[], "a lever of exploits of the kernel"),
    #[cfg(target_arch = "x86_64")]
    row("vfork", libc::SYS_vfork, All, &[], "a program about to be started"),
];

/// Calls of [`ALLOWED`] that are only needed before a task, and that a task's process may
/// not make. Sorted by name.
#[rustfmt::skip]
pub(super) const TAKEN: &[Row] = &[
    row("clone", libc::SYS_clone, All, &[], "no processes"),
    row("epoll_create1", libc::SYS_epoll_create1, All, &[], "what the kernel keeps for a task is bounded; tokio has its own by now"),
    row("landlock_add_rule", libc::SYS_landlock_add_rule, All, &[], "the walls stand"),
    row("landlock_create_ruleset", libc::SYS_landlock_create_ruleset, All, &[], "the walls stand"),
    row("landlock_restrict_self", libc::SYS_landlock_restrict_self, All, &[], "the walls stand"),
    row("pidfd_open", libc::SYS_pidfd_open, All, &[], "no other processes"),
    row("pidfd_send_signal", libc::SYS_pidfd_send_signal, All, &[], "no signals"),
    row("pipe2", libc::SYS_pipe2, All, &[], "what the kernel keeps for a task is bounded"),
    row("prctl", libc::SYS_prctl, All, &[], "the walls stand"),
    row("prlimit64", libc::SYS_prlimit64, All, &[NotNull(2)], "limits stay"),
    row("seccomp", libc::SYS_seccomp, All, &[], "the walls stand"),
    row("socketpair", libc::SYS_socketpair, Mute, &[], "what the kernel keeps for a task is bounded; tokio has its own by now"),
    row("tgkill", libc::SYS_tgkill, All, &[NotOwn(0)], "no signals but to itself"),
    row("wait4", libc::SYS_wait4, All, &[], "no processes"),
    row("waitid", libc::SYS_waitid, All, &[], "no processes"),
];
