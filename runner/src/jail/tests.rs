//! The jail, tried from the inside.
//!
//! Each test starts this test binary again for one test, [`inside`], which forks:
//! a process with one thread, an empty environment and nothing inherited, as a
//! worker is. That one walks through the stages and tells what it saw.

use super::plan::Plan;
use super::report::{Layer, LayerState};
use super::syscalls::{ALLOWED, FATAL, Row, TAKEN, Who};
use super::*;
use crate::config::Jail;
use crate::sys::attempt::{self, call};
use rustix::process::{WaitOptions, getppid, kill_process, wait, waitpid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Begins the line that tells what was seen.
const SEEN: &str = "seen: ";

#[derive(Serialize, Deserialize)]
struct Scenario {
    plan: Plan,
    act: Act,
    before: Before,
    /// A directory that is granted, if any, and whether only to be read.
    dir: Option<(String, bool)>,
    ports: Vec<u16>,
}

/// What the worker finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Before {
    Usual,
    /// A descriptor that it was started with.
    Leak,
    /// A container that refuses to unshare anything.
    NoUnshare,
    /// A system without user namespaces.
    NoUserNamespace,
    /// A system that gives a user namespace without rights in it.
    OnlyUserNamespace,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Act {
    /// Only reports.
    Report,
    /// Tries these one after the other, each in a child of its own where forking
    /// is possible.
    Attempts(Vec<Attempt>),
    /// Calls everything that is not on the list.
    Unlisted,
    /// Compiles a module on several threads and writes the result.
    Compile,
    /// A zygote ends while its child waits.
    Orphan,
    /// The runner ends while its worker waits.
    Outlive,
    /// Takes the time.
    Cost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Attempt {
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
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    error: Option<String>,
    report: JailReport,
    user: u32,
    group: u32,
    /// What became of each attempt: `ok`, an errno or a signal.
    ended: BTreeMap<String, String>,
}

impl Seen {
    fn state(&self, layer: Layer) -> LayerState {
        self.report.layer(layer).expect("it is reported").state
    }

    fn detail(&self, layer: Layer) -> &str {
        &self.report.layer(layer).expect("it is reported").detail
    }

    #[track_caller]
    fn check(&self, wanted: &[(Attempt, &str)]) {
        assert_eq!(self.error, None);
        for (attempt, end) in wanted {
            let name = format!("{attempt:?}");
            assert_eq!(
                self.ended.get(&name).map(String::as_str),
                Some(*end),
                "{name}: {:#?} {:#?}",
                self.ended,
                self.report
            );
        }
    }
}

fn plan(role: Role) -> Plan {
    Plan {
        mode: Jail::Strict,
        role,
        grants: Grants::default(),
        identity: None,
        cgroup: None,
        compile: None,
        absent: Vec::new(),
    }
}

/// Who starts the worker.
#[derive(Clone, Copy, Debug)]
enum User {
    Own,
    /// An ordinary user; where the tests are not root's, whoever runs them.
    Nobody,
}

/// A copy of this program where every user may run it.
fn program() -> std::path::PathBuf {
    use std::sync::OnceLock;
    static COPY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = COPY.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("open");
        let own = std::env::current_exe().expect("its own path");
        fs::copy(own, directory.path().join("jail")).expect("a copy");
        directory
    });
    directory.path().join("jail")
}

fn start(user: User, scenario: &Scenario) -> (Seen, String) {
    let mut command = Command::new(program());
    command
        .args(["jail::tests::inside", "--exact", "--ignored"])
        .args(["--nocapture", "--test-threads=1"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if matches!(user, User::Nobody) && rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let mut child = command.spawn().expect("it starts");
    let scenario = serde_json::to_vec(scenario).expect("plain data");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(&scenario)
        .expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let seen = match text.lines().find_map(|line| line.split_once(SEEN)) {
        Some((_, seen)) => serde_json::from_str(seen).expect("plain data"),
        None => Seen {
            error: Some(text.clone()),
            ..Seen::default()
        },
    };
    (seen, text)
}

fn run(user: User, plan: Plan, act: Act) -> Seen {
    let scenario = Scenario {
        plan,
        act,
        before: Before::Usual,
        dir: None,
        ports: Vec::new(),
    };
    start(user, &scenario).0
}

fn attempts(user: User, plan: Plan, attempts: &[Attempt]) -> Seen {
    run(user, plan, Act::Attempts(attempts.to_vec()))
}

/// Not a test: the other side of the others.
#[test]
#[ignore = "the other tests start it"]
fn inside() {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).expect("a scenario");
    let Ok(scenario) = serde_json::from_str::<Scenario>(&text) else {
        return;
    };
    let outlive = scenario.act == Act::Outlive;
    let (mut ready, is_ready) = io::pipe().expect("a pipe");
    if attempt::fork().expect("a fork").is_none() {
        let ready = rustix::io::dup(&is_ready).expect("a descriptor");
        rustix::stdio::dup2_stdin(&ready).expect("its stdin is free");
        crate::sys::close_inherited();
        let code = match std::panic::catch_unwind(|| walk(scenario)) {
            Ok(()) => 0,
            Err(_) => 101,
        };
        attempt::exit(code);
    }
    drop(is_ready);
    if outlive {
        ready.read_exact(&mut [0]).expect("a byte");
        attempt::exit(0);
    }
    // The sibling that `split` makes is a child of this process, too.
    while let Ok(Some((_, status))) = wait(WaitOptions::empty()) {
        println!("ended: {status:?}");
    }
}

fn say(seen: &Seen) {
    let line = format!(
        "\n{SEEN}{}\n",
        serde_json::to_string(seen).expect("plain data")
    );
    rustix::io::write(rustix::stdio::stdout(), line.as_bytes()).expect("somebody reads");
}

fn walk(scenario: Scenario) {
    let mut seen = Seen::default();
    if let Err(error) = stages(scenario, &mut seen) {
        seen.error = Some(error.to_string());
    }
    say(&seen);
}

fn stages(scenario: Scenario, seen: &mut Seen) -> Result<(), JailError> {
    let role = scenario.plan.role;
    // Opened before, as a runner does.
    let dir = scenario
        .dir
        .as_ref()
        .map(|(path, read_only)| (File::open(path).expect("the directory"), *read_only));
    let dirs: Vec<_> = dir
        .iter()
        .map(|(file, read_only)| (file.as_fd(), *read_only))
        .collect();
    scenario.before.prepare();
    let started = Instant::now();
    let walls = begin(scenario.plan)?;
    let begun = started.elapsed();
    let walls = match walls.split()? {
        // What a worker's first process does: nothing more.
        Split::Outside { pid } => attempt::exit(i32::from(pid < 2)),
        Split::Inside(walls) => walls,
    };
    let split = started.elapsed();
    let module = (role != Role::Compiler).then(module);
    let mut result = File::from(
        rustix::fs::memfd_create("result", rustix::fs::MemfdFlags::CLOEXEC).expect("a file"),
    );
    let sealing = Instant::now();
    let (sealed, report) = walls.seal()?;
    let sealed_in = sealing.elapsed();
    seen.report = report;
    seen.user = rustix::process::geteuid().as_raw();
    seen.group = rustix::process::getegid().as_raw();
    let task = TaskWalls {
        dirs: &dirs,
        tcp_ports: &scenario.ports,
        memory: 64 << 20,
        cpu: Some(Duration::from_secs(1)),
    };
    match scenario.act {
        Act::Report => {}
        Act::Attempts(attempts) => {
            for attempt in attempts {
                let go = || {
                    sealed.tighten(&task).expect("it tightens");
                    attempt.make(&dirs, module.as_ref(), &result)
                };
                let end = match role {
                    Role::Zygote => in_child(go),
                    Role::Worker | Role::Compiler => errno_of(go()),
                };
                seen.ended.insert(format!("{attempt:?}"), end);
            }
        }
        Act::Unlisted => {
            let listed = seccomp::rules(ALLOWED, role, Grants::default()).expect("rules");
            // The kernel lets two calls, of probes it put into a program itself, past
            // every filter.
            let exempt = [335, 336];
            let unlisted = (0..600)
                .filter(|number| !listed.contains_key(number))
                .filter(|number| cfg!(not(target_arch = "x86_64")) || !exempt.contains(number));
            for number in unlisted {
                let end = in_child(|| {
                    sealed.tighten(&task).expect("it tightens");
                    call(number, [0; 6]).map(drop)
                });
                seen.ended.insert(number.to_string(), end);
            }
        }
        Act::Compile => {
            let mut config = wasmtime::Config::new();
            config.parallel_compilation(true);
            let engine = wasmtime::Engine::new(&config).expect("an engine");
            let text = format!("(module {})", "(func (result i32) i32.const 1)".repeat(200));
            let wasm = wat::parse_str(text).expect("wat");
            let code = engine.precompile_module(&wasm).expect("it compiles");
            result.write_all(&code).expect("it may write");
            let threads = std::thread::spawn(|| ()).join().is_ok();
            seen.ended.insert("threads".into(), threads.to_string());
            let too_large = vec![0; 2 << 20];
            seen.ended
                .insert("too large".into(), errno_of(result.write_all(&too_large)));
            for attempt in [
                Attempt::Nothing,
                Attempt::ReadPasswd,
                Attempt::MakeCode,
                Attempt::SocketTcp,
                Attempt::BecomeDumpable,
                Attempt::TooMuchMemory,
            ] {
                let end = errno_of(attempt.make(&dirs, None, &result));
                seen.ended.insert(format!("{attempt:?}"), end);
            }
        }
        Act::Orphan => {
            let (mut ready, mut is_ready) = io::pipe().expect("a pipe");
            if attempt::fork().expect("a fork").is_none() {
                sealed.tighten(&task).expect("it tightens");
                is_ready.write_all(b".").expect("somebody reads");
                survive();
            }
            ready.read_exact(&mut [0]).expect("a byte");
        }
        Act::Outlive => {
            say(seen);
            rustix::io::write(rustix::stdio::stdin(), b".").expect("somebody reads");
            survive();
        }
        Act::Cost => {
            let (mut times, mut tell) = io::pipe().expect("a pipe");
            let mut tightened = Vec::new();
            for _ in 0..200 {
                let child = attempt::fork().expect("a fork");
                if child.is_none() {
                    let started = Instant::now();
                    sealed.tighten(&task).expect("it tightens");
                    let took = started.elapsed().as_nanos() as u64;
                    tell.write_all(&took.to_le_bytes()).expect("somebody reads");
                    attempt::exit(0);
                }
                let mut took = [0; 8];
                times.read_exact(&mut took).expect("a time");
                tightened.push(u64::from_le_bytes(took));
                let _ = waitpid(child, WaitOptions::empty());
            }
            tightened.sort_unstable();
            for (what, time) in [
                ("begin", begun),
                ("split", split - begun),
                ("seal", sealed_in),
                ("tighten", Duration::from_nanos(tightened[100])),
            ] {
                seen.ended.insert(what.into(), time.as_nanos().to_string());
            }
        }
    }
    Ok(())
}

/// Long enough for a signal that comes at all.
fn survive() -> ! {
    std::thread::sleep(Duration::from_secs(5));
    let _ = rustix::io::write(rustix::stdio::stdout(), b"survived\n");
    attempt::exit(0)
}

impl Before {
    fn prepare(self) {
        use seccompiler::{
            SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
            SeccompRule, apply_filter,
        };
        let flags = |op, value| {
            let condition = SeccompCondition::new(0, Dword, op, value).expect("a condition");
            vec![SeccompRule::new(vec![condition]).expect("a rule")]
        };
        let user = libc::CLONE_NEWUSER as u64;
        let rules = match self {
            Before::Usual => return,
            Before::Leak => {
                let leak = rustix::io::dup(rustix::stdio::stdin()).expect("a descriptor");
                std::mem::forget(leak);
                return;
            }
            Before::NoUnshare => Vec::new(),
            Before::NoUserNamespace => flags(SeccompCmpOp::MaskedEq(user), user),
            Before::OnlyUserNamespace => flags(SeccompCmpOp::Ne, user),
        };
        let filter = SeccompFilter::new(
            [(libc::SYS_unshare, rules)].into(),
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EPERM as u32),
            std::env::consts::ARCH.try_into().expect("a known one"),
        );
        let filter: seccompiler::BpfProgram = filter.and_then(TryInto::try_into).expect("a filter");
        apply_filter(&filter).expect("it applies");
    }
}

fn module() -> (wasmtime::Engine, wasmtime::Module) {
    let mut config = wasmtime::Config::new();
    config
        .parallel_compilation(false)
        .memory_may_move(false)
        .async_stack_size(2 << 20);
    let engine = wasmtime::Engine::new(&config).expect("an engine");
    let wasm = wat::parse_str(
        r#"(module (memory (export "memory") 1)
            (data (i32.const 0) "\2a")
            (func (export "run") (result i32)
                (drop (memory.grow (i32.const 100)))
                (i32.store (i32.const 6000000) (i32.load8_u (i32.const 0)))
                (i32.load (i32.const 6000000)))
            (func (export "trap") unreachable))"#,
    )
    .expect("wat");
    let module = wasmtime::Module::new(&engine, wasm).expect("it compiles");
    // What a zygote does once: the image of its memory.
    module.initialize_copy_on_write_image().expect("an image");
    (engine, module)
}

fn errno_of(result: io::Result<()>) -> String {
    match result {
        Ok(()) => "ok".into(),
        Err(error) => match error.raw_os_error() {
            Some(errno) => name_of(errno),
            None => error.to_string(),
        },
    }
}

fn name_of(errno: i32) -> String {
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

fn in_child(go: impl FnOnce() -> io::Result<()>) -> String {
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

impl Attempt {
    fn make(
        self,
        dirs: &[(std::os::fd::BorrowedFd<'_>, bool)],
        module: Option<&(wasmtime::Engine, wasmtime::Module)>,
        mut result: &File,
    ) -> io::Result<()> {
        use rustix::fs::{CWD, Mode, OFlags, openat};
        let failed = |error: wasmtime::Error| io::Error::other(error.to_string());
        let open = |path: &str, flags: OFlags| -> io::Result<std::os::fd::OwnedFd> {
            let (dir, _) = dirs.first().expect("a directory");
            Ok(openat(dir, path, flags, Mode::from_raw_mode(0o644))?)
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
            Attempt::Spin => loop {
                std::hint::spin_loop();
            },
        }
    }
}

const USERS: [User; 2] = [User::Own, User::Nobody];

#[test]
fn every_layer_is_reported_once_and_in_order() {
    for user in USERS {
        for role in [Role::Zygote, Role::Worker, Role::Compiler] {
            let seen = run(user, plan(role), Act::Report);
            assert_eq!(seen.error, None, "{user:?} {role:?}");
            let layers: Vec<Layer> = seen.report.layers.iter().map(|it| it.layer).collect();
            assert_eq!(layers, Layer::ALL, "{user:?} {role:?}");
            assert_eq!(seen.report.missing(), None);
            for report in &seen.report.layers {
                assert!(!report.detail.is_empty(), "{report:?}");
            }
        }
    }
}

#[test]
fn a_task_can_do_what_it_needs_and_nothing_else() {
    use Attempt::*;
    for user in USERS {
        let wanted = [
            (Nothing, "ok"),
            (Wasm, "ok"),
            (SocketTcp, "ok"),
            (EnoughMemory, "ok"),
            (SignalSelf, "ok"),
            (Abort, "SIGABRT"),
            (Spin, "SIGXCPU"),
            (ReadPasswd, "EPERM"),
            (ListRoot, "EPERM"),
            (Fork, "EPERM"),
            (Thread, "EPERM"),
            (Exec, "SIGSYS"),
            (Ptrace, "SIGSYS"),
            (Unshare, "SIGSYS"),
            (KillParent, "EPERM"),
            (MapCode, "EPERM"),
            (MakeCode, "EPERM"),
            (SocketUnix, "EPERM"),
            (SocketUdp, "EPERM"),
            (FastOpen, "EPERM"),
            (PairOfDatagrams, "EPERM"),
            (Connect(1), "EPERM"),
            (Raise, "EPERM"),
            (BecomeDumpable, "EPERM"),
            (TooMuchMemory, "ENOMEM"),
            (WriteFile, "EPERM"),
            (WriteOpen, "EFBIG"),
            #[cfg(target_arch = "x86_64")]
            (OtherAbi, "EPERM"),
        ];
        let all = wanted.map(|(attempt, _)| attempt);
        attempts(user, plan(Role::Zygote), &all).check(&wanted);
        // A worker tries in its own process, so one attempt each, and not those
        // that are about a zygote's child.
        for (attempt, end) in wanted {
            let seen = attempts(user, plan(Role::Worker), &[attempt]);
            match (attempt, end) {
                (KillParent | Abort, _) => {}
                (Fork, _) | (_, "SIGSYS") => {
                    let error = seen.error.expect("it is dead");
                    let signal = format!("terminating_signal: {}", libc::SIGSYS);
                    assert!(error.contains(&signal), "{attempt:?}: {error}");
                }
                (Spin, _) => assert!(seen.error.is_some()),
                _ => seen.check(&[(attempt, end)]),
            }
        }
    }
}

#[test]
fn a_call_that_is_not_listed_is_refused() {
    let seen = run(User::Own, plan(Role::Zygote), Act::Unlisted);
    assert_eq!(seen.error, None);
    assert!(seen.ended.len() > 400, "{}", seen.ended.len());
    let fatal = seccomp::rules(FATAL, Role::Zygote, Grants::default()).expect("rules");
    for (number, end) in &seen.ended {
        let number: i64 = number.parse().expect("a number");
        let wanted = if fatal.contains_key(&number) {
            "SIGSYS"
        } else {
            "EPERM"
        };
        assert_eq!(end, wanted, "{number}");
    }
}

#[test]
fn the_lists_are_in_order_and_have_reasons() {
    for rows in [ALLOWED, FATAL, TAKEN] {
        let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
        assert!(names.is_sorted(), "{names:?}");
        assert!(rows.iter().all(|row| row.why.len() > 2));
    }
    let of = |rows: &'static [Row], who: &[Who]| -> Vec<&str> {
        let rows = rows.iter().filter(|row| who.contains(&row.who));
        rows.map(|row| row.name).collect()
    };
    // Nothing of the time before a task is left to it.
    let taken = of(TAKEN, &[Who::All]);
    for name in of(ALLOWED, &[Who::Zygote, Who::Before]) {
        assert!(taken.contains(&name), "{name}");
    }
    // What is fatal is not allowed; what depends on arguments is checked by the
    // attempts.
    let allowed = of(ALLOWED, &[Who::All, Who::Tasks, Who::Files, Who::Tcp]);
    for row in FATAL.iter().filter(|row| row.tests.is_empty()) {
        assert!(!allowed.contains(&row.name), "{}", row.name);
    }
}

#[test]
fn a_compiler_has_threads_and_its_result_and_no_more() {
    for user in USERS {
        let mut plan = plan(Role::Compiler);
        plan.compile = Some(CompileLimits {
            data: 512 << 20,
            cpu: Duration::from_secs(60),
            file: 1 << 20,
        });
        let seen = run(user, plan, Act::Compile);
        seen.check(&[
            (Attempt::Nothing, "ok"),
            (Attempt::ReadPasswd, "EPERM"),
            (Attempt::MakeCode, "EPERM"),
            (Attempt::SocketTcp, "EPERM"),
            (Attempt::BecomeDumpable, "EPERM"),
            (Attempt::TooMuchMemory, "ENOMEM"),
        ]);
        assert_eq!(seen.ended["threads"], "true");
        assert_eq!(seen.ended["too large"], "EFBIG");
    }
}

#[test]
fn strict_refuses_what_best_effort_reports() {
    use Attempt::*;
    for layer in Layer::ALL {
        let mut plan = plan(Role::Zygote);
        plan.absent = vec![layer];
        let strict = run(User::Own, plan.clone(), Act::Report);
        match strict.error {
            Some(error) => {
                assert!(layer.is_required(), "{error}");
                let words = format!("the jail cannot be had: {layer} is unavailable: ");
                assert!(error.starts_with(&words), "{error}");
                assert!(error.contains("--jail best-effort"), "{error}");
            }
            None => assert!(!layer.is_required(), "{layer}"),
        }
        plan.mode = Jail::BestEffort;
        let seen = attempts(User::Own, plan, &[Nothing, Wasm]);
        seen.check(&[(Nothing, "ok"), (Wasm, "ok")]);
        assert_eq!(seen.report.layers.len(), Layer::ALL.len());
        assert_eq!(seen.state(layer), LayerState::Unavailable);
        for other in Layer::ALL {
            if other != layer && other != Layer::Cgroup {
                assert_eq!(seen.state(other), LayerState::Enforced, "{layer}: {other}");
            }
        }
    }
}

#[test]
fn the_layers_do_not_depend_on_each_other() {
    use Attempt::*;
    for user in USERS {
        let mut plan = plan(Role::Zygote);
        plan.mode = Jail::BestEffort;
        plan.absent = vec![Layer::Seccomp];
        attempts(
            user,
            plan.clone(),
            &[ListRoot, ReadPasswd, Connect(1), Wasm],
        )
        .check(&[
            (ListRoot, "EACCES"),
            (ReadPasswd, "ENOENT"),
            (Connect(1), "EACCES"),
            (Wasm, "ok"),
        ]);
        plan.absent = vec![Layer::Seccomp, Layer::Landlock];
        attempts(user, plan.clone(), &[ReadPasswd, Connect(1), Wasm]).check(&[
            (ReadPasswd, "ENOENT"),
            (Connect(1), "ENETUNREACH"),
            (Wasm, "ok"),
        ]);
        plan.absent = vec![Layer::Seccomp, Layer::MountNamespace, Layer::NetNamespace];
        attempts(user, plan, &[ReadPasswd, ReadProc, Connect(1)]).check(&[
            (ReadPasswd, "EACCES"),
            (ReadProc, "EACCES"),
            (Connect(1), "EACCES"),
        ]);
    }
}

#[test]
fn off_puts_nothing_up() {
    let mut plan = plan(Role::Zygote);
    plan.mode = Jail::Off;
    let seen = attempts(User::Own, plan, &[Attempt::ReadPasswd, Attempt::MakeCode]);
    seen.check(&[(Attempt::ReadPasswd, "ok"), (Attempt::MakeCode, "ok")]);
    assert_eq!(seen.report, JailReport::default());
}

#[test]
fn a_granted_directory_is_all_there_is() {
    use Attempt::*;
    let outside = tempfile::tempdir().expect("a directory");
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
    };
    open(outside.path(), 0o755);
    fs::write(outside.path().join("outside"), "secret").expect("a file");
    let granted = outside.path().join("granted");
    for user in USERS {
        for read_only in [false, true] {
            let _ = fs::remove_dir_all(&granted);
            fs::create_dir(&granted).expect("a directory");
            open(&granted, 0o777);
            fs::write(granted.join("file"), "granted").expect("a file");
            let mut plan = plan(Role::Zygote);
            plan.grants.files = true;
            let attempts = [
                ReadGranted,
                WriteGranted,
                RenameGranted,
                OutOfGranted,
                ReadPasswd,
                ListRoot,
                Connect(1),
                Wasm,
                SocketTcp,
            ];
            let scenario = Scenario {
                plan,
                act: Act::Attempts(attempts.to_vec()),
                before: Before::Usual,
                dir: Some((granted.display().to_string(), read_only)),
                ports: Vec::new(),
            };
            let (seen, _) = start(user, &scenario);
            let writes = if read_only { "EACCES" } else { "ok" };
            seen.check(&[
                (ReadGranted, "ok"),
                (WriteGranted, writes),
                (RenameGranted, writes),
                (OutOfGranted, "EACCES"),
                (ReadPasswd, "ENOENT"),
                (ListRoot, "EACCES"),
                (Connect(1), "EPERM"),
                (Wasm, "ok"),
                (SocketTcp, "ok"),
            ]);
            if matches!(user, User::Own) && rustix::process::geteuid().is_root() {
                assert_eq!(seen.user, 0);
                let detail = seen.detail(Layer::Identity);
                assert!(detail.contains("no capabilities"), "{detail}");
                assert!(detail.contains("--uid"), "{detail}");
            }
        }
    }
}

#[test]
fn a_granted_port_is_the_only_one() {
    use Attempt::*;
    let granted = TcpListener::bind("127.0.0.1:0").expect("a port");
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = |of: &TcpListener| of.local_addr().expect("an address").port();
    let (granted, other) = ((port(&granted), granted), (port(&other), other));
    for user in USERS {
        let mut plan = plan(Role::Zygote);
        plan.grants.tcp = true;
        let wanted = [
            (Connect(granted.0), "ok"),
            (Connect(other.0), "EACCES"),
            (Listen, "EACCES"),
            (SocketUdp, "EPERM"),
            (SocketUnix, "EPERM"),
            (ReadPasswd, "EPERM"),
        ];
        let scenario = Scenario {
            plan,
            act: Act::Attempts(wanted.map(|(attempt, _)| attempt).to_vec()),
            before: Before::Usual,
            dir: None,
            ports: vec![granted.0],
        };
        let (seen, _) = start(user, &scenario);
        seen.check(&wanted);
        assert_eq!(seen.state(Layer::NetNamespace), LayerState::Unavailable);
    }
}

#[test]
fn a_grant_that_was_not_planned_is_refused() {
    let scenario = Scenario {
        plan: plan(Role::Worker),
        act: Act::Attempts(vec![Attempt::Nothing]),
        before: Before::Usual,
        dir: None,
        ports: vec![1],
    };
    let (_, text) = start(User::Own, &scenario);
    assert!(text.contains("NotPlanned"), "{text}");
}

#[test]
fn only_root_chooses_who_a_worker_is() {
    let mut chosen = plan(Role::Worker);
    chosen.identity = Some((1234, 1235));
    let refused = run(User::Nobody, chosen.clone(), Act::Report);
    let error = refused.error.expect("it may not");
    assert!(
        error.contains("cannot run as user 1234 and group 1235"),
        "{error}"
    );
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let seen = run(User::Own, chosen.clone(), Act::Report);
    assert_eq!((seen.user, seen.group), (1234, 1235), "{seen:?}");
    chosen.grants.files = true;
    let seen = run(User::Own, chosen.clone(), Act::Report);
    assert_eq!((seen.user, seen.group), (1234, 1235));
    chosen.identity = Some((0, 0));
    let seen = run(User::Own, chosen, Act::Report);
    assert_eq!((seen.user, seen.error), (0, None));
    let seen = run(User::Own, plan(Role::Worker), Act::Report);
    assert_eq!((seen.user, seen.group), (65534, 65534));
}

#[test]
fn what_it_was_started_with_is_noticed() {
    let scenario = Scenario {
        plan: plan(Role::Zygote),
        act: Act::Report,
        before: Before::Leak,
        dir: None,
        ports: Vec::new(),
    };
    let error = start(User::Own, &scenario).0.error.expect("it is noticed");
    assert!(
        error.contains("descriptors is partial: inherited: "),
        "{error}"
    );
}

#[test]
fn a_system_may_refuse_namespaces() {
    use LayerState::{Enforced, Partial, Unavailable};
    let root = rustix::process::geteuid().is_root();
    for user in USERS {
        let privileged = root && matches!(user, User::Own);
        for before in [
            Before::NoUnshare,
            Before::NoUserNamespace,
            Before::OnlyUserNamespace,
        ] {
            let scenario = Scenario {
                plan: plan(Role::Zygote),
                act: Act::Attempts(vec![Attempt::Wasm, Attempt::ReadPasswd]),
                before,
                dir: None,
                ports: Vec::new(),
            };
            let (seen, _) = start(user, &scenario);
            // Strict, for what is required does not depend on them.
            seen.check(&[(Attempt::Wasm, "ok"), (Attempt::ReadPasswd, "EPERM")]);
            let (of_user, of_others) = match before {
                Before::NoUserNamespace if privileged => (Unavailable, Enforced),
                Before::OnlyUserNamespace => (Enforced, Unavailable),
                _ => (Unavailable, Unavailable),
            };
            assert_eq!(seen.state(Layer::UserNamespace), of_user, "{seen:#?}");
            for layer in [
                Layer::PidNamespace,
                Layer::NetNamespace,
                Layer::IpcNamespace,
                Layer::MountNamespace,
            ] {
                assert_eq!(
                    seen.state(layer),
                    of_others,
                    "{user:?} {before:?} {seen:#?}"
                );
                if of_others != Enforced {
                    let detail = seen.detail(layer);
                    assert!(detail.contains("not permitted"), "{detail}");
                }
            }
            assert_ne!(seen.state(Layer::Identity), Partial);
        }
    }
}

#[test]
fn a_worker_dies_with_its_parent() {
    for absent in [Vec::new(), vec![Layer::PidNamespace]] {
        for act in [Act::Orphan, Act::Outlive] {
            let mut plan = plan(Role::Zygote);
            plan.absent = absent.clone();
            let scenario = Scenario {
                plan,
                act,
                before: Before::Usual,
                dir: None,
                ports: Vec::new(),
            };
            let (seen, text) = start(User::Own, &scenario);
            assert_eq!(seen.error, None);
            assert!(!text.contains("survived"), "{text}");
        }
    }
}

/// `cargo test --release -- --ignored --nocapture jail::tests::cost`
#[test]
#[ignore = "prints times"]
fn cost() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("open");
    for user in USERS {
        for (files, tcp) in [(false, false), (true, false), (true, true)] {
            let mut plan = plan(Role::Zygote);
            plan.grants = Grants { files, tcp };
            let scenario = Scenario {
                plan,
                act: Act::Cost,
                before: Before::Usual,
                dir: files.then(|| (directory.path().display().to_string(), false)),
                ports: if tcp { vec![80] } else { Vec::new() },
            };
            let mut of_all = BTreeMap::<String, Vec<Duration>>::new();
            for _ in 0..15 {
                for (what, time) in start(user, &scenario).0.ended {
                    let time = time.parse().expect("nanoseconds");
                    of_all
                        .entry(what)
                        .or_default()
                        .push(Duration::from_nanos(time));
                }
            }
            for (what, mut times) in of_all {
                times.sort_unstable();
                let (least, median) = (times[0], times[times.len() / 2]);
                println!("{user:?}, files {files}, tcp {tcp}: {what}: {median:?}, least {least:?}");
            }
        }
    }
}
