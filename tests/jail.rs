//! Hosts that were taken over. A hook of the tests' own build has the host's code
//! misbehave in the guest's place, in every known way, as if
//! it had escaped the sandbox; what stopped it is compared with a table, and
//! other tasks of the same runner go on.
//!
//! Each runner is in a process of its own, [`host`], which is this test binary
//! again, as root or as an ordinary user: without a jail, some of these acts end
//! it.

use crate::support::processes::{own_copy, running};
use crate::support::{builder, settled, wat, within};
use rustix::process::{Pid, getsid};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::Duration;
use wrun::{
    Crash, DirGrant, ErrorKind, Jail, Layer, LayerState, Limits, Mode, Outcome, ProcessOptions,
    Runner, Start, Task, TcpGrant,
};

/// Waits until it is cancelled, then returns its input.
const PATIENT: &str = r#"
(module
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (import "wrun:task/context@0.1.0" "subscribe-cancelled" (func $cancelled (result i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i32)
    (call $progress (i64.const 1) (i32.const 0) (i64.const 0))
    (call $block (call $cancelled))
    (i32.store (i32.const 4) (local.get 0))
    (i32.store (i32.const 8) (local.get 1))
    (i32.const 0)))"#;

// --- a runner in a process of its own -------------------------------------

/// The variable with what a host is to do.
const ORDER: &str = "WRUN_TEST_HOST";
/// Begins a host's lines.
const SAYS: &str = "host says: ";
/// How long a probe may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A runner, and what is tried in it.
#[derive(Clone, Debug)]
struct Setting {
    user: User,
    mode: Mode,
    start: Start,
    jail: Jail,
    absent: Vec<Layer>,
    /// Every task is granted [`Place::granted`].
    grants: bool,
    /// Every task is granted [`Place::tcp`].
    tcp: bool,
    /// Another copy of `wrun` than [`programs`] has.
    worker: Option<PathBuf>,
    /// How long a probe may take before its host is ended; only for those that
    /// cannot be ended in another way.
    patience: Duration,
}

/// The user of the runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Own,
    /// An ordinary one, where this process may become one.
    Nobody,
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Root and an ordinary user, as far as this process can be both.
fn users() -> Vec<User> {
    if !is_root() {
        println!("SKIPPED: runners of root's: these tests run as an ordinary user");
        return vec![User::Own];
    }
    // In a user namespace, root may be the only one.
    let other = Command::new("true").uid(65534).gid(65534).status();
    if let Err(error) = other {
        println!("SKIPPED: runners of an ordinary user's: cannot become one: {error}");
        return vec![User::Own];
    }
    vec![User::Own, User::Nobody]
}

impl Setting {
    fn strict(user: User, start: Start) -> Self {
        Setting {
            user,
            mode: Mode::Process,
            start,
            jail: Jail::Strict,
            absent: Vec::new(),
            grants: false,
            tcp: false,
            worker: None,
            patience: PATIENCE,
        }
    }

    fn without(self, layers: &[Layer]) -> Self {
        Setting {
            absent: layers.to_vec(),
            ..self
        }
    }

    fn granted(self, grants: bool) -> Self {
        Setting { grants, ..self }
    }

    fn order(&self, place: &Place, worker: &Path, probes: &[String]) -> Value {
        let probes: Vec<_> = probes
            .iter()
            .map(|probe| (probe, place.fill(probe)))
            .collect();
        json!({
            "mode": self.mode, "start": self.start, "jail": self.jail, "absent": self.absent,
            "dir": self.grants.then_some(&place.granted), "tcp": self.tcp.then(|| place.port()),
            "worker": self.worker.as_deref().unwrap_or(worker), "probes": probes,
        })
    }
}

/// This test binary and `wrun` where every user may run them; gone with the last
/// that uses them.
fn programs() -> Arc<tempfile::TempDir> {
    static SHARED: Mutex<Weak<tempfile::TempDir>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(directory) = shared.upgrade() {
        return directory;
    }
    let directory = open_directory();
    for (from, to) in [
        (std::env::current_exe().unwrap(), "host"),
        (crate::support::wrun(), "wrun"),
    ] {
        let to = directory.path().join(to);
        if std::fs::hard_link(&from, &to).is_err() {
            std::fs::copy(&from, &to).unwrap();
        }
    }
    let directory = Arc::new(directory);
    *shared = Arc::downgrade(&directory);
    directory
}

/// A temporary directory that all users may use.
fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path(), 0o777);
    directory
}

fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What the probes aim at.
struct Place {
    tcp: TcpListener,
    name: String,
    _abstract: UnixListener,
    /// All users may write here, and in the directory that is granted.
    outside: tempfile::TempDir,
    granted: PathBuf,
}

impl Place {
    fn new() -> Self {
        let outside = open_directory();
        let granted = outside.path().join("granted");
        std::fs::create_dir(&granted).unwrap();
        open(&granted, 0o777);
        for file in [outside.path().join("secret"), granted.join("inside")] {
            std::fs::write(&file, "some text").unwrap();
            open(&file, 0o666);
        }
        let name = outside.path().display().to_string();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        Place {
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            _abstract: UnixListener::bind_addr(&address).unwrap(),
            name,
            outside,
            granted,
        }
    }

    fn port(&self) -> u16 {
        self.tcp.local_addr().unwrap().port()
    }

    fn fill(&self, probe: &str) -> String {
        probe
            .replace("PORT", &self.port().to_string())
            .replace("NAME", &self.name)
            .replace("OUTSIDE", &self.outside.path().display().to_string())
    }

    /// What probes have made is gone.
    fn tidy(&self) {
        for path in [
            self.outside.path().join("new"),
            self.granted.join("new"),
            self.granted.join("node"),
        ] {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// What came of the probes of one setting.
#[derive(Debug, Default)]
struct Seen {
    /// By probe: what it says itself, or how its worker or its host ended.
    ended: BTreeMap<String, String>,
    /// Each layer's state and detail.
    layers: BTreeMap<String, (String, String)>,
    /// Why there was no task at all.
    error: Option<String>,
}

impl Seen {
    /// The granted directory is a mount of the worker's own.
    fn is_mapped(&self) -> bool {
        let identity = self.layers.get(Layer::Identity.name());
        identity.is_some_and(|(_, detail)| detail.contains("count as its own"))
    }

    fn stands(&self, layer: Layer) -> bool {
        let state = self.layers.get(layer.name()).map(|(state, _)| state);
        state.is_some_and(|state| state == LayerState::Enforced.name())
    }
}

struct Host {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Host {
    fn start(setting: &Setting, place: &Place, probes: &[String]) -> Self {
        let programs = programs();
        let mut command = Command::new(programs.path().join("host"));
        command
            .args(["jail::host", "--exact", "--ignored"])
            .args(["--nocapture", "--test-threads=1"])
            .env(
                ORDER,
                setting
                    .order(place, &programs.path().join("wrun"), probes)
                    .to_string(),
            )
            .current_dir(programs.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // What threads write there is the host's.
            .stderr(match setting.mode {
                Mode::Process => Stdio::inherit(),
                Mode::Thread => Stdio::null(),
            });
        if setting.user == User::Nobody && is_root() {
            command.uid(65534).gid(65534);
        }
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (say, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let _programs = programs;
            // A worker that outlives its host may hold the other end.
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if let Some((_, said)) = line.split_once(SAYS)
                    && say.send(said.to_owned()).is_err()
                {
                    break;
                }
            }
        });
        Host { child, lines }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries all probes in one runner, or, where that does not live through all of
/// them, in as many as it takes. Two other tasks of the same artifact run all the
/// while, and complete if their runner lives.
fn drive(setting: &Setting, place: &Place, probes: &[&str]) -> Seen {
    place.tidy();
    let mut left: Vec<String> = probes.iter().map(|probe| (*probe).to_owned()).collect();
    let mut seen = Seen::default();
    loop {
        let mut host = Host::start(setting, place, &left);
        let mut trying = None;
        let died = loop {
            let said = match host.lines.recv_timeout(setting.patience) {
                Ok(said) => serde_json::from_str::<Value>(&said).unwrap(),
                Err(mpsc::RecvTimeoutError::Timeout) => break "host hung".to_owned(),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let mut status = None;
                    within(setting.patience, || {
                        status = host.child.try_wait().unwrap();
                        status.is_some()
                    });
                    break match status.map(|status| (status.signal(), status.code())) {
                        Some((Some(signal), _)) => format!("host killed: {}", signal_name(signal)),
                        Some((_, Some(code))) => format!("host exited: {code}"),
                        _ => "host hung".to_owned(),
                    };
                }
            };
            let text = |key: &str| said[key].as_str().map(str::to_owned);
            if let Some(probe) = text("trying") {
                trying = Some(probe);
            } else if let Some(result) = text("tried") {
                let probe = trying.take().unwrap();
                left.retain(|other| *other != probe);
                seen.ended.insert(probe, result);
            } else if let Some(error) = text("error") {
                seen.error = Some(error);
                return seen;
            } else if let Some(layers) = said["layers"].as_array() {
                for layer in layers {
                    let text = |key: &str| layer[key].as_str().unwrap().to_owned();
                    let state = (text("state"), text("detail"));
                    seen.layers.insert(text("layer"), state);
                }
            } else {
                assert_eq!(said["siblings"], json!(["first", "second"]), "{setting:?}");
                assert!(left.is_empty(), "{left:?}");
                return seen;
            }
        };
        let probe = trying.unwrap_or_else(|| panic!("{setting:?}: {died}, without a reason"));
        left.retain(|other| *other != probe);
        seen.ended.insert(probe, died);
        if left.is_empty() {
            return seen;
        }
    }
}

/// Not a test: the runner of the others.
#[test]
#[ignore = "the other tests start it"]
fn host() {
    let Ok(order) = std::env::var(ORDER) else {
        return;
    };
    let order: Value = serde_json::from_str(&order).unwrap();
    fn part<T: serde::de::DeserializeOwned>(order: &Value, key: &str) -> T {
        serde_json::from_value(order[key].clone()).unwrap()
    }
    let runner = Runner::builder()
        .mode(part(&order, "mode"))
        .process(
            ProcessOptions::default()
                .start(part(&order, "start"))
                .jail(part(&order, "jail")),
        )
        .absent_layers(part(&order, "absent"))
        .process(ProcessOptions::default().worker(part::<PathBuf>(&order, "worker")))
        .max_running(8)
        .build()
        .unwrap();
    let patient = wat(&runner, "patient.wat", PATIENT);
    let dir: Option<PathBuf> = part(&order, "dir");
    let tcp: Option<u16> = part(&order, "tcp");
    let task = || {
        let task = Task::new(&patient);
        let task = match &dir {
            Some(dir) => task.dir(DirGrant::new(dir).guest("/granted")),
            None => task,
        };
        match tcp {
            Some(port) => task.allow_tcp(TcpGrant::new("127.0.0.1", port).unwrap()),
            None => task,
        }
    };
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let siblings: Vec<_> = ["first", "second"]
        .map(|name| {
            let mut handle = runner.blocking_submit(task().input(name)).unwrap();
            tokio.block_on(handle.progress_changed());
            handle
        })
        .into();
    let mut told = false;
    for (probe, request) in part::<Vec<(String, String)>>(&order, "probes") {
        say(&json!({ "trying": probe }));
        let endless = ENDLESS.contains(&probe.as_str());
        let limits = Limits::default()
            .max_memory(64 << 20)
            .timeout(match endless {
                true => Duration::from_millis(300),
                false => PATIENCE,
            });
        let task = task().env("WRUN_TEST_PROBE", request).limits(limits);
        let report = match runner.blocking_run(task) {
            Ok(report) => report,
            Err(error) if error.kind() == ErrorKind::Jail => {
                return say(&json!({ "error": error.to_string() }));
            }
            Err(error) => {
                say(&json!({ "tried": format!("error: {error}") }));
                continue;
            }
        };
        if let Some(jail) = report.jail.as_ref().filter(|_| !told) {
            told = true;
            say(&serde_json::to_value(jail).unwrap());
        }
        say(&json!({ "tried": words(&report.outcome) }));
    }
    let outputs: Vec<Value> = siblings
        .into_iter()
        .map(|mut handle| {
            handle.cancel();
            match handle.blocking_report() {
                Ok(report) if report.outcome.is_completed() => {
                    json!(String::from_utf8_lossy(&report.stdout))
                }
                Ok(report) => json!(report.outcome.to_string()),
                Err(error) => json!(error.to_string()),
            }
        })
        .collect();
    // The runner goes on.
    let mut after = runner.blocking_submit(task().input("after")).unwrap();
    after.cancel();
    assert_eq!(after.blocking_report().unwrap().stdout, "after");
    say(&json!({ "siblings": outputs }));
}

fn say(what: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("\n{SAYS}{what}\n").as_bytes());
    let _ = out.flush();
}

/// Probes that do not end by themselves.
const ENDLESS: [&str; 4] = ["spin", "sleep", "silent", "fill-streams"];

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failed(said) => said.clone(),
        Outcome::Crashed(crash) => match crash.how() {
            Crash::Signal(signal) => format!("killed: {}", signal_name(*signal)),
            Crash::Exit(status) => format!("exited: {status}"),
            Crash::Protocol(what) => format!("protocol: {what}"),
            how => how.to_string(),
        },
        other => other.to_string(),
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        libc::SIGSYS => "SIGSYS".into(),
        libc::SIGSEGV => "SIGSEGV".into(),
        libc::SIGABRT => "SIGABRT".into(),
        libc::SIGILL => "SIGILL".into(),
        libc::SIGSTOP => "SIGSTOP".into(),
        libc::SIGKILL => "SIGKILL".into(),
        libc::SIGXCPU => "SIGXCPU".into(),
        other => format!("signal {other}"),
    }
}

// --- what stops what ------------------------------------------------------

/// How an act ends in a strict jail.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// By the list of system calls: `EPERM`.
    Refused,
    /// By the list of those that nothing does by mistake: `SIGSYS`.
    Killed,
    /// Not on the list unless directories are granted. Then the path leads nowhere
    /// (`ENOENT`), or, without a mount namespace, Landlock refuses it (`EACCES`).
    Path,
    /// As `Path`, but the path starts in a granted directory: Landlock.
    OutOf,
    /// As `OutOf`, by `..`: a mount that is attached nowhere has nothing above it, and the
    /// path is one in the directory.
    Above,
    /// Only where a directory is granted, and then it is what was granted.
    Granted,
    /// The same everywhere.
    Ends(&'static str),
    /// By fork it is a call too many; a program of its own may never make it.
    Process,
    /// So many MiB at most, then `ENOMEM`.
    AtMost(u64),
    /// So many of something at most, then an error.
    Count(u64, &'static str),
    /// A signal that the first process of a namespace does not get.
    Signal {
        usual: &'static str,
        first: &'static str,
    },
    /// Where there is a mount namespace.
    Hidden,
}
use Stop::{
    Above, AtMost, Count, Ends, Granted, Hidden, Killed, OutOf, Path as ByPath, Process, Refused,
    Signal,
};

const DEADLINE: &str = "limit exceeded: deadline";

/// Every probe, and what it meets. `NAME`, `PORT` and `OUTSIDE` stand for what is
/// there to be reached.
const STOPS: &[(&str, Stop)] = &[
    ("read:/etc/passwd", ByPath),
    ("read2:/etc/passwd", ByPath),
    ("read:/proc/self/environ", ByPath),
    ("read:/dev/zero", ByPath),
    ("read:OUTSIDE/secret", ByPath),
    ("write:OUTSIDE/new", ByPath),
    ("list:/", OutOf),
    ("stat:/etc/passwd", Hidden),
    ("parent-memory-file", ByPath),
    ("own-memory-file", ByPath),
    ("file-handle", Killed),
    ("memory-file", Refused),
    ("socket-unix", Refused),
    ("socket-netlink", Refused),
    ("socket-raw", Refused),
    ("socket-packet", Refused),
    ("socket-vsock", Refused),
    ("socket-crypto", Refused),
    ("socket-udp", Refused),
    ("socket-pair", Refused),
    ("connect-abstract:NAME", Refused),
    ("connect-tcp:PORT", Refused),
    ("fast-open-tcp:PORT", Refused),
    ("send-udp:PORT", Refused),
    ("listen", Refused),
    ("listen-unbound", Refused),
    ("fork", Process),
    ("fork-bomb", Process),
    ("clone3", Ends("refused: ENOSYS")),
    ("spawn", Killed),
    ("thread", Refused),
    ("exec", Killed),
    ("exec-memory-file", Refused),
    ("exec-descriptor", Killed),
    ("ptrace-parent", Killed),
    ("signal-parent", Refused),
    ("signal-group", Refused),
    ("signal-all", Refused),
    ("signal-siblings", Refused),
    ("signal-thread", Refused),
    ("signal-queue", Refused),
    ("signal-pidfd", Refused),
    ("memory-of-parent", Killed),
    ("memory-of-siblings", Killed),
    ("descriptor-of-parent", Refused),
    ("limits-of-parent", Refused),
    ("session", Refused),
    ("process-group", Refused),
    ("terminal", Refused),
    ("user-namespace", Killed),
    ("net-namespace", Killed),
    ("enter-namespace", Killed),
    ("mount", Killed),
    ("chroot", Killed),
    ("become-root", Refused),
    ("personality", Refused),
    ("raise-limit", Refused),
    ("priority", Refused),
    ("dumpable", Refused),
    ("forget-parent", Refused),
    ("filter", Refused),
    ("keys", Killed),
    ("bpf", Killed),
    ("io-uring", Killed),
    ("userfaultfd", Killed),
    ("perf", Killed),
    ("kernel-log", Refused),
    ("host-name", Refused),
    #[cfg(target_arch = "x86_64")]
    ("x32-call", Refused),
    #[cfg(target_arch = "x86_64")]
    ("i386-call", Killed),
    ("map-code", Refused),
    ("make-code", Refused),
    ("make-code-with-key", Refused),
    // Twice its 64 MiB, its input and its output, and 512 MiB for the host.
    ("memory", AtMost(832)),
    ("memory-made-writable", AtMost(832)),
    ("memory-shared", Refused),
    ("memory-as-stack", Refused),
    ("page-tables", AtMost(40)),
    ("mappings", Count(1 << 17, "ENOMEM")),
    ("descriptors", Count(4096, "EMFILE")),
    ("pipes", Refused),
    ("socket-buffers", Refused),
    ("environment", Ends("refused: there is none")),
    // Where directories are granted.
    ("read:inside", Granted),
    ("write:new", Granted),
    ("list:.", Granted),
    ("fill-disk", Granted),
    ("read:../secret", Above),
    ("write:../new", Above),
    ("chmod:inside", Refused),
    ("chown:inside", Refused),
    ("device-node:node", Refused),
    // It dies of them, or is ended.
    (
        "abort",
        Signal {
            usual: "killed: SIGABRT",
            first: "killed: SIGSEGV",
        },
    ),
    (
        "overflow",
        Signal {
            usual: "killed: SIGABRT",
            first: "killed: SIGSEGV",
        },
    ),
    ("segfault", Ends("killed: SIGSEGV")),
    ("illegal", Ends("killed: SIGILL")),
    ("exit", Ends("exited: 7")),
    ("exit-well", Ends("exited: 0")),
    (
        "stop",
        Signal {
            usual: "killed: SIGSTOP",
            first: "did it: and went on",
        },
    ),
    (
        "send-descriptors",
        Ends("protocol: it sent descriptors that were not requested"),
    ),
    (
        "send-rubbish",
        Ends("protocol: a frame of 4294967295 bytes exceeds the limit of 4194304"),
    ),
    (
        "silent",
        Ends("protocol: it closed its socket but did not end"),
    ),
    ("spin", Ends(DEADLINE)),
    ("sleep", Ends(DEADLINE)),
    ("fill-streams", Ends(DEADLINE)),
    // What it may do.
    ("nothing", Ends("did it: nothing")),
    ("socket-tcp", Ends("did it: a socket")),
    ("write-streams", Ends("did it: 6 and 6 bytes")),
];

/// Those that end of themselves.
fn brief() -> Vec<&'static str> {
    let all = STOPS.iter().map(|(probe, _)| *probe);
    all.filter(|probe| !ENDLESS.contains(probe)).collect()
}

fn number(text: &str) -> u64 {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(u64::MAX)
}

impl Stop {
    /// Whether something ended in this way.
    fn is(self, ended: &str, setting: &Setting, seen: &Seen) -> bool {
        const EPERM: &str = "refused: EPERM";
        const EACCES: &str = "refused: EACCES";
        let hidden = seen.stands(Layer::MountNamespace);
        let fork = setting.start == Start::Fork;
        let bounded = |most: u64, unit: &str, error: &str| {
            let words = ended.strip_prefix("did it: ");
            let parts = words.and_then(|words| words.split_once(", then "));
            parts.is_some_and(|(what, why)| {
                what.contains(unit) && number(what) <= most && why == error
            })
        };
        match self {
            Refused => ended == EPERM,
            Killed => ended == "killed: SIGSYS",
            ByPath if !setting.grants => ended == EPERM,
            ByPath if hidden => ended == "refused: ENOENT",
            ByPath => ended == EACCES,
            Above if setting.grants && seen.is_mapped() => {
                ["refused: ENOENT", "did it: 7 bytes"].contains(&ended)
            }
            OutOf | Above if !setting.grants => ended == EPERM,
            OutOf | Above => ended == EACCES,
            Granted if !setting.grants => ended == EPERM,
            Granted => ended.starts_with("did it: "),
            Ends(how) => ended == how,
            Process if fork => ended == EPERM,
            Process => ended == "killed: SIGSYS",
            AtMost(most) => bounded(most, " MiB", "ENOMEM"),
            Count(most, error) => bounded(most, "", error),
            Signal { usual, first } => {
                let is_first = !fork && seen.stands(Layer::PidNamespace);
                ended == if is_first { first } else { usual }
            }
            Hidden if hidden => ended == "refused: ENOENT",
            Hidden => ended.starts_with("did it: "),
        }
    }
}

#[track_caller]
fn check(setting: &Setting, seen: &Seen) {
    assert_eq!(seen.error, None, "{setting:?}");
    let mut wrong = String::new();
    for (probe, ended) in &seen.ended {
        let known = STOPS.iter().find(|(known, _)| known == probe);
        let (_, stop) = known.unwrap_or_else(|| panic!("{probe} is in no table"));
        if !stop.is(ended, setting, seen) {
            wrong += &format!("{probe}: {ended}, not {stop:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{setting:?}\n{wrong}{:#?}", seen.layers);
}

/// The layers that a system may refuse.
const NAMESPACES: [Layer; 5] = [
    Layer::UserNamespace,
    Layer::PidNamespace,
    Layer::NetNamespace,
    Layer::IpcNamespace,
    Layer::MountNamespace,
];

fn a_strict_jail_stops_everything(start: Start) {
    let place = Place::new();
    let all: Vec<&str> = STOPS.iter().map(|(probe, _)| *probe).collect();
    for user in users() {
        for grants in [false, true] {
            let setting = Setting::strict(user, start).granted(grants);
            let probes = if grants { brief() } else { all.clone() };
            check(&setting, &drive(&setting, &place, &probes));
            assert!(!place.outside.path().join("new").exists(), "{setting:?}");
        }
        // A container that permits no namespaces.
        for grants in [false, true] {
            let setting = Setting::strict(user, start)
                .granted(grants)
                .without(&NAMESPACES);
            check(&setting, &drive(&setting, &place, &brief()));
        }
    }
}

#[test]
fn a_strict_jail_stops_forked_workers() {
    a_strict_jail_stops_everything(Start::Fork);
}

#[test]
fn a_strict_jail_stops_started_workers() {
    a_strict_jail_stops_everything(Start::Exec);
}

/// What a worker has open: its socket, its artifact, what waiting takes, nothing.
#[test]
fn a_worker_has_nothing_open_but_its_own() {
    let place = Place::new();
    for user in users() {
        for start in [Start::Fork, Start::Exec] {
            for grants in [false, true] {
                let setting = Setting::strict(user, start).granted(grants);
                let seen = drive(&setting, &place, &["open-descriptors"]);
                let list = seen.ended["open-descriptors"].clone();
                for (number, what) in list
                    .strip_prefix("did it: ")
                    .unwrap()
                    .split(", ")
                    .map(|open| open.split_once(' ').unwrap())
                {
                    let own = match what {
                        "null" | "sealed memory" | "unix socket" | "kernel object" => true,
                        // To its runner, and its own: what it says before it dies.
                        "pipe" => number == "2",
                        "directory" => grants,
                        _ => false,
                    };
                    assert!(own, "{setting:?}: {list}");
                }
            }
        }
    }
}

/// What holds of a granted directory for the guest does not hold for native code
/// in all: SECURITY.md says so.
#[test]
fn a_granted_directory_shows_that_others_exist() {
    let place = Place::new();
    for user in users() {
        let setting = Setting::strict(user, Start::Fork).granted(true);
        let seen = drive(&setting, &place, &["stat:../secret", "touch:../secret"]);
        let (exists, touched) = match (is_root(), user) {
            _ if seen.is_mapped() => ("refused: ENOENT", "refused: ENOENT"),
            // A stranger's file.
            (true, User::Nobody) => ("did it: it has 9 bytes", "refused: EPERM"),
            _ => ("did it: it has 9 bytes", "did it: its time is 1970"),
        };
        assert_eq!(seen.ended["stat:../secret"], exists, "{user:?}");
        assert_eq!(seen.ended["touch:../secret"], touched, "{user:?}");
    }
}

#[test]
fn a_granted_address_is_the_only_one() {
    let place = Place::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!("connect-tcp:{}", other.local_addr().unwrap().port());
    for user in users() {
        for start in [Start::Fork, Start::Exec] {
            let mut setting = Setting::strict(user, start);
            setting.tcp = true;
            let wanted = [
                ("connect-tcp:PORT", "did it: connected"),
                (&other, "refused: EACCES"),
                ("listen", "refused: EPERM"),
                ("listen-unbound", "refused: EPERM"),
                ("fast-open-tcp:PORT", "refused: EPERM"),
                ("send-udp:PORT", "refused: EPERM"),
                ("socket-raw", "refused: EPERM"),
                ("socket-unix", "refused: EPERM"),
                ("read:/etc/passwd", "refused: EPERM"),
            ];
            let seen = drive(&setting, &place, &wanted.map(|(probe, _)| probe));
            // Before version 4, Landlock knows no ports.
            let ports = seen.layers["landlock"].1.contains("TCP ports,");
            for (probe, end) in wanted {
                if ports || end != "refused: EACCES" {
                    assert_eq!(seen.ended[probe], end, "{setting:?}: {probe}");
                }
            }
        }
    }
}

// --- layers that are missing ----------------------------------------------

/// What may work, of all that a strict jail stops, where these layers are missing.
/// Where one is missing alone, the rest is stopped by two at least.
const NEEDS: &[(&[Layer], &[&str])] = &[
    (
        &[Layer::Seccomp],
        &[
            // In a network of its own, without addresses.
            "socket-unix",
            "socket-netlink",
            "socket-vsock",
            "socket-crypto",
            "socket-udp",
            "socket-pair",
            "listen-unbound",
            // To its zygote and its siblings, which Landlock takes for itself.
            "signal-parent",
            "signal-group",
            "signal-all",
            "signal-siblings",
            "signal-thread",
            "signal-queue",
            "signal-pidfd",
            "limits-of-parent",
            "session",
            "process-group",
            "user-namespace",
            "personality",
            "dumpable",
            "forget-parent",
            "filter",
            "keys",
            "bpf",
            "io-uring",
            "userfaultfd",
            "perf",
            "i386-call",
            "map-code",
            "make-code",
            "make-code-with-key",
            // As far as there is address space.
            "memory-shared",
            "memory-as-stack",
            "pipes",
            "socket-buffers",
            // Where there is no user but root, and that is an ordinary one outside.
            "become-root",
        ],
    ),
    (
        &[Layer::Seccomp, Layer::NetNamespace],
        &["send-udp:PORT", "fast-open-tcp:PORT"],
    ),
    (
        &[Layer::Rlimits],
        &[
            "memory",
            "memory-made-writable",
            "page-tables",
            "descriptors",
        ],
    ),
    (&[Layer::MountNamespace], &["stat:/etc/passwd"]),
];

#[test]
fn a_missing_layer_is_reported_and_the_others_stand() {
    let place = Place::new();
    let probes = brief();
    let mut wrong = String::new();
    for user in users() {
        let best_effort = Setting {
            jail: Jail::BestEffort,
            ..Setting::strict(user, Start::Fork)
        };
        let whole = drive(&best_effort, &place, &probes);
        check(&best_effort, &whole);
        for layer in Layer::ALL {
            let what = format!("{user:?} without {layer}");
            let setting = best_effort.clone().without(&[layer]);
            let seen = drive(&setting, &place, &probes);
            let (state, detail) = &seen.layers[layer.name()];
            assert_eq!(state, LayerState::Unavailable.name(), "{what}");
            assert_eq!(detail, "left out by a test", "{what}");
            for other in Layer::ALL.into_iter().filter(|other| *other != layer) {
                // Other users than root have namespaces only within that one.
                let within = layer == Layer::UserNamespace && NAMESPACES.contains(&other);
                let (state, detail) = &seen.layers[other.name()];
                let wanted = &whole.layers[other.name()].0;
                assert!(
                    state == wanted || within,
                    "{what}: {other} is {state}: {detail}"
                );
                assert!(!detail.is_empty(), "{what}: {other}");
            }
            for (probe, ended) in &seen.ended {
                let stop = STOPS.iter().find(|(known, _)| known == probe).unwrap().1;
                let worked = ended.starts_with("did it") && !stop.is(ended, &setting, &whole);
                let may = NEEDS.iter().any(|(missing, probes)| {
                    !missing.iter().any(|layer| seen.stands(*layer))
                        && probes.contains(&probe.as_str())
                });
                if worked && !may {
                    wrong += &format!("{what}: {probe}: {ended}\n");
                }
            }

            let strict = Setting::strict(user, Start::Fork).without(&[layer]);
            let seen = drive(&strict, &place, &["nothing", "read:/etc/passwd"]);
            match seen.error.clone() {
                Some(error) => {
                    assert!(layer.is_required(), "{what}: {error}");
                    assert!(error.contains(layer.name()), "{what}: {error}");
                }
                None => {
                    assert!(!layer.is_required(), "{what}: it runs");
                    check(&strict, &seen);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

// --- without walls --------------------------------------------------------

/// What a worker can do in each mode, measured: the table of SECURITY.md.
#[test]
fn what_a_host_that_was_taken_over_can_do() {
    let place = Place::new();
    // As an ordinary user, so that no harm is done.
    let user = *users().last().unwrap();
    let mut probes = brief();
    // What starts in a granted directory starts anywhere here.
    probes.retain(|probe| {
        let stop = STOPS.iter().find(|(known, _)| known == probe).unwrap().1;
        !matches!(stop, Granted) && !probe.contains("..") && !probe.contains(":inside")
    });
    probes.retain(|probe| *probe != "device-node:node");
    let strict = Setting::strict(user, Start::Fork);
    let settings = [
        ("strict, fork", strict.clone()),
        ("strict, exec", Setting::strict(user, Start::Exec)),
        (
            "best effort",
            Setting {
                jail: Jail::BestEffort,
                ..strict.clone()
            },
        ),
        (
            "off",
            Setting {
                jail: Jail::Off,
                ..strict.clone()
            },
        ),
        (
            "thread",
            Setting {
                mode: Mode::Thread,
                patience: Duration::from_secs(20),
                ..strict
            },
        ),
    ];
    let columns = settings.map(|(name, setting)| {
        let mut probes = probes.clone();
        if setting.mode == Mode::Thread {
            // It stands still, and with it the whole program.
            probes.retain(|probe| *probe != "stop");
            probes.push("spin");
        }
        (name, drive(&setting, &place, &probes).ended)
    });
    println!(
        "| probe | {} |",
        columns.each_ref().map(|it| it.0).join(" | ")
    );
    for probe in probes.iter().chain(&["spin"]) {
        let row = columns
            .each_ref()
            .map(|(_, ended)| ended.get(*probe).map_or("", String::as_str));
        println!("| {probe} | {} |", row.join(" | "));
    }

    let [.., (_, off), (_, thread)] = columns;
    for (probe, in_process, on_thread) in [
        ("read:/etc/passwd", "did it", "did it"),
        ("connect-tcp:PORT", "did it", "did it"),
        ("fork", "did it", "did it"),
        ("map-code", "did it", "did it"),
        // A process has an environment of its own in any case.
        ("environment", "refused", "did it"),
        // These end the process that they are in.
        ("exec", "exited: 42", "host exited: 42"),
        ("exit", "exited: 7", "host exited: 7"),
        ("abort", "killed: SIGABRT", "host killed: SIGABRT"),
        ("segfault", "killed: SIGSEGV", "host killed: SIGSEGV"),
        ("illegal", "killed: SIGILL", "host killed: SIGILL"),
    ] {
        assert!(
            off[probe].starts_with(in_process),
            "{probe}: {}",
            off[probe]
        );
        assert!(
            thread[probe].starts_with(on_thread),
            "{probe}: {}",
            thread[probe]
        );
    }
    // Nothing ends a thread that does not yield.
    assert_eq!(thread["spin"], "host hung");
}

// --- after the runner -----------------------------------------------------

/// A worker that closes all it has, leaves its session and its process group, and
/// gives up the signal that would end it, is gone with its runner all the same.
#[test]
fn a_worker_that_cuts_its_ties_ends_with_its_runner() {
    let place = Place::new();
    let unfiltered = |absent: &[Layer]| Setting {
        jail: Jail::BestEffort,
        ..Setting::strict(User::Own, Start::Fork).without(absent)
    };
    for (setting, survives) in [
        (Setting::strict(User::Own, Start::Fork), false),
        (Setting::strict(User::Own, Start::Exec), false),
        (
            Setting::strict(User::Own, Start::Fork).without(&NAMESPACES),
            false,
        ),
        (unfiltered(&[Layer::Seccomp]), false),
        (unfiltered(&[Layer::Seccomp, Layer::PidNamespace]), true),
    ] {
        let directory = open_directory();
        let program = own_copy(directory.path());
        open(&program, 0o755);
        let setting = Setting {
            worker: Some(program.clone()),
            ..setting
        };
        let host = Host::start(&setting, &place, &["linger".to_owned()]);
        let trying = host.lines.recv_timeout(PATIENCE).unwrap();
        assert!(trying.contains("linger"), "{trying}");
        // Until it has done what its walls let it do.
        settled("sessions and descriptors", PATIENCE, || {
            let all = running(&program).into_iter();
            let state = |(pid, _)| {
                let session = Pid::from_raw(pid).and_then(|pid| getsid(Some(pid)).ok());
                let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
                (pid, session, open.map_or(0, Iterator::count))
            };
            all.map(state).collect::<Vec<_>>()
        });
        // Kills it.
        drop(host);
        let gone = within(Duration::from_secs(20), || {
            let left = running(&program);
            for (pid, _) in left.iter().filter(|_| survives) {
                println!("{setting:?}: {pid} survived, as it may without these layers");
                let pid = rustix::process::Pid::from_raw(*pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            left.is_empty()
        });
        assert!(gone, "{setting:?}: left behind: {:?}", running(&program));
    }
}

// --- forks differ ---------------------------------------------------------

/// Returns a number of each generator.
const RANDOM: &str = r#"
(module
  (import "wasi:random/random@0.2.12" "get-random-u64" (func $secure (result i64)))
  (import "wasi:random/insecure@0.2.12" "get-insecure-random-u64" (func $insecure (result i64)))
  (import "wasi:random/insecure-seed@0.2.12" "insecure-seed" (func $seed (param i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i32)
    (i64.store (i32.const 64) (call $secure))
    (i64.store (i32.const 72) (call $insecure))
    (call $seed (i32.const 80))
    (i32.store (i32.const 4) (i32.const 64))
    (i32.store (i32.const 8) (i32.const 32))
    (i32.const 0)))"#;

#[test]
fn forks_of_one_zygote_have_random_numbers_of_their_own() {
    const TASKS: usize = 8;
    for jail in [Jail::Strict, Jail::Off] {
        let runner = builder(Mode::Process)
            .process(ProcessOptions::default().jail(jail).spares(3))
            .max_running(TASKS)
            .build()
            .unwrap();
        let random = wat(&runner, "random.wat", RANDOM);
        let handles: Vec<_> = (0..TASKS)
            .map(|_| runner.blocking_submit(Task::new(&random)).unwrap())
            .collect();
        let mut numbers = BTreeSet::new();
        for mut handle in handles {
            let report = handle.blocking_report().unwrap();
            assert_eq!(report.stats.start_method, Some(Start::Fork), "{jail}");
            let bytes = report.outcome.output().unwrap().as_bytes();
            assert_eq!(bytes.len(), 32);
            numbers.extend(bytes.chunks(8).map(<[u8]>::to_vec));
        }
        // The seed is two of the four.
        assert_eq!(numbers.len(), TASKS * 4, "{jail}");
    }
}
