//! Compiling in a process of its own: the runner's side. Process mode always does, thread
//! mode where somebody set a limit on it.
//!
//! A compiler reads what somebody hostile may have written, so it is a child with
//! limits, and counts as taken over from its first byte on. What it leaves is
//! sealed after it is dead, and then verified to be code of the task that was
//! asked about. Whether that code does what the task says, nobody checks; it runs
//! where the task would.
//!
//! A child is started by the thread that waits for it: the kernel's parent-death
//! signal means that thread. It may go on as another child, in the same process
//! group. Invariants: [`ChildCompiler::compile`] ends in bounded time, counted from
//! when it has a place; on every path its child is dead and reaped when it returns.

use super::channel;
use super::compile_wait::{Ears, Ending, HANDSHAKE};
use super::error::{ProcessError, system};
use super::program::worker_program;
use super::reaped::Reaped;
use super::roles::{COMPILE_ARG, WORKER_ARG};
use super::suspend;
use super::users::{User, Users, users_of};
use super::words::plain;
use crate::jail::{CompileLimits, Grants, Plan, Role};
use crate::wire::CompileOrder;
use bytes::Bytes;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Signal, getrlimit, pidfd_open};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;
use wrun_sandbox::{Code, CodeError, Compiler, LoadError, MAX_FILE};
use wrun_sys::Unpoisoned;
use wrun_sys::shortage;
use wrun_sys::{End, Exit, Program};
use wrun_types::compile_budget::CompileBudget;
use wrun_types::config::{Config, Jail};

/// How long closing waits for children that were killed to be gone.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// Threads of one compiler among others, and of one that is alone: each takes memory of
/// the compiler's own.
const THREADS: (usize, usize) = (4, 16);

/// Compiles each task file in a child with limits, as many at once as there are
/// processors.
pub struct ChildCompiler {
    program: PathBuf,
    budget: CompileBudget,
    plan: Plan,
    users: Option<Users>,
    most: usize,
    places: Mutex<Places>,
    changed: Condvar,
    /// Readable, by its end, once `Places::open` is dropped.
    closed: PipeReader,
}

struct Places {
    free: usize,
    open: Option<PipeWriter>,
}

/// What one compilation may take.
#[derive(Clone, Copy)]
struct Share {
    time: Duration,
    memory: u64,
    threads: usize,
}

impl Share {
    fn limits(self) -> CompileLimits {
        // The clock on the wall is the limit; this one is for a runner that is
        // stopped meanwhile.
        let seconds = self.time.as_secs().saturating_add(1);
        CompileLimits {
            data: self.memory,
            cpu: Duration::from_secs(seconds.saturating_mul(self.threads as u64)),
            file: self.memory.min(MAX_FILE),
        }
    }
}

/// One of the places; given back when dropped.
struct Place<'a>(&'a ChildCompiler);

impl ChildCompiler {
    pub fn new(config: &Config) -> Result<Self, ProcessError> {
        let (closed, open) = io::pipe().map_err(system("cannot make a pipe"))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(ChildCompiler {
            program: worker_program(config.worker.as_deref())?,
            budget: config.compile_budget,
            plan: Plan {
                mode: config.jail,
                role: Role::Compiler,
                grants: Grants::default(),
                identity: config.identity,
                own_user: None,
                cgroup: Err("compilers have none".to_owned()),
                regions: 0,
                compile: None,
                #[cfg(any(test, feature = "test-hooks"))]
                absent: Vec::new(),
            },
            users: users_of(config),
            most: processors,
            places: Mutex::new(Places {
                free: processors,
                open: Some(open),
            }),
            changed: Condvar::new(),
            closed,
        })
    }

    /// For thread mode: where somebody set a limit, which only a process can keep, and
    /// there is a program to compile in.
    pub fn with_limits(config: &Config) -> Result<Option<Self>, ProcessError> {
        if !config.compile_budget.is_set() {
            return Ok(None);
        }
        let config = Config {
            // Nobody relies on walls in that mode.
            jail: match config.jail {
                Jail::Off => Jail::Off,
                Jail::Strict | Jail::BestEffort => Jail::BestEffort,
            },
            identity: None,
            users: None,
            ..config.clone()
        };
        match ChildCompiler::new(&config) {
            Err(ProcessError::NoHook) => Ok(None),
            made => made.map(Some),
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unpoisoned()
    }

    /// Waits for a place. That time is not the task's: the one that is behind a task
    /// that compiles forever did nothing wrong.
    fn place(&self) -> Result<Place<'_>, ProcessError> {
        let mut places = self
            .changed
            .wait_while(self.places(), |places| {
                places.free == 0 && places.open.is_some()
            })
            .unpoisoned();
        if places.open.is_none() {
            return Err(ProcessError::ShutDown);
        }
        places.free -= 1;
        Ok(Place(self))
    }

    /// What compiling a file of this size in bytes may take, once it has a permit.
    fn share(&self, len: usize) -> Share {
        let busy = (self.most - self.places().free).max(1);
        let (among_others, alone) = THREADS;
        let threads = (self.most / busy).min(alone);
        Share {
            time: self.budget.time(len as u64),
            memory: self.budget.memory(len as u64),
            threads: threads.max(among_others.min(self.most)),
        }
    }

    fn order(&self, digest: &blake3::Hash, metered: bool, share: Share) -> CompileOrder {
        let mut plan = self.plan.clone();
        plan.compile = Some(share.limits());
        CompileOrder {
            metered,
            source: *digest.as_bytes(),
            threads: u32::try_from(share.threads).unwrap_or(1),
            plan,
        }
    }

    /// What it means that a wait for a child ended like this.
    fn judge(&self, ending: Ending, exit: Option<Exit>, ears: &Ears, share: Share) -> LoadError {
        match ending {
            Ending::Refused(LoadError::OutOfMemory) => too_much_memory(share.memory),
            Ending::Refused(refusal) => refusal.tamed(),
            Ending::Failed(message) => ProcessError::System {
                what: "compiling failed",
                source: io::Error::other(plain(&message)),
            }
            .into(),
            Ending::Jail(error) => error.into(),
            Ending::TimedOut if ears.greeted => LoadError::CompileTime { limit: share.time },
            Ending::TimedOut => self.no_compiler(format!("no answer in {} s", HANDSHAKE.as_secs())),
            Ending::Closed => ProcessError::ShutDown.into(),
            Ending::Broke(how) if ears.greeted => LoadError::CompileCrashed { how },
            Ending::Broke(what) => self.no_compiler(what),
            Ending::Silent => self.judge_death(exit, ears, share),
        }
    }

    /// What it means that a child died without a word.
    fn judge_death(&self, exit: Option<Exit>, ears: &Ears, share: Share) -> LoadError {
        let signal = match exit.map(|exit| exit.end) {
            Some(End::Signal(signal)) => Some(signal),
            _ => None,
        };
        let usage = exit.and_then(|exit| exit.usage);
        let used = usage.map(|usage| usage.user_cpu.saturating_add(usage.system_cpu));
        let said = String::from_utf8_lossy(&ears.heard);
        let time = share.limits().cpu;
        // What it inherited can be less.
        let inherited = getrlimit(Resource::Cpu).maximum.map(Duration::from_secs);
        let inherited = inherited.filter(|limit| *limit < time);
        let too_much_time = || match inherited {
            None => LoadError::CompileTime { limit: share.time },
            Some(limit) => ProcessError::System {
                what: "cannot compile the task",
                source: io::Error::other(format!(
                    "the limit of {} s on processor time (ulimit -t) ended the compiler",
                    limit.as_secs()
                )),
            }
            .into(),
        };
        match signal.and_then(Signal::from_named_raw) {
            Some(Signal::XCPU) => return too_much_time(),
            Some(Signal::XFSZ) => return too_much_memory(share.memory),
            // The first process of a namespace gets no other signal for that.
            Some(Signal::KILL) if Some(inherited.unwrap_or(time)) <= used => {
                return too_much_time();
            }
            // What Rust says before it gives up: by SIGABRT, or SIGSEGV where it is
            // the first process of a namespace.
            Some(_) if said.contains("memory allocation of ") && said.contains(" bytes failed") => {
                return too_much_memory(share.memory);
            }
            _ => {}
        }
        let mut how = match exit.map(|exit| exit.end) {
            Some(End::Signal(signal)) => format!("it died of signal {signal}"),
            Some(End::Status(code)) => format!("it exited with status {code}"),
            Some(End::Stopped(_)) | None => "it vanished".to_owned(),
        };
        if let Some(line) = said.lines().find(|line| !line.trim().is_empty()) {
            how = format!("{how}; it said: {}", plain(line));
        }
        // The one that kills a compiler that starts crashes it; a program that is none
        // goes of itself.
        if ears.greeted || signal.is_some() {
            LoadError::CompileCrashed { how }
        } else {
            self.no_compiler(how)
        }
    }

    fn start(
        &self,
        files: [&File; 2],
        mut order: CompileOrder,
        user: Option<&User>,
    ) -> Result<(Reaped, Ears), LoadError> {
        let pipes = system("cannot make pipes for a compiler");
        let (socket, its_socket) = UnixStream::pair().map_err(&pipes)?;
        let (words, its_words) = io::pipe().map_err(&pipes)?;
        if let Some(user) = user {
            user.apply(&mut order.plan);
        }
        rustix::io::ioctl_fionbio(&words, true).map_err(|errno| pipes(errno.into()))?;
        let pid = std::process::id().to_string();
        let started = suspend::start(&Program {
            path: &self.program,
            args: &["wrun-compile", WORKER_ARG, &pid, COMPILE_ARG],
            env: &[],
            stdin: its_socket.as_fd(),
            stdout: its_words.as_fd(),
            stderr: its_words.as_fd(),
        });
        let member = started.map_err(|source| ProcessError::Spawn {
            program: self.program.clone(),
            source,
        })?;
        // Its ends are the child's alone from here on.
        drop((its_socket, its_words));
        let child = Reaped::new(member);
        let life = Pid::from_raw(child.id())
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|errno| system("cannot watch a compiler")(errno.into()))?;
        // It does not end before it has its order: see `spawn`.
        match channel::send(&socket, &order, &files.map(AsFd::as_fd)) {
            // It is gone; how is for the one that waits for it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent.map_err(&pipes)?,
        }
        socket.set_nonblocking(true).map_err(&pipes)?;
        Ok((child, Ears::new(life, socket, words)))
    }

    /// The code that a dead child left.
    fn code(
        &self,
        output: File,
        source_len: usize,
        digest: &blake3::Hash,
        metered: bool,
        share: Share,
    ) -> Result<Code, LoadError> {
        let lie = |what: String| LoadError::CompileCrashed {
            how: format!("it returned something other than the compiled task: {what}"),
        };
        let len = output.metadata().map_or(0, |metadata| metadata.len());
        if len > share.limits().file {
            return Err(lie(format!("{len} bytes")));
        }
        let code = Code::seal(output).map_err(|error| match error {
            CodeError::Version(version) => {
                self.no_compiler(format!("it is version {}", plain(&version)))
            }
            error => lie(plain(&error.to_string())),
        })?;
        let meta = &code.meta;
        if meta.source != *digest.to_hex()
            || meta.metered != metered
            || meta.source_len != source_len as u64
        {
            return Err(lie("it is another's".to_owned()));
        }
        Ok(code)
    }

    fn no_compiler(&self, what: String) -> LoadError {
        let program = self.program.clone();
        ProcessError::Handshake { program, what }.into()
    }
}

/// It had too little memory: by its own limit, or by one that it inherited.
fn too_much_memory(limit: u64) -> LoadError {
    match shortage::less_memory_than(limit) {
        None => LoadError::CompileMemory { limit },
        Some(_) => ProcessError::System {
            what: "cannot compile the task",
            source: Errno::NOMEM.into(),
        }
        .into(),
    }
}

impl Compiler for ChildCompiler {
    fn compile(
        &self,
        source: &Bytes,
        digest: &blake3::Hash,
        metered: bool,
    ) -> Result<Code, LoadError> {
        let _place = self.place()?;
        let file = sealed(source).map_err(system("cannot keep a task file in memory"))?;
        let output = Code::blank().map_err(|source| LoadError::System { source })?;
        let user = self.users.as_ref().map(Users::pick);
        let share = self.share(source.len());
        let order = self.order(digest, metered, share);
        let (mut child, mut ears) = self.start([&file, &output], order, user.as_ref())?;
        drop(file);
        let ending = ears.wait(&mut child, &self.closed, share.time)?;
        // Whatever it still does, nobody needs it.
        let exit = child.end().or_else(|| ears.exit());
        drop(user);
        ears.overhear();
        match ending {
            None => self.code(output, source.len(), digest, metered, share),
            Some(ending) => Err(self.judge(ending, exit, &ears, share)),
        }
    }

    /// Kills what is being compiled, and waits until it is gone.
    fn close(&self) {
        let mut places = self.places();
        places.open.take();
        self.changed.notify_all();
        let _ = self
            .changed
            .wait_timeout_while(places, CLOSE_WAIT, |places| places.free < self.most);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.places().free += 1;
        self.0.changed.notify_all();
    }
}

/// Bytes in a memory file that nobody can change.
fn sealed(bytes: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("wrun-task", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}
