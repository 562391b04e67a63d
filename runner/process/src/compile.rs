//! Compiling in a separate process: the runner's side. Process mode always does so, thread
//! mode if a limit on compiling is set.
//!
//! A compiler reads input that may be hostile, so it is a child with limits, and is
//! regarded as compromised from its first byte on. Its output is sealed after it is dead,
//! and then verified to be code of the requested task. Whether that code does what the task
//! says is not checked; it runs where the task would.
//!
//! A child is started by the thread that waits for it: the kernel's parent-death signal
//! refers to that thread. It may continue as another child, in the same process group.
//! Invariants: [`ChildCompiler::compile`] ends in bounded time once it has a permit; on
//! every path its child is dead and reaped when it returns.

use super::channel;
use super::compile_wait::{Ears, Ending, HANDSHAKE};
use super::error::{ProcessError, system};
use super::program::worker_program;
use super::reaped::Reaped;
use super::roles::{COMPILE_ARG, WORKER_ARG};
use super::stderr::plain;
use super::suspend;
use super::users::{User, Users, users_of};
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
use wrun_sandbox::{Checks, Code, CodeError, Compiler, LoadError, MAX_FILE};
use wrun_sys::Unpoisoned;
use wrun_sys::shortage;
use wrun_sys::{End, Exit, Program};
use wrun_types::compile_budget::CompileBudget;
use wrun_types::config::{Config, Jail};

/// How much less processor time can be reported of a process than the kernel ended it for.
const TICKS: Duration = Duration::from_millis(100);
/// How long closing waits for killed children to be gone.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// Threads of one compiler among others, and of the only one: each takes memory of the
/// compiler's own.
const THREADS: (usize, usize) = (4, 16);

/// Compiles each task file in a child with limits, as many at once as there are
/// processors.
pub struct ChildCompiler {
    program: PathBuf,
    budget: CompileBudget,
    plan: Plan,
    users: Option<Users>,
    most: usize,
    permits: Mutex<ChildPermits>,
    changed: Condvar,
    /// Readable, by its end, once `ChildPermits::open` is dropped.
    closed: PipeReader,
}

struct ChildPermits {
    free: usize,
    open: Option<PipeWriter>,
}

/// The resources for one compilation.
#[derive(Clone, Copy)]
struct Share {
    time: Duration,
    memory: u64,
    threads: usize,
}

impl Share {
    fn limits(self) -> CompileLimits {
        // The wall clock is the limit; this one is for a runner that is stopped meanwhile.
        let seconds = self.time.as_secs().saturating_add(1);
        CompileLimits {
            data: self.memory,
            cpu: Duration::from_secs(seconds.saturating_mul(self.threads as u64)),
            file: self.memory.min(MAX_FILE),
        }
    }
}

/// One of the permits; returned when dropped.
struct ChildPermit<'a>(&'a ChildCompiler);

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
            permits: Mutex::new(ChildPermits {
                free: processors,
                open: Some(open),
            }),
            changed: Condvar::new(),
            closed,
        })
    }

    /// For thread mode: if a limit is set, which only a process can enforce, and there is a
    /// program to compile in.
    pub fn with_limits(config: &Config) -> Result<Option<Self>, ProcessError> {
        if !config.compile_budget.is_set() {
            return Ok(None);
        }
        let config = Config {
            // That mode does not rely on walls.
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

    fn permits(&self) -> MutexGuard<'_, ChildPermits> {
        self.permits.lock().unpoisoned()
    }

    /// Waits for a permit. This time is not the task's: it may be waiting for another task
    /// that compiles forever.
    fn permit(&self) -> Result<ChildPermit<'_>, ProcessError> {
        let mut permits = self
            .changed
            .wait_while(self.permits(), |permits| {
                permits.free == 0 && permits.open.is_some()
            })
            .unpoisoned();
        if permits.open.is_none() {
            return Err(ProcessError::ShutDown);
        }
        permits.free -= 1;
        Ok(ChildPermit(self))
    }

    /// The resources for compiling a file of this size in bytes, once it has a permit.
    fn share(&self, len: usize) -> Share {
        let busy = (self.most - self.permits().free).max(1);
        let (among_others, alone) = THREADS;
        let threads = (self.most / busy).min(alone);
        Share {
            time: self.budget.time(len as u64),
            memory: self.budget.memory(len as u64),
            threads: threads.max(among_others.min(self.most)),
        }
    }

    fn order(&self, digest: &blake3::Hash, checks: Checks, share: Share) -> CompileOrder {
        let mut plan = self.plan.clone();
        plan.compile = Some(share.limits());
        CompileOrder {
            checks,
            source: *digest.as_bytes(),
            threads: u32::try_from(share.threads).unwrap_or(1),
            plan,
        }
    }

    /// The error for a wait that ended like this.
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

    /// The error for a child that died without a message.
    fn judge_death(&self, exit: Option<Exit>, ears: &Ears, share: Share) -> LoadError {
        let signal = match exit.map(|exit| exit.end) {
            Some(End::Signal(signal)) => Some(signal),
            _ => None,
        };
        let usage = exit.and_then(|exit| exit.usage);
        let used = usage.map(|usage| usage.user_cpu.saturating_add(usage.system_cpu));
        let said = String::from_utf8_lossy(&ears.heard);
        let time = share.limits().cpu;
        // The inherited limit can be lower.
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
            // The first process of a namespace gets no other signal for that. The kernel counts
            // the time for limits by ticks, and that for reports exactly.
            Some(Signal::KILL)
                if used.is_some_and(|used| used + TICKS >= inherited.unwrap_or(time)) =>
            {
                return too_much_time();
            }
            // Rust's message before it gives up: by SIGABRT, or SIGSEGV if it is the first
            // process of a namespace.
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
        // A compiler that was killed has crashed; a program that is not a compiler exits by
        // itself.
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
        let (output, its_output) = io::pipe().map_err(&pipes)?;
        if let Some(user) = user {
            user.apply(&mut order.plan);
        }
        rustix::io::ioctl_fionbio(&output, true).map_err(|errno| pipes(errno.into()))?;
        let pid = std::process::id().to_string();
        let started = suspend::start(&Program {
            path: &self.program,
            args: &["wrun-compile", WORKER_ARG, &pid, COMPILE_ARG],
            env: &[],
            stdin: its_socket.as_fd(),
            stdout: its_output.as_fd(),
            stderr: its_output.as_fd(),
        });
        let member = started.map_err(|source| ProcessError::Spawn {
            program: self.program.clone(),
            source,
        })?;
        // From here on only the child has its ends.
        drop((its_socket, its_output));
        let child = Reaped::new(member);
        let life = Pid::from_raw(child.id())
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|errno| system("cannot watch a compiler")(errno.into()))?;
        // It does not end before it has its order: see `spawn`.
        match channel::send(&socket, &order, &files.map(AsFd::as_fd)) {
            // It is gone; the caller that waits for it finds out how.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent.map_err(&pipes)?,
        }
        socket.set_nonblocking(true).map_err(&pipes)?;
        Ok((child, Ears::new(life, socket, output)))
    }

    /// The code that a dead child has written.
    fn code(
        &self,
        output: File,
        source_len: usize,
        digest: &blake3::Hash,
        checks: Checks,
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
            || meta.checks != checks
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

/// It had too little memory, by its own limit or an inherited one.
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
        checks: Checks,
    ) -> Result<Code, LoadError> {
        let _permit = self.permit()?;
        let file = sealed(source).map_err(system("cannot keep a task file in memory"))?;
        let output = Code::blank().map_err(|source| LoadError::System { source })?;
        let user = self.users.as_ref().map(Users::pick);
        let share = self.share(source.len());
        let order = self.order(digest, checks, share);
        let (mut child, mut ears) = self.start([&file, &output], order, user.as_ref())?;
        drop(file);
        let ending = ears.wait(&mut child, &self.closed, share.time)?;
        // Whatever it still does is not needed.
        let exit = child.end().or_else(|| ears.exit());
        drop(user);
        ears.read_output();
        match ending {
            None => self.code(output, source.len(), digest, checks, share),
            Some(ending) => Err(self.judge(ending, exit, &ears, share)),
        }
    }

    /// Kills running compilers, and waits until they are gone.
    fn close(&self) {
        let mut permits = self.permits();
        permits.open.take();
        self.changed.notify_all();
        let _ = self
            .changed
            .wait_timeout_while(permits, CLOSE_WAIT, |permits| permits.free < self.most);
    }
}

impl Drop for ChildPermit<'_> {
    fn drop(&mut self) {
        self.0.permits().free += 1;
        self.0.changed.notify_all();
    }
}

/// Bytes in a sealed memory file.
fn sealed(bytes: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("wrun-task", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
}
