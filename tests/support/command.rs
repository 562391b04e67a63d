//! The `wrun` command as a shell starts it: arguments, stdin, signals, and what
//! came of it. Nothing here waits without an end: a command that takes longer
//! than [`PATIENCE`] is killed, and its test fails with its output.

use super::processes::descendants;
use super::{within, wrun};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long any command may take on a busy machine before its test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A folder that is removed with the value.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("wrun-test-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap()
}

/// The cache that these tests share: one per run of them, so that none sees code
/// of another build; those of runs that ended are removed.
pub fn shared_cache() -> &'static Path {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    CACHE.get_or_init(|| {
        let prefix = "shared-cache-";
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for entry in fs::read_dir(parent).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(pid) = name.strip_prefix(prefix)
                && !Path::new("/proc").join(pid).exists()
            {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let cache = parent.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir_all(&cache).unwrap();
        cache
    })
}

/// What starts `wrun` as an ordinary user, from a folder that this user can enter; none
/// where there is no way to do so, which is told. Files there are not the user's own.
#[track_caller]
pub fn ordinary(folder: &Path) -> Option<impl Fn(&str) -> Wrun + use<>> {
    use std::os::unix::fs::PermissionsExt;
    const USER: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let program = super::processes::own_copy(folder);
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        if !super::tool::available("setpriv") {
            return None;
        }
        let tried = Command::new("setpriv").args(USER).arg("true").status();
        if !tried.is_ok_and(|status| status.success()) {
            println!("SKIPPED: setpriv cannot start a program of another user");
            return None;
        }
    }
    Some(move |mode: &str| {
        let wrun = match is_root {
            false => Wrun::program(&program),
            true => Wrun::program(Path::new("setpriv")).args(USER).arg(&program),
        };
        wrun.args(["--no-cache", "--mode", mode])
    })
}

/// A command line that is being put together.
pub struct Wrun {
    pub command: Command,
    stdin: Vec<u8>,
    silent: bool,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// It did not end by itself.
    pub gave_up: bool,
}

impl Wrun {
    /// `wrun`, with the shared cache, empty stdin, no grants.
    pub fn new() -> Self {
        Wrun::program(&wrun())
    }

    /// Another copy of `wrun`, whose processes can then be told from all others.
    pub fn program(program: &Path) -> Self {
        // What these tests were started to ignore (`nohup`, a shell's background), a
        // program of theirs would ignore too.
        let mut command = Command::new("env");
        command
            .arg("--default-signal=HUP,INT,QUIT,TERM,TSTP,TTIN,TTOU")
            .arg(program)
            .env("WRUN_CACHE_DIR", shared_cache())
            // What a panic would say is to be seen, and found.
            .env("RUST_BACKTRACE", "1")
            // Cargo's own, which users do not have: with it no worker is forked early.
            .env_remove("LD_LIBRARY_PATH")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Wrun {
            command,
            stdin: Vec::new(),
            silent: false,
        }
    }

    /// `wrun --mode MODE`.
    pub fn mode(mode: &str) -> Self {
        let preempt = super::preemption();
        match preempt == wrun::Preemption::default() {
            true => Wrun::new().args(["--mode", mode]),
            false => Wrun::new().args(["--mode", mode, "--preempt", preempt.name()]),
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub fn cache(self, directory: &Path) -> Self {
        self.env("WRUN_CACHE_DIR", directory)
    }

    /// These bytes on stdin, through a pipe, then its end.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self.command.stdin(Stdio::piped());
        self
    }

    /// A stdin that neither delivers nor ends.
    pub fn silent_stdin(mut self) -> Self {
        self.silent = true;
        self.command.stdin(Stdio::piped());
        self
    }

    pub fn stdin_from(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    pub fn stdout_to(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    /// Starts it, for tests that talk to it while it runs; its stdin is a pipe.
    /// In a process group of its own, so that a test can press its Ctrl-C.
    pub fn start(mut self) -> Running {
        self.command.process_group(0);
        Running::new(self.command.spawn().unwrap())
    }

    /// Runs it to its end, or to the end of [`PATIENCE`].
    pub fn run(self) -> Ran {
        let mut command = self.command;
        let mut running = Running::new(command.spawn().unwrap());
        let stdin = running.child.stdin.take();
        let feeding = match stdin {
            Some(stdin) if self.silent => Feeding::Held(stdin),
            Some(mut stdin) => Feeding::Thread(std::thread::spawn(move || {
                // A command may end without reading all of it.
                let _ = stdin.write_all(&self.stdin);
            })),
            None => Feeding::None,
        };
        let ran = running.end();
        match feeding {
            Feeding::Thread(thread) => thread.join().unwrap(),
            Feeding::Held(stdin) => drop(stdin),
            Feeding::None => {}
        }
        ran
    }
}

enum Feeding {
    None,
    Held(std::process::ChildStdin),
    Thread(JoinHandle<()>),
}

/// A started command; killed when dropped.
pub struct Running {
    pub child: Child,
    reading: [Option<JoinHandle<Vec<u8>>>; 2],
}

impl Running {
    fn new(child: Child) -> Self {
        Running {
            child,
            reading: [None, None],
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// A signal to its whole process group, as a terminal's Ctrl-C.
    pub fn signal_group(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process_group(pid, signal).unwrap();
    }

    /// Waits until it has submitted its task.
    #[track_caller]
    pub fn await_task(&self, mode: &str) {
        await_task_of(self.pid(), mode);
    }

    /// Whether it ended within the time.
    pub fn ends_within(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut pause = Duration::from_micros(200);
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Reads what is left of its output, waits for it, and kills it when it does
    /// not end.
    pub fn end(mut self) -> Ran {
        fn read_all(source: Option<impl Read + Send + 'static>) -> Option<JoinHandle<Vec<u8>>> {
            let mut source = source?;
            Some(std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = source.read_to_end(&mut bytes);
                bytes
            }))
        }
        self.reading = [
            read_all(self.child.stdout.take()),
            read_all(self.child.stderr.take()),
        ];
        let gave_up = !self.ends_within(PATIENCE);
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        let [stdout, stderr] = self
            .reading
            .each_mut()
            .map(|thread| thread.take().map_or_else(Vec::new, |t| t.join().unwrap()));
        Ran {
            status,
            stdout,
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            gave_up,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ran {
    /// The exit code as a shell shows it: 128+n for a signal.
    pub fn code(&self) -> i32 {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128 + signal,
            (None, None) => -1,
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What is wrong with how it ended, whatever it was started to do: it must end
    /// by itself, and no user may ever see a panic.
    pub fn misbehaviour(&self) -> Option<String> {
        if self.gave_up {
            return Some(format!("did not end within {} s", PATIENCE.as_secs()));
        }
        let words = ["panicked", "RUST_BACKTRACE", "stack backtrace"];
        let word = words.iter().find(|word| self.stderr.contains(*word))?;
        Some(format!("stderr has {word:?}: {}", self.stderr))
    }

    /// Asserts the exit code and that nothing panicked; shows all there is when
    /// not.
    #[track_caller]
    pub fn expect_code(&self, code: i32, what: &str) -> &Self {
        if let Some(wrong) = self.misbehaviour() {
            panic!("{what}: {wrong}");
        }
        assert_eq!(
            self.code(),
            code,
            "{what}: exit code {} instead of {code}; {self}",
            self.code()
        );
        self
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stdout = self.text();
        let head: String = stdout.chars().take(400).collect();
        write!(f, "stderr {:?}, stdout {head:?}", self.stderr)
    }
}

/// Waits until a `wrun` has submitted its task: it copies its output then, and has a worker
/// in process mode.
#[track_caller]
pub fn await_task_of(pid: i32, mode: &str) {
    // The threads that copy its output start once it has.
    let submitted = within(PATIENCE, || {
        let threads = fs::read_dir(format!("/proc/{pid}/task"));
        let copying = threads.into_iter().flatten().flatten().any(|thread| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|it| it == "wrun-copy\n")
        });
        copying && (mode == "thread" || !descendants(pid).is_empty())
    });
    assert!(submitted, "{mode}: no task was started");
}

/// Opens a file for a command's stdin.
pub fn open(path: &Path) -> File {
    File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Writes WAT text, or any bytes, into a folder, and returns the path.
pub fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}
