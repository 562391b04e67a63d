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
    /// A directory that is granted, if any, and whether only to be read.
    dir: Option<(String, bool)>,
    ports: Vec<u16>,
}

#[derive(Clone, Serialize, Deserialize)]
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
    /// Ends with a zygote that is killed; its child waits.
    Orphan,
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
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    error: Option<String>,
    report: JailReport,
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
    let seen = text
        .lines()
        .find_map(|line| line.split_once(SEEN))
        .unwrap_or_else(|| panic!("nothing was seen: {text}"))
        .1;
    (serde_json::from_str(seen).expect("plain data"), text)
}

fn run(user: User, plan: Plan, act: Act) -> Seen {
    let scenario = Scenario {
        plan,
        act,
        dir: None,
        ports: Vec::new(),
    };
    start(user, &scenario).0
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
    if attempt::fork().expect("a fork").is_none() {
        crate::sys::close_inherited();
        let code = match std::panic::catch_unwind(|| walk(scenario)) {
            Ok(()) => 0,
            Err(_) => 101,
        };
        attempt::exit(code);
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
    let started = Instant::now();
    let walls = begin(scenario.plan)?;
    let begun = started.elapsed();
    let walls = match walls.split()? {
        // What a worker's first process does: nothing more.
        Split::Outside { .. } => attempt::exit(0),
        Split::Inside(walls) => walls,
    };
    let split = started.elapsed();
    let module = (role != Role::Compiler).then(module);
    let result = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile());
    let sealing = Instant::now();
    let (sealed, report) = walls.seal()?;
    let sealed_in = sealing.elapsed();
    seen.report = report;
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
                    attempt.make(&dirs, module.as_ref())
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
            for number in (0..600).filter(|number| !listed.contains_key(number)) {
                let end = in_child(|| {
                    sealed.tighten(&task).expect("it tightens");
                    call(number, [0; 6]).map(drop)
                });
                seen.ended.insert(number.to_string(), end);
            }
        }
        Act::Compile => {
            let mut file = result.expect("a file");
            let mut config = wasmtime::Config::new();
            config.parallel_compilation(true);
            let engine = wasmtime::Engine::new(&config).expect("an engine");
            let text = format!("(module {})", "(func (result i32) i32.const 1)".repeat(200));
            let wasm = wat::parse_str(text).expect("wat");
            let code = engine.precompile_module(&wasm).expect("it compiles");
            file.write_all(&code).expect("it may write");
            let threads = std::thread::spawn(|| ()).join().is_ok();
            seen.ended.insert("threads".into(), threads.to_string());
            let too_large = vec![0; 2 << 20];
            seen.ended
                .insert("too large".into(), errno_of(file.write_all(&too_large)));
            for attempt in [
                Attempt::Nothing,
                Attempt::ReadPasswd,
                Attempt::MakeCode,
                Attempt::SocketTcp,
                Attempt::BecomeDumpable,
                Attempt::TooMuchMemory,
            ] {
                let end = errno_of(attempt.make(&dirs, None));
                seen.ended.insert(format!("{attempt:?}"), end);
            }
        }
        Act::Orphan => {
            let (mut alive, end) = io::pipe().expect("a pipe");
            if attempt::fork().expect("a fork").is_none() {
                sealed.tighten(&task).expect("it tightens");
                std::thread::sleep(Duration::from_secs(60));
                attempt::exit(0);
            }
            drop(end);
            // Whoever reads this knows when the child is gone.
            let _ = alive.read(&mut []);
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
                ("tighten, median", Duration::from_nanos(tightened[100])),
                ("tighten, least", Duration::from_nanos(tightened[0])),
            ] {
                seen.ended.insert(what.into(), format!("{time:?}"));
            }
        }
    }
    Ok(())
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
            (Connect(1), "EPERM"),
            (Raise, "EPERM"),
            (BecomeDumpable, "EPERM"),
            (TooMuchMemory, "ENOMEM"),
            (WriteFile, "EPERM"),
        ];
        let attempts = wanted.iter().map(|(attempt, _)| *attempt).collect();
        run(user, plan(Role::Zygote), Act::Attempts(attempts)).check(&wanted);
        // A worker tries in its own process, so nothing that ends it.
        let wanted: Vec<_> = wanted
            .into_iter()
            .filter(|(attempt, end)| !end.starts_with("SIG") && *attempt != KillParent)
            .collect();
        let attempts = wanted.iter().map(|(attempt, _)| *attempt).collect();
        // Sealed once more for each: only the first is a task's start.
        let _: Vec<Attempt> = attempts;
        for (attempt, end) in wanted {
            let seen = run(user, plan(Role::Worker), Act::Attempts(vec![attempt]));
            seen.check(&[(attempt, if attempt == Fork { "SIGSYS" } else { end })]);
        }
    }
}
