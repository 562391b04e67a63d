//! Hosts that were taken over. A hook of the tests' own build has the host's code
//! misbehave in the guest's place, in every way that somebody thought of, as if
//! the sandbox had been escaped; what stopped it is compared with a table, and
//! other tasks of the same runner go on.
//!
//! Each runner is in a process of its own, [`host`], which is this test binary
//! again, as root or as an ordinary user: without a jail, some of these acts end
//! it.

use crate::support::wat;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::Duration;
use wrun::{
    Crash, DirGrant, ErrorKind, Jail, Layer, LayerState, Limits, Mode, Outcome, Runner, Start, Task,
};

/// Waits until it is asked to stop, then returns its input.
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
    /// A directory that every task is granted.
    dir: Option<PathBuf>,
    /// How long a probe may take before its host is ended; only for those that
    /// cannot be ended in another way.
    patience: Duration,
}

/// Who the runner is.
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
    if is_root() {
        return vec![User::Own, User::Nobody];
    }
    println!("SKIPPED: runners of root's: these tests run as an ordinary user");
    vec![User::Own]
}

impl Setting {
    fn strict(user: User, start: Start) -> Self {
        Setting {
            user,
            mode: Mode::Process,
            start,
            jail: Jail::Strict,
            absent: Vec::new(),
            dir: None,
            patience: PATIENCE,
        }
    }

    fn order(&self, worker: &Path, probes: &[String]) -> Value {
        json!({
            "mode": self.mode, "start": self.start, "jail": self.jail, "absent": self.absent,
            "dir": self.dir, "worker": worker, "probes": probes,
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

/// A temporary directory that everybody may use.
fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path(), 0o777);
    directory
}

fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
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
    fn start(setting: &Setting, probes: &[String]) -> Self {
        let programs = programs();
        let mut command = Command::new(programs.path().join("host"));
        command
            .args(["jail::host", "--exact", "--ignored"])
            .args(["--nocapture", "--test-threads=1"])
            .env(
                ORDER,
                setting
                    .order(&programs.path().join("wrun"), probes)
                    .to_string(),
            )
            .current_dir("/")
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
fn drive(setting: &Setting, probes: &[&str]) -> Seen {
    let mut left: Vec<String> = probes.iter().map(|probe| (*probe).to_owned()).collect();
    let mut seen = Seen::default();
    loop {
        let mut host = Host::start(setting, &left);
        let mut trying = None;
        let died = loop {
            let said = match host.lines.recv_timeout(setting.patience) {
                Ok(said) => serde_json::from_str::<Value>(&said).unwrap(),
                Err(mpsc::RecvTimeoutError::Timeout) => break "host hung".to_owned(),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let mut status = None;
                    crate::processes::eventually(setting.patience, || {
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
            if std::env::var("PROBE_TRACE").is_ok() { eprintln!("{:?} {said}", std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()); }
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
        .start(part(&order, "start"))
        .jail(part(&order, "jail"))
        .absent_layers(part(&order, "absent"))
        .worker(part::<PathBuf>(&order, "worker"))
        .max_running(8)
        .build()
        .unwrap();
    let patient = wat(&runner, "patient.wat", PATIENT);
    let dir: Option<PathBuf> = part(&order, "dir");
    let task = || match &dir {
        Some(dir) => Task::new(&patient).dir(DirGrant::new(dir).guest("/granted")),
        None => Task::new(&patient),
    };
    let tokio = tokio::runtime::Runtime::new().unwrap();
    let siblings: Vec<_> = ["first", "second"]
        .map(|name| {
            let mut handle = runner.submit_blocking(task().input(name)).unwrap();
            tokio.block_on(handle.progress_changed());
            handle
        })
        .into();
    let mut told = false;
    for probe in part::<Vec<String>>(&order, "probes") {
        say(&json!({ "trying": probe }));
        let endless = ENDLESS.contains(&probe.as_str());
        let limits = Limits::default()
            .max_memory(64 << 20)
            .timeout(match endless {
                true => Duration::from_millis(300),
                false => PATIENCE,
            });
        let task = task().env("WRUN_TEST_PROBE", &probe).limits(limits);
        let report = match runner.run(task) {
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
        .map(|handle| {
            handle.cancel();
            match handle.wait() {
                Ok(report) if report.outcome.is_completed() => json!(String::from_utf8_lossy(&report.stdout)),
                Ok(report) => json!(report.outcome.to_string()),
                Err(error) => json!(error.to_string()),
            }
        })
        .collect();
    // The runner goes on.
    let after = runner.submit_blocking(task().input("after")).unwrap();
    after.cancel();
    assert_eq!(after.wait().unwrap().stdout, "after");
    say(&json!({ "siblings": outputs }));
}

fn say(what: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("\n{SAYS}{what}\n").as_bytes());
    let _ = out.flush();
}

/// Probes that end only when somebody ends them.
const ENDLESS: [&str; 4] = ["spin", "sleep", "silent", "fill-streams"];

fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failed(said) => said.clone(),
        Outcome::Crashed(Crash::Signal(signal)) => format!("killed: {}", signal_name(*signal)),
        Outcome::Crashed(Crash::Exit(status)) => format!("exited: {status}"),
        Outcome::Crashed(Crash::Protocol(what)) => format!("protocol: {what}"),
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

const ALL: &[&str] = &[
 "read:/etc/passwd","read2:/etc/passwd","read:/proc/self/environ","read:/dev/zero","list:/","stat:/etc/passwd",
 "write:/tmp/wrun-probe","parent-memory-file","own-memory-file","file-handle","fill-disk","memory-file",
 "socket-unix","socket-netlink","socket-raw","socket-packet","socket-vsock","socket-crypto","socket-udp","socket-tcp","socket-pair",
 "connect-abstract:x","connect-tcp:1","fast-open-tcp:1","send-udp:1","listen","listen-unbound",
 "fork","fork-bomb","clone3","spawn","thread","exec","exec-memory-file","exec-descriptor","ptrace-parent",
 "signal-parent","signal-group","signal-all","signal-siblings","signal-thread","signal-queue","signal-pidfd",
 "memory-of-parent","memory-of-siblings","descriptor-of-parent","limits-of-parent","session","process-group","terminal",
 "user-namespace","net-namespace","enter-namespace","mount","chroot","become-root","personality","raise-limit","priority",
 "dumpable","forget-parent","filter","keys","bpf","io-uring","userfaultfd","perf","kernel-log","host-name","x32-call","i386-call",
 "map-code","make-code","make-code-with-key","memory","memory-shared","memory-as-stack","memory-made-writable","stack","page-tables","mappings",
 "descriptors","pipes","socket-buffers","environment","open-descriptors","write-streams","fill-streams","send-descriptors","send-rubbish",
 "nothing","abort","segfault","illegal","overflow","exit","exit-well","stop","spin","sleep","silent",
];

#[test]
fn measure() {
    let dir = open_directory();
    let granted = dir.path().join("granted");
    std::fs::create_dir(&granted).unwrap();
    open(&granted, 0o777);
    std::fs::write(dir.path().join("outside"), "secret").unwrap();
    std::fs::write(granted.join("inside"), "hello").unwrap();
    let mut all: Vec<&str> = ALL.to_vec();
    all.extend(["read:inside","read:../outside","write:../new","stat:../outside","touch:../outside","chmod:inside","chown:inside","device-node:node","list:."]);
    let mut columns = Vec::new();
    for user in users() {
        for (name, start, jail) in [("strict fork", Start::Fork, Jail::Strict), ("strict exec", Start::Exec, Jail::Strict)] {
            for dirs in [None, Some(granted.clone())] {
                let setting = Setting { jail, dir: dirs.clone(), ..Setting::strict(user, start) };
                let seen = drive(&setting, &all);
                columns.push((format!("{user:?} {name} {}", dirs.is_some()), seen));
            }
        }
        let absent = vec![Layer::UserNamespace, Layer::PidNamespace, Layer::NetNamespace, Layer::IpcNamespace, Layer::MountNamespace];
        for dirs in [None, Some(granted.clone())] {
        let seen = drive(&Setting { absent: absent.clone(), dir: dirs.clone(), ..Setting::strict(user, Start::Fork) }, &all);
        columns.push((format!("{user:?} no-ns {}", dirs.is_some()), seen));
        }
        let seen = drive(&Setting { jail: Jail::Off, dir: Some(granted.clone()), ..Setting::strict(user, Start::Fork) }, &all);
        columns.push((format!("{user:?} off"), seen));
        let seen = drive(&Setting { mode: Mode::Thread, patience: Duration::from_secs(15), ..Setting::strict(user, Start::Fork) }, &all);
        columns.push((format!("{user:?} thread"), seen));
    }
    for probe in &all {
        println!("PROBE {probe}");
        for (name, seen) in &columns {
            println!("    {name:28} {}", seen.ended.get(*probe).cloned().unwrap_or_else(|| format!("{:?}", seen.error)));
        }
    }
}
