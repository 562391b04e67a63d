//! A worker or a zygote that was taken over: it speaks the protocol of
//! `docs/wire.md`, and lies in it. Whatever it does, the runner gives one outcome
//! in bounded time, nothing panics, no other task is harmed, and it is gone.
//!
//! The liar is a Python program, because it must be able to say what wrun's own
//! code would never say. Without Python the tests say that they skip.

use crate::support::processes::await_rest;
use crate::support::{alone, children, repo, still_works, tool, within, wrun};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wrun::{
    Crash, Error, ErrorKind, Limit, Limits, Mode, Outcome, ProcessOptions, Report, Runner, Start,
    Task,
};

const PRELUDE: &str = r#"
import os, signal, socket, struct, sys, time

HERE = os.path.dirname(os.path.abspath(sys.argv[0]))
# The lies of compilers are told elsewhere.
if sys.argv[3:] == ["compile"] or not os.path.exists(HERE + "/lie"):
    os.execve(open(HERE + "/honest").read(), ["wrun-worker"] + sys.argv[1:], {})

def note_pid():
    with open(HERE + "/pids", "a") as pids:
        pids.write(str(os.getpid()) + "\n")

note_pid()

def victim():
    return int(open(HERE + "/victim").read())

def varint(n):
    out = b""
    while n >= 0x80:
        out += bytes([n & 0x7f | 0x80])
        n >>= 7
    return out + bytes([n])

def signed(n):
    return varint(n << 1 if n >= 0 else (-n << 1) - 1)

def frame(body):
    return struct.pack("<I", len(body)) + body

def text(words):
    if isinstance(words, str):
        words = words.encode()
    return varint(len(words)) + words

USAGE = varint(0) * 7
TIME = varint(0) * 2

class Peer:
    def __init__(self, sock):
        sock.setblocking(True)
        self.sock, self.buffer, self.fds = sock, b"", []

    def order(self):
        while True:
            if len(self.buffer) >= 4:
                end = 4 + struct.unpack("<I", self.buffer[:4])[0]
                if len(self.buffer) >= end:
                    body, self.buffer = self.buffer[4:end], self.buffer[end:]
                    return body
            data, fds, _, _ = socket.recv_fds(self.sock, 1 << 16, 16)
            if not data:
                os._exit(0)
            self.buffer += data
            self.fds += fds

    def raw(self, data, fds=()):
        try:
            sent = socket.send_fds(self.sock, [data], list(fds)) if fds else 0
            self.sock.sendall(data[sent:])
        except OSError:
            os._exit(0)

    def say(self, body, fds=()):
        self.raw(frame(body), fds)

    def want_input(self):
        self.say(b"\x00")

    def progress(self):
        self.say(b"\x01\x01\x00")

    def stdout(self, data):
        self.say(b"\x02" + text(data))

    def stderr(self, data):
        self.say(b"\x03" + text(data))

    def failed(self, words):
        self.say(b"\x05" + text(words) + b"\x00")

    def done(self, output=b"", stdout=0, stderr=0, seconds=0, outcome=b"\x00\x00", fds=()):
        spent = varint(seconds) + varint(0)
        result = outcome + spent + spent + b"\x00\x00\x00\x00\x00"
        self.say(b"\x04" + result + text(output) + varint(stdout) + varint(stderr) + USAGE + b"\x00", fds)

    def request(self, id, what, fds=()):
        self.say(b"\x06" + varint(id) + what, fds)

    def close(self):
        self.sock.close()

def start(name, input=b"\x00\x00", port=b"\x00"):
    "To start a child."
    return b"\x00" + text(name) + input + port

control = Peer(socket.socket(fileno=os.dup(0)))
os.dup2(1, 0)
# As a worker that was started for one task.
raw, say, order, done = control.raw, control.say, control.order, control.done
request = control.request

def hello(version=11, fds=()):
    raw(b"wrunwork" + struct.pack("<I", version), fds)

def ready(layers=0, fds=()):
    control.order()
    control.fds = []
    layer = varint(3) + varint(0) + text("w" * 300)
    say(b"\x01" + varint(layers) + layer * layers, fds)

def moved(pid):
    say(b"\x00" + signed(pid))

def forked(id, fds):
    say(b"\x06" + varint(id), fds)

def not_forked(id, errno):
    say(b"\x07" + varint(id) + signed(errno))

def ended(id, end=b"\x00" + signed(0), usage=USAGE, fds=()):
    say(b"\x08" + varint(id) + end + b"\x01" + usage, fds)

def live():
    while True:
        time.sleep(600)

def does_its_task(worker):
    worker.order()
    worker.done(b"hi")

def asked():
    "The number of the next worker to fork, and its socket."
    body = control.order()
    assert body[0] == 1
    id = shift = 0
    for byte in body[1:]:
        id |= (byte & 0x7f) << shift
        shift += 7
        if byte < 0x80:
            break
    sock, stderr = control.fds.pop(0), control.fds.pop(0)
    os.close(stderr)
    return id, sock

def fork(sock, what=does_its_task):
    pid = os.fork()
    if pid == 0:
        note_pid()
        control.close()
        worker = Peer(socket.socket(fileno=sock))
        what(worker)
        os._exit(0)
    os.close(sock)
    return pid

def spawn(what=does_its_task):
    "Forks as a zygote should; the number and the process."
    id, sock = asked()
    pid = fork(sock, what)
    pidfd = os.pidfd_open(pid)
    forked(id, [pidfd])
    os.close(pidfd)
    return id, pid

def reap(id, pid):
    os.waitpid(pid, 0)
    ended(id)

def serve(what=does_its_task):
    while True:
        id, pid = spawn(what)
        reap(id, pid)
"#;

/// What must come of a lie.
#[derive(Clone, Copy)]
enum Expected {
    Output(&'static str),
    /// `Crashed`, as a breach of the protocol whose description contains this.
    Breach(&'static str),
    Crash,
    Limit(Limit),
    Error(ErrorKind),
    /// Whatever; once, and in time.
    Any,
}
use Expected::{Any, Breach, Crash as Crashes, Limit as Ends, Output};

struct Lie {
    script: &'static str,
    expected: Expected,
    limits: Limits,
    /// The task is one that starts tasks, itself.
    requests: bool,
    task: fn(Task) -> Task,
}

fn lie(script: &'static str, expected: Expected) -> Lie {
    Lie {
        script,
        expected,
        limits: Limits::default().timeout(Duration::from_secs(60)),
        requests: false,
        task: |task| task,
    }
}

impl Lie {
    /// With this deadline.
    fn within(mut self, millis: u64) -> Self {
        self.limits = self.limits.timeout(Duration::from_millis(millis));
        self
    }

    fn max_output(mut self, bytes: u64) -> Self {
        self.limits = self.limits.max_output(bytes);
        self
    }

    fn requests(mut self) -> Self {
        self.limits = self.limits.max_memory(64 << 20).max_tasks(6);
        self.requests = true;
        self
    }

    fn task(mut self, task: fn(Task) -> Task) -> Self {
        self.task = task;
        self
    }
}

/// How long anything may take that must not take forever.
const BOUND: Duration = Duration::from_secs(100);
/// What the runner's process may use at most, whatever it is told.
const MEMORY_KIB: u64 = 400 << 10;

/// Ends this process when a lie is not over in time: some waits have no end.
struct Watched(std::sync::mpsc::Sender<()>);

impl Watched {
    fn new(script: &'static str) -> Self {
        let (over, is_over) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let timeout = Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            if is_over.recv_timeout(2 * BOUND) == timeout {
                eprintln!("no end: {script}");
                std::process::abort();
            }
        });
        Watched(over)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Liar {
    directory: tempfile::TempDir,
    program: PathBuf,
}

impl Liar {
    /// None without Python.
    fn new(script: &str) -> Option<Self> {
        let python = tool::python(&["socket.recv_fds", "os.pidfd_open"])?;
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("worker");
        // Neither site packages nor the environment: it has none.
        std::fs::write(&program, format!("#!{python} -IS\n{PRELUDE}\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("lie", "");
        write("pids", "");
        write("honest", wrun().to_str().unwrap());
        Some(Liar { directory, program })
    }

    /// A process that is none of the liar's business.
    fn with_victim(self) -> (Self, Victim) {
        // In the group of this test, and not in one that the runner made.
        let victim = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = victim.id().to_string();
        std::fs::write(self.directory.path().join("victim"), pid).unwrap();
        (self, Victim(victim))
    }

    /// From now on the program is a good worker.
    fn repent(&self) {
        std::fs::remove_file(self.directory.path().join("lie")).unwrap();
    }

    fn left(&self) -> Vec<String> {
        let pids = std::fs::read_to_string(self.directory.path().join("pids")).unwrap();
        pids.lines()
            .filter(|pid| Path::new("/proc").join(pid).exists())
            .map(str::to_owned)
            .collect()
    }
}

fn runner(liar: &Liar, start: Start, reuse: u32) -> Runner {
    Runner::builder()
        .mode(Mode::Process)
        .process(
            ProcessOptions::default()
                .start(start)
                .spares(0)
                .reuse(reuse),
        )
        .worker_threads(2)
        .process(ProcessOptions::default().worker(&liar.program))
        .build()
        .unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse().unwrap()
}

#[track_caller]
fn check(result: &Result<Report, Error>, expected: Expected, script: &str) {
    let fits = match (expected, result) {
        (Any, _) => true,
        (Output(output), Ok(report)) => report.outcome.is_completed() && report.stdout == output,
        (Breach(words), Ok(report)) => matches!(
            &report.outcome,
            Outcome::Crashed(crash)
                if matches!(crash.how(), Crash::Protocol(what) if what.contains(words))
        ),
        (Crashes, Ok(report)) => matches!(report.outcome, Outcome::Crashed(_)),
        (Ends(limit), Ok(report)) => report.outcome == Outcome::LimitExceeded(limit),
        (Expected::Error(kind), Err(error)) => error.kind() == kind,
        _ => false,
    };
    assert!(fits, "{script}\ngave {result:?}");
}

/// Every lie, one after the other: what comes of it, and that nothing else does.
fn all(start: Start, lies: Vec<Lie>) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        hook(info);
    }));
    // What is made once and for all.
    let Some(honest) = Liar::new("") else {
        return;
    };
    honest.repent();
    still_works(&runner(&honest, start, 1));
    let mut slowest = (Duration::ZERO, "");
    for lie in lies {
        let before = descriptors();
        let (liar, mut victim) = Liar::new(lie.script).unwrap().with_victim();
        let runner = runner(&liar, start, 1);
        let what = match lie.requests {
            true => "guest-tasks/family/family.wasm",
            false => "guest-tasks/echo/echo.wat",
        };
        let echo = runner.blocking_load(repo(what)).unwrap();
        let began = Instant::now();
        let _watched = Watched::new(lie.script);
        let task = Task::new(&echo).task("self", &echo);
        let task = (lie.task)(task.input("x").limits(lie.limits.clone()));
        let result = runner.blocking_submit(task).unwrap().blocking_report();
        let took = began.elapsed();
        check(&result, lie.expected, lie.script);
        assert!(took < BOUND, "{}\ntook {took:?}", lie.script);
        if took > slowest.0 {
            slowest = (took, lie.script);
        }
        if start == Start::Exec {
            // The runner lives: what is gone now, it ended.
            let gone = within(Duration::from_secs(20), || liar.left().is_empty());
            assert!(gone, "{}\nleft {:?}", lie.script, liar.left());
        }
        liar.repent();
        // With an artifact of its own: that one's workers did nothing wrong.
        still_works(&runner);
        drop((runner, echo));
        let gone = within(Duration::from_secs(20), || {
            liar.left().is_empty() && children().len() == 1 && descriptors() <= before
        });
        assert!(
            gone,
            "{}\nleft {:?}, children {:?}, {before} descriptors before, {} after",
            lie.script,
            liar.left(),
            children(),
            descriptors()
        );
        assert_eq!(victim.0.try_wait().unwrap(), None, "{}", lie.script);
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "{}", lie.script);
        let peak = peak_kib();
        assert!(peak < MEMORY_KIB, "{}\ntook {peak} KiB", lie.script);
    }
    eprintln!(
        "at most {:?}, for {:?}; peak of resident memory {} KiB",
        slowest.0,
        slowest.1,
        peak_kib()
    );
}

const NO_WORKER: Expected = Expected::Error(ErrorKind::NoWorker);

#[test]
fn before_it_is_ready() {
    let lies = || {
        vec![
            // Other programs, and other versions.
            lie("live()", Ends(Limit::Deadline)).within(1000),
            lie("sys.exit(3)", NO_WORKER),
            lie("control.close(); live()", NO_WORKER),
            lie("raw(b'#!/bin/sh -e\\n\\n'); live()", NO_WORKER),
            lie("raw(b'wrunwork'); live()", Ends(Limit::Deadline)).within(1000),
            lie("raw(b'wrunwork'); control.close(); live()", NO_WORKER),
            lie("hello(77); live()", NO_WORKER),
            lie("hello(fds=[1, 1]); ready(); live()", NO_WORKER),
            lie(
                "os.kill(os.getpid(), signal.SIGSTOP)",
                Ends(Limit::Deadline),
            )
            .within(4000),
            // Silence, half frames, rubbish.
            lie("hello(); live()", Ends(Limit::Deadline)).within(1000),
            lie("hello(); order(); live()", Ends(Limit::Deadline)).within(1000),
            lie("hello(); raw(b'\\1'); live()", Ends(Limit::Deadline)).within(1000),
            lie(
                "hello(); raw(frame(b'\\1\\0')[:5]); live()",
                Ends(Limit::Deadline),
            )
            .within(1000),
            lie("hello(); raw(b'\\xff' * 4); live()", NO_WORKER),
            lie("hello(); say(b''); live()", NO_WORKER),
            lie("hello(); say(b'\\xff' * 9); live()", NO_WORKER),
            lie("hello(); say(b'\\1\\0\\0'); live()", NO_WORKER),
            // Not the order of things.
            lie("hello(); forked(0, []); live()", NO_WORKER),
            lie("hello(); forked(0, [1]); live()", NO_WORKER),
            lie("hello(); ended(0); live()", NO_WORKER),
            lie("hello(); not_forked(0, 11); live()", NO_WORKER),
            // Reports and messages of any length.
            lie("hello(); ready(13000); live()", Ends(Limit::Deadline)).within(2000),
            lie(
                "hello(); order(); say(b'\\1' + varint(1 << 60)); live()",
                NO_WORKER,
            ),
            lie("hello(); say(b'\\3' + text('x' * 4000000)); live()", Any),
            lie(
                "hello(); say(b'\\3' + text(b'\\xff' * 9)); live()",
                NO_WORKER,
            ),
            lie("hello(); say(b'\\5' + text('x' * 4000000)); live()", Any),
            lie(
                "hello(); say(b'\\4' + varint(3) + varint(2) + text('x' * 4000000)); live()",
                Expected::Error(ErrorKind::Jail),
            ),
            lie(
                "hello(); say(b'\\4' + varint(77) + varint(2) + text('x')); live()",
                NO_WORKER,
            ),
            lie("hello(); say(b'\\2' + text('x' * 4000000)); live()", Any),
            // It goes on as another process.
            lie("hello(); moved(victim()); ready(); live()", NO_WORKER),
            lie("hello(); moved(os.getppid()); ready(); live()", NO_WORKER),
            lie("hello(); moved(os.getpid()); ready(); live()", NO_WORKER),
            lie("hello(); moved(1); ready(); live()", NO_WORKER),
            lie("hello(); moved(0); ready(); live()", NO_WORKER),
            lie("hello(); moved(-1); ready(); live()", NO_WORKER),
            lie("hello(); moved(-victim()); ready(); live()", NO_WORKER),
            lie("hello(); moved(2**31 - 1); ready(); live()", NO_WORKER),
            lie("hello(); moved(-2**31); ready(); live()", NO_WORKER),
            // A child of its own, which is not a child of the runner.
            lie(
                "hello()
pid = os.fork()
if pid == 0: note_pid(); live()
moved(pid); ready(); live()",
                NO_WORKER,
            ),
            lie(
                "hello()
pid = os.fork()
if pid == 0: note_pid(); ready(); live()
moved(pid); sys.exit()",
                // Whichever of the two is heard first.
                Any,
            ),
            // Descriptors that were not requested.
            lie("hello(); ready(fds=[1]); live()", NO_WORKER),
            lie("hello(); ready(fds=[1] * 200); live()", Any).within(2000),
            lie(
                "hello(); raw(b'\\1', [1] * 100); live()",
                Ends(Limit::Deadline),
            )
            .within(1000),
            lie(
                "hello()\nwhile True: raw(b'', [1] * 100) or raw(b'\\1', [1] * 100)",
                Any,
            )
            .within(2000),
            // It leaves its group, for the runner's own.
            lie(
                "hello(); os.setpgid(0, os.getpgid(os.getppid())); live()",
                Ends(Limit::Deadline),
            )
            .within(1000),
            lie(
                "hello(); os.setpgid(0, os.getpgid(os.getppid())); ready(); order(); live()",
                Ends(Limit::Deadline),
            )
            .within(1000),
            // It has a child that holds its socket, and one that does not die with it.
            lie(
                "hello()
if os.fork() == 0: note_pid(); live()
sys.exit()",
                Any,
            )
            .within(3000),
        ]
    };
    alone("hostile_worker::before_it_is_ready", || {
        all(Start::Exec, lies());
        all(Start::Fork, lies());
    });
}

#[test]
fn workers_that_lie() {
    let task = |script: &'static str, expected| lie(script, expected);
    alone("hostile_worker::workers_that_lie", || {
        all(
            Start::Exec,
            vec![
                task("hello(); ready(); order(); done(b'hi'); live()", Output("hi")),
                task("hello(); ready(); order(); done(b'hi')", Output("hi")),
                // Ignores its end, and orders.
                task(
                    "signal.signal(signal.SIGTERM, signal.SIG_IGN)
hello(); ready(); order(); done(b'hi')
while True: pass",
                    Output("hi"),
                ),
                task("hello(); ready(); live()", Ends(Limit::Deadline)).within(500),
                task("hello(); ready(); order(); live()", Ends(Limit::Deadline)).within(500),
                // Lengths and rubbish.
                task("hello(); ready(); order(); raw(b'\\xff' * 4); live()", Breach("exceeds the limit")),
                task("hello(); ready(); order(); say(b''); live()", Breach("cannot be decoded")),
                task(
                    "hello(); ready(); order(); say(b'\\xff' * 9); live()",
                    Breach("cannot be decoded"),
                ),
                task("hello(); ready(); order(); say(b'\\0\\0'); live()", Breach("trailing")),
                task(
                    "hello(); ready(); order(); say(b'\\2' + varint(1 << 40) + b'x'); live()",
                    Breach("cannot be decoded"),
                ),
                task(
                    "hello(); ready(); order(); say(b'\\5' + text(b'\\xff\\xfe') + b'\\0'); live()",
                    Breach("cannot be decoded"),
                ),
                task(
                    "hello(); ready(); order(); raw(struct.pack('<I', 4 << 20) + b'x' * 1000); live()",
                    Ends(Limit::Deadline),
                )
                .within(1000),
                task(
                    "hello(); ready(); order(); raw(frame(b'\\1\\1\\0')[:6]); live()",
                    Ends(Limit::Deadline),
                )
                .within(500),
                task(
                    "hello(); ready(); order(); raw(frame(b'\\1\\1\\0')[:6]); control.close(); live()",
                    Breach("did not end"),
                ),
                // Its socket.
                task("hello(); ready(); control.close(); live()", Breach("did not end")),
                task("hello(); ready(); order(); control.close(); live()", Breach("did not end")),
                task(
                    "hello(); ready(); order(); control.sock.shutdown(socket.SHUT_WR); live()",
                    Breach("did not end"),
                ),
                task(
                    "hello(); ready(); control.sock.shutdown(socket.SHUT_RD); live()",
                    Ends(Limit::Deadline),
                )
                .within(500),
                // Not the order of things.
                task("hello(); ready(); done(b'early'); live()", Any),
                task("hello(); ready(); done(b'early'); done(b'twice'); order(); live()", Any),
                task("hello(); ready(); order(); done(b'hi'); done(b'twice'); live()", Output("hi")),
                task("hello(); ready(); order(); control.want_input(); live()", Breach("input again")),
                task(
                    "hello(); ready(); order(); control.want_input(); control.want_input(); live()",
                    Breach("input again"),
                )
                .task(|task| task.input(vec![b'x'; 1 << 20])),
                // Output.
                task("hello(); ready(); order(); done(b'x' * 5000); live()", Ends(Limit::Output))
                    .max_output(1000),
                task(
                    "hello(); ready(); order()
while True: control.stdout(b'x' * 4000000)",
                    Ends(Limit::Output),
                ),
                task(
                    "hello(); ready(); order()
while True: control.stderr(b'x' * 65536)",
                    Ends(Limit::Output),
                )
                .max_output(1 << 20),
                task(
                    "hello(); ready(); order()
while True: control.stdout(b'x' * 65536)",
                    Ends(Limit::Output),
                )
                .max_output(1 << 20)
                .task(|task| task.stdout(wrun::Stdio::Null)),
                task(
                    "hello(); ready(); order(); control.stdout(b'hi'); live()",
                    Breach("that has a pipe"),
                )
                .task(|task| task.stdout(wrun::Stdio::Stream)),
                task("hello(); ready(); order(); done(stdout=1000); live()", Breach("promised more")),
                task("hello(); ready(); order(); done(stdout=2**64 - 1); live()", Breach("promised more"))
                    .task(|task| task.stdout(wrun::Stdio::Stream)),
                task("hello(); ready(); order(); done(stderr=1); live()", Breach("promised more")),
                // Words and numbers.
                task("hello(); ready(); order(); done(b'hi', seconds=2**64 - 1); live()", Output("hi")),
                task(
                    "hello(); ready(); order(); done(outcome=b'\\1' + text('x' * 4000000)); live()",
                    Any,
                ),
                task("hello(); ready(); order(); done(outcome=b'\\4\\x30'); live()", Breach("decode")),
                task("hello(); ready(); order(); done(outcome=b'\\4\\0'); live()", Ends(Limit::Deadline)),
                task("hello(); ready(); order(); done(outcome=b'\\6'); live()", Any),
                // A crash is what the runner sees; the output is what came as output.
                task(
                    "hello(); ready(); order(); done(outcome=b'\\5\\3'); live()",
                    Breach("it reported a crash itself"),
                ),
                task(
                    "hello(); ready(); order(); done(outcome=b'\\0' + text('x' * 99)); live()",
                    Output(""),
                ),
                task(
                    "hello(); ready(); order(); control.failed('x' * 4000000); live()",
                    Expected::Error(ErrorKind::System),
                ),
                // Descriptors that were not requested.
                task(
                    "hello(); ready(); order(); say(b'\\1\\1\\0', [1]); live()",
                    Breach("descriptors"),
                ),
                task("hello(); ready(); order(); done(b'hi', fds=[1]); live()", Breach("descriptors")),
                task(
                    "hello(); ready(); order(); raw(b'\\1', [1] * 160); live()",
                    Ends(Limit::Deadline),
                )
                .within(500),
                task(
                    "hello(); ready(); order()
while True: raw(b'\\0', [1] * 100)",
                    Any,
                )
                .within(1000),
                // The pipe that its output goes through, so that it has no end.
                task(
                    "hello(); ready(); order(); raw(b'\\1', control.fds); sys.exit(3)",
                    Crashes,
                )
                .task(|task| task.stdout(wrun::Stdio::Stream)),
                // Death.
                task("hello(); ready(); sys.exit(3)", Crashes),
                task("hello(); ready(); order(); sys.exit(3)", Crashes),
                task("hello(); ready(); order(); os.kill(os.getpid(), 11)", Crashes),
                task("hello(); ready(); order(); os.kill(os.getpid(), signal.SIGSTOP)", Crashes),
                task(
                    "hello(); ready(); order()
if os.fork() == 0: note_pid(); live()
os._exit(3)",
                    Any,
                )
                .within(5000),
            ],
        );
    });
}

#[test]
fn requests_that_lie() {
    let requests = |script: &'static str, expected| lie(script, expected).requests();
    alone("hostile_worker::requests_that_lie", || {
        let lies = vec![
            // For a task that imports nothing of the kind.
            lie(
                "hello(); ready(); order(); request(1, start('self')); live()",
                Breach("does not import"),
            ),
            lie(
                "hello(); ready(); order(); say(b'\\7\\0\\1'); live()",
                Breach("does not import"),
            ),
            // Numbers.
            requests(
                "hello(); ready(); order(); request(2, start('nobody')); live()",
                Breach("not numbered in sequence"),
            ),
            requests(
                "hello(); ready(); order(); request(2**64 - 1, start('nobody')); live()",
                Breach("not numbered in sequence"),
            ),
            requests(
                "hello(); ready(); order(); request(1, start('nobody')); order()
request(1, start('nobody')); live()",
                Breach("not numbered in sequence"),
            ),
            // Children that it has not.
            requests(
                "hello(); ready(); order(); request(1, b'\\1\\x09'); live()",
                Breach("names an unknown"),
            ),
            requests(
                "hello(); ready(); order(); request(1, b'\\2\\x09'); live()",
                Breach("names an unknown"),
            ),
            requests(
                "hello(); ready(); order(); say(b'\\7\\0\\x09'); live()",
                Breach("names an unknown"),
            ),
            requests(
                "hello(); ready(); order(); say(b'\\7\\1' + varint(2**64 - 1)); live()",
                Breach("names an unknown"),
            ),
            // What comes along.
            requests(
                "hello(); ready(); order(); request(1, start('self'), [1]); live()",
                Breach("descriptors"),
            ),
            requests(
                "hello(); ready(); order(); request(1, start('self', b'\\1\\5')); live()",
                Breach("descriptors"),
            ),
            requests(
                "hello(); ready(); order(); request(1, start('self', b'\\1\\5'), [1, 1]); live()",
                Breach("descriptors"),
            ),
            requests(
                "hello(); ready(); order(); request(1, start('self', b'\\1\\5'), [1]); live()",
                Breach("not a file"),
            ),
            requests(
                "hello(); ready(); order()
request(1, start('self', b'\\1' + varint(2**64 - 1)), [os.memfd_create('x')]); live()",
                Breach("not a file"),
            ),
            requests(
                "hello(); ready(); order(); request(1, start('self', port=b'\\1\\1\\0\\0\\0\\0\\0'), [1, 1, 1]); live()",
                Breach("not a port"),
            ),
            requests(
                "hello(); ready(); order(); say(b'\\1\\1\\0', [1]); live()",
                Breach("descriptors"),
            ),
            // Claims: with nothing, with two, and of a descriptor that is not a region of this runner.
            requests(
                "hello(); ready(); order(); request(1, b'\\7'); live()",
                Breach("descriptors"),
            ),
            requests(
                "hello(); ready(); order(); request(1, b'\\7', [1, 1]); live()",
                Breach("descriptors"),
            ),
            requests(
                "hello(); ready(); order()
for (id, what) in enumerate([1, os.pipe()[0], os.memfd_create('x')]):
    request(id + 1, b'\\7', [what]); order()
request(9, b'\\7', [1]); live()",
                Breach("not numbered in sequence"),
            ),
            // Lengths.
            requests(
                "hello(); ready(); order(); request(1, start('x' * 257)); live()",
                Breach("too long"),
            ),
            requests(
                "hello(); ready(); order(); request(1, start(b'\\xff')); live()",
                Breach("decode"),
            ),
            requests(
                "hello(); ready(); order(); request(1, start('self', b'\\0' + text('x' * 300000))); live()",
                Breach("too much data"),
            ),
            requests(
                "hello(); ready(); order(); say(b'\\6\\1\\0' + varint(2**62)); live()",
                Breach("decode"),
            ),
            // Floods: of requests whose answers are not read, and of others.
            requests(
                "hello(); ready(); order(); n = 0
while True: n += 1; request(n, start('nobody'))",
                Any,
            )
            .within(500),
            requests(
                "hello(); ready(); order(); n = 0
while True: n += 1; request(n, start('nobody')); order()",
                Ends(Limit::Deadline),
            )
            .within(500),
            // Real children, which lie the same way, and their parent ends.
            requests(
                "hello(); ready(); order(); request(1, start('self')); done(b'hi'); live()",
                Output("hi"),
            ),
            requests(
                "hello(); ready(); order(); request(1, start('self')); order(); sys.exit(3)",
                Crashes,
            ),
            requests(
                "hello(); ready(); order()
for n in range(1, 100): request(n, start('self')); order()
live()",
                Ends(Limit::Deadline),
            )
            .within(1500),
            requests(
                "hello(); ready(); order(); request(1, start('self')); child = order()[3:]
for n in range(2, 1000): request(n, b'\\2' + child)
live()",
                Breach("too many open requests"),
            ),
            requests(
                "hello(); ready(); order(); request(1, start('self')); child = order()[3:]
for _ in range(2): say(b'\\7\\1' + child)
live()",
                Breach("names an unknown"),
            ),
        ];
        all(Start::Exec, lies);
    });
}

#[test]
fn floods() {
    let flood = |script: &'static str| lie(script, Ends(Limit::Deadline)).within(500);
    alone("hostile_worker::floods", || {
        all(
            Start::Exec,
            vec![
                flood("hello(); ready(); order()\nwhile True: raw(frame(b'\\1\\1\\0') * 1000)"),
                flood("hello(); ready(); order()\nwhile True: raw(frame(b'\\1\\1\\0') * 100000)"),
                flood("hello(); ready(); order()\nwhile True: raw(frame(b'\\2\\0') * 1000)"),
                flood("hello(); ready(); order()\nwhile True: raw(frame(b'\\3\\0') * 100000)"),
                // By many at once.
                lie(
                    "hello(); ready(); order()
for _ in range(4): os.fork()
while True: raw(frame(b'\\1\\1\\0') * 10000)",
                    Any,
                )
                .within(500),
                lie(
                    "hello(); ready(); order()\nwhile True: raw(frame(b'\\0') * 1000)",
                    Breach("again"),
                ),
                lie(
                    "hello(); ready(); order()\nwhile True: raw(frame(b'\\7') * 1000)",
                    Breach("decode"),
                ),
                lie(
                    "hello(); ready(); order()\nwhile True: done(b'x' * 100000)",
                    Any,
                ),
                lie(
                    "hello(); ready(); order()\nwhile True: control.failed('x' * 100000)",
                    Any,
                ),
                lie("while True: raw(b'wrunwork')", NO_WORKER),
                lie(
                    "hello()\nwhile True: raw(frame(b'\\0\\x04') * 1000)",
                    NO_WORKER,
                ),
                lie("hello()\nwhile True: raw(frame(b'\\1\\0') * 1000)", Any).within(2000),
            ],
        );
        all(
            Start::Fork,
            vec![
                lie(
                    "hello(); ready()\nwhile True: raw(frame(b'\\x06\\0') * 1000)",
                    Any,
                )
                .within(3000),
                lie(
                    "hello(); ready()\nwhile True: raw(frame(b'\\x07\\0\\x16') * 1000)",
                    Any,
                )
                .within(3000),
                lie(
                    "hello(); ready()\nwhile True: raw(frame(b'\\x08\\0\\0\\0' + USAGE) * 1000)",
                    Any,
                )
                .within(3000),
                lie(
                    "hello(); ready()\nwhile True: raw(frame(b'\\1\\0') * 1000)",
                    Any,
                )
                .within(3000),
                lie(
                    "hello(); ready()\nwhile True: raw(b'\\0' * 65536, [1] * 100)",
                    Any,
                )
                .within(3000),
                lie(
                    "hello(); ready(); spawn(lambda it: it.order() and live())\nwhile True: raw(frame(b'\\x08\\0\\0\\0' + USAGE) * 1000)",
                    Crashes,
                ),
            ],
        );
    });
}

#[test]
fn zygotes_that_lie() {
    // What a zygote does wrong before its worker is there is tried again with
    // another one, which is as bad, until there have been enough.
    let loops = |script: &'static str| lie(script, Expected::Error(ErrorKind::CrashLoop));
    alone("hostile_worker::zygotes_that_lie", || {
        all(
            Start::Fork,
            vec![
                lie("hello(); ready(); serve()", Output("hi")),
                lie("hello(); ready(); spawn(); live()", Output("hi")),
                // Silence and death.
                lie("hello(); ready(); live()", Ends(Limit::Deadline)).within(1000),
                lie("hello(); ready(); asked(); live()", Ends(Limit::Deadline)).within(1000),
                lie("hello(); ready(); asked(); sys.exit(3)", Any).within(3000),
                lie("hello(); ready(); control.close(); live()", Any).within(3000),
                lie("hello(); ready(); asked(); os.kill(os.getpid(), signal.SIGSTOP)", Any).within(4000),
                // Not the order of things.
                loops("hello(); ready(); ready(); live()"),
                loops("hello(); ready(); moved(victim()); live()"),
                loops("hello(); ready(); say(b'\\xff'); live()"),
                loops("hello(); ready(); raw(b'\\xff' * 4); live()"),
                loops("hello(); ready(); ended(0); live()"),
                loops("hello(); ready(); id, _ = asked(); ended(id); live()"),
                // Numbers.
                loops("hello(); ready(); id, sock = asked(); forked(id + 1, [os.pidfd_open(fork(sock))]); live()"),
                loops("hello(); ready(); id, sock = asked(); forked(2**64 - 1, [os.pidfd_open(fork(sock))]); live()"),
                loops("hello(); ready(); id, _ = asked(); not_forked(id + 1, 11); live()"),
                // Told that it cannot fork, the runner starts a worker of its own,
                // which is as bad.
                lie("hello(); ready(); id, _ = asked(); not_forked(id, 11); live()", Any).within(2000),
                lie("hello(); ready(); id, _ = asked(); not_forked(id, -2**31); live()", Any).within(2000),
                // Descriptors.
                loops("hello(); ready(); id, sock = asked(); fork(sock); forked(id, []); live()"),
                loops("hello(); ready(); id, sock = asked(); forked(id, [os.pidfd_open(fork(sock))] * 2); live()"),
                loops("hello(); ready(); id, sock = asked(); fork(sock); forked(id, os.pipe()[:1]); live()"),
                loops("hello(); ready(); id, sock = asked(); forked(id, [sock]); live()"),
                loops("hello(); ready(); id, sock = asked(); forked(id, [os.pidfd_open(victim())]); fork(sock); live()"),
                loops("hello(); ready(); id, sock = asked(); forked(id, [os.pidfd_open(os.getppid())]); fork(sock); live()"),
                loops("hello(); ready(); id, sock = asked(); forked(id, [os.pidfd_open(1)]); fork(sock); live()"),
                // Its own, and one that has left its group.
                lie("hello(); ready(); id, sock = asked(); forked(id, [os.pidfd_open(os.getpid())]); fork(sock); live()", Any),
                loops(
                    "hello(); ready(); id, sock = asked()
pid = fork(sock, lambda it: (os.setsid(), does_its_task(it)))
while os.getsid(pid) != pid: time.sleep(0.001)
forked(id, [os.pidfd_open(pid)]); live()",
                ),
                // One that is dead already.
                lie(
                    "hello(); ready(); id, sock = asked()
pid = os.fork()
if pid == 0: os._exit(0)
pidfd = os.pidfd_open(pid); os.waitpid(pid, 0); forked(id, [pidfd]); fork(sock); live()",
                    Output("hi"),
                ),
                // Twice.
                lie("hello(); ready(); id, pid = spawn(lambda it: live()); forked(id, [os.pidfd_open(pid)]); live()", Crashes),
                lie("hello(); ready(); id, pid = spawn(); reap(id, pid); ended(id); live()", Any),
                // The end of one that runs, and how nothing ends.
                lie(
                    "hello(); ready(); id, pid = spawn(lambda it: it.order() and live()); ended(id); live()",
                    Ends(Limit::Deadline),
                )
                .within(1000),
                lie(
                    "hello(); ready(); id, pid = spawn(lambda it: it.order()); os.waitpid(pid, 0); ended(id, b'\\1' + signed(2**31 - 1)); live()",
                    Crashes,
                ),
                lie(
                    "hello(); ready(); id, pid = spawn(lambda it: it.order()); os.waitpid(pid, 0); ended(id, b'\\0' + signed(-5)); live()",
                    Crashes,
                ),
                lie(
                    "hello(); ready(); id, pid = spawn(lambda it: it.order()); os.waitpid(pid, 0); ended(id, b'\\1' + signed(9), usage=varint(2**64 - 1) * 1 + varint(0) + varint(2**64 - 1) + varint(0) + varint(2**64 - 1) * 5); live()",
                    Crashes,
                ),
                lie(
                    "hello(); ready(); id, pid = spawn(lambda it: it.order()); os.waitpid(pid, 0); ended(id, fds=[1]); live()",
                    Crashes,
                ),
                // Its worker's end is never told.
                lie("hello(); ready(); spawn(lambda it: it.order()); live()", Crashes),
                lie("hello(); ready(); spawn(lambda it: (it.order(), it.failed('no'), live())); live()", Expected::Error(ErrorKind::System)),
                // Dies while its worker runs, in its group and out of it.
                lie("hello(); ready(); spawn(lambda it: it.order() and live()); sys.exit(3)", Crashes).within(5000),
                // Workers of a zygote lie as others do.
                lie("hello(); ready(); serve(lambda it: (it.order(), it.raw(b'\\xff' * 4), live()))", Breach("exceeds the limit")),
                lie("hello(); ready(); serve(lambda it: (it.order(), it.done(b'hi'), live()))", Output("hi")),
                lie("hello(); ready(); serve(lambda it: (it.order(), it.done(b'hi', fds=[1]), live()))", Breach("descriptors")),
                lie("hello(); ready(); serve(lambda it: (it.order(), it.sock.close(), live()))", Breach("did not end")),
                lie("hello(); ready(); serve(lambda it: live())", Ends(Limit::Deadline)).within(500),
            ],
        );
    });
}

#[test]
fn a_zygote_that_forgets_its_dead_costs_no_places() {
    alone(
        "hostile_worker::a_zygote_that_forgets_its_dead_costs_no_places",
        || {
            // It reaps, and never tells; places for processes come to an end.
            let script = "signal.signal(signal.SIGCHLD, signal.SIG_IGN); hello(); ready()\n\
                          while True: spawn()";
            let Some(liar) = Liar::new(script) else {
                return;
            };
            let runner = Runner::builder()
                .mode(Mode::Process)
                .process(ProcessOptions::default().spares(0))
                .max_running(1)
                .process(ProcessOptions::default().worker(&liar.program))
                .build()
                .unwrap();
            let echo = runner
                .blocking_load(repo("guest-tasks/echo/echo.wat"))
                .unwrap();
            let began = Instant::now();
            // One that runs, one that is buried, 64 and 256 idle ones, and more.
            for n in 0..400 {
                let task = Task::new(&echo).limits(Limits::default().timeout(BOUND));
                let report = runner.blocking_run(task).unwrap();
                let completed = report.outcome.is_completed();
                let lost = matches!(report.outcome, Outcome::Crashed(_));
                assert!(completed || lost, "task {n}: {}", report.outcome);
            }
            eprintln!("400 tasks in {:?}", began.elapsed());
            drop((runner, echo));
            assert!(within(Duration::from_secs(20), || liar.left().is_empty()));
        },
    );
}

#[test]
fn a_worker_that_spoke_unasked_gets_no_other_task() {
    alone(
        "hostile_worker::a_worker_that_spoke_unasked_gets_no_other_task",
        || {
            let script = "hello(); ready()\nserve(lambda it: [(it.order(), it.done(b'mine'), \
                          it.done(b'stale')) for _ in range(9)])";
            let Some(liar) = Liar::new(script) else {
                return;
            };
            let runner = runner(&liar, Start::Fork, 9);
            let echo = runner
                .blocking_load(repo("guest-tasks/echo/echo.wat"))
                .unwrap();
            let mut workers = std::collections::BTreeSet::new();
            for _ in 0..5 {
                let report = runner.blocking_run(Task::new(&echo)).unwrap();
                assert_eq!(report.stdout, "mine", "{}", report.outcome);
                let worker = report.stats.worker_pid.unwrap();
                workers.insert(worker);
                // Until it has said all that belongs to no task, and waits.
                await_rest("the worker", Duration::from_secs(60), worker.cast_signed());
            }
            assert_eq!(workers.len(), 5);
        },
    );
}

#[test]
fn times_beyond_all_clocks_are_cut() {
    let script = "hello(); ready(); order(); done(seconds=2**64 - 1); live()";
    let Some(liar) = Liar::new(script) else {
        return;
    };
    let runner = runner(&liar, Start::Exec, 1);
    let echo = runner
        .blocking_load(repo("guest-tasks/echo/echo.wat"))
        .unwrap();
    let report = runner.blocking_run(Task::new(&echo)).unwrap();
    assert!(report.outcome.is_completed(), "{}", report.outcome);
    assert!(report.stats.run <= report.stats.total, "{:?}", report.stats);
}

#[test]
fn another_version_is_named() {
    let Some(liar) = Liar::new("hello(77); live()") else {
        return;
    };
    let runner = runner(&liar, Start::Exec, 1);
    let echo = runner
        .blocking_load(repo("guest-tasks/echo/echo.wat"))
        .unwrap();
    let error = runner.blocking_run(Task::new(&echo)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoWorker);
    assert!(error.to_string().contains("protocol version 77"), "{error}");
}

#[test]
fn words_of_any_length_are_cut() {
    for script in [
        "hello(); say(b'\\3' + text('x' * 4000000)); live()",
        "hello(); say(b'\\5' + text('x' * 4000000)); live()",
        "hello(); ready(); order(); control.failed('x' * 4000000); live()",
    ] {
        let Some(liar) = Liar::new(script) else {
            return;
        };
        let runner = runner(&liar, Start::Exec, 1);
        let echo = runner
            .blocking_load(repo("guest-tasks/echo/echo.wat"))
            .unwrap();
        let error = runner.blocking_run(Task::new(&echo)).unwrap_err();
        let len = error.to_string().len();
        assert!((1000..10_000).contains(&len), "{script}: {len} bytes");
    }
    let Some(liar) = Liar::new("hello(); ready(13000); order(); done(b'hi'); live()") else {
        return;
    };
    let runner = runner(&liar, Start::Exec, 1);
    let echo = runner
        .blocking_load(repo("guest-tasks/echo/echo.wat"))
        .unwrap();
    let report = runner.blocking_run(Task::new(&echo)).unwrap();
    let jail = report.jail.unwrap();
    assert!(jail.layers.len() <= wrun::Layer::ALL.len());
    assert!(jail.layers.iter().all(|layer| layer.detail.len() <= 256));
}
