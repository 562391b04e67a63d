//! Compiling in a process of its own: the runner's side.
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

use super::child::kill_group;
use super::suspend::{self, Member};
use super::users::{User, Users};
use super::worker_main::WORKER_ARG;
use super::{ProcessError, channel, users_of, worker_program};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::jail::{CompileLimits, Grants, Plan, Role};
use crate::sandbox::{Code, CodeError, Compiler, LoadError, MAX_FILE};
use crate::shortage;
use crate::sys::{self, End, Exit, Program, Whom};
use crate::wire::{CompileOrder, CompilerSays, Decoder, Hello, MAX_ANSWER};
use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpgid, kill_process, pidfd_open, waitid,
};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The third argument that makes a worker program a compiler.
pub(super) const COMPILE_ARG: &str = "compile";

/// A program that has not greeted by then is no compiler.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long a child that closed its socket may take to die.
const LINGER: Duration = Duration::from_secs(2);
/// How long closing waits for children that were killed to be gone.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// Threads of one compiler.
const THREADS: usize = 4;
/// What is kept of a compiler's stdout and stderr; the rest is not read.
const MAX_WORDS: usize = 16 << 10;

/// Compiles each task file in a child with limits, as many at once as there are
/// processors.
pub(crate) struct ChildCompiler {
    program: PathBuf,
    time: Duration,
    memory: u64,
    threads: usize,
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

/// One of the places; given back when dropped.
struct Place<'a>(&'a ChildCompiler);

/// A child that is killed and reaped when dropped, and all in its process group.
pub(super) struct Reaped {
    /// The one that was started, and the group that it founded.
    first: i32,
    /// The one that it goes on as.
    moved: Option<i32>,
    ended: bool,
    member: Option<Member>,
}

/// What ended the wait for a child that has not compiled.
enum Ending {
    Refused(LoadError),
    Failed(String),
    /// Its jail cannot be had.
    Jail(ProcessError),
    /// It died before it said anything.
    Silent,
    TimedOut,
    Closed,
    /// It broke the protocol.
    Broke(String),
}

impl ChildCompiler {
    pub(crate) fn new(config: &Config) -> Result<Self, ProcessError> {
        let (closed, open) = io::pipe().map_err(system("cannot make a pipe"))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = processors.min(THREADS);
        // The clock on the wall is the limit; this one is for a runner that is
        // stopped meanwhile.
        let seconds = config.compile_timeout.as_secs().saturating_add(1);
        let limits = CompileLimits {
            data: config.compile_memory,
            cpu: Duration::from_secs(seconds.saturating_mul(threads as u64)),
            file: config.compile_memory.min(MAX_FILE),
        };
        Ok(ChildCompiler {
            program: worker_program(config.worker.as_deref())?,
            time: config.compile_timeout,
            memory: config.compile_memory,
            threads,
            plan: Plan {
                mode: config.jail,
                role: Role::Compiler,
                grants: Grants::default(),
                identity: config.identity,
                own_user: None,
                cgroup: Err("compilers have none".to_owned()),
                regions: 0,
                compile: Some(limits),
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

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place. That time is not the task's: whoever is behind a task
    /// that compiles forever did nothing wrong.
    fn place(&self) -> Result<Place<'_>, ProcessError> {
        let mut places = self
            .changed
            .wait_while(self.places(), |places| {
                places.free == 0 && places.open.is_some()
            })
            .unwrap_or_else(PoisonError::into_inner);
        if places.open.is_none() {
            return Err(ProcessError::ShutDown);
        }
        places.free -= 1;
        Ok(Place(self))
    }

    fn order(&self, digest: &blake3::Hash, metered: bool) -> CompileOrder {
        CompileOrder {
            metered,
            source: *digest.as_bytes(),
            threads: u32::try_from(self.threads).unwrap_or(1),
            plan: self.plan.clone(),
        }
    }

    /// What it means that a wait for a child ended like this.
    fn judge(&self, ending: Ending, exit: Option<Exit>, ears: &Ears) -> LoadError {
        match ending {
            Ending::Refused(LoadError::OutOfMemory) => self.too_much_memory(),
            Ending::Refused(refusal) => refusal.tamed(),
            Ending::Failed(message) => ProcessError::System {
                what: "compiling failed",
                source: io::Error::other(plain(&message)),
            }
            .into(),
            Ending::Jail(error) => error.into(),
            Ending::TimedOut if ears.greeted => LoadError::CompileTime { limit: self.time },
            Ending::TimedOut => self.no_compiler(format!("no answer in {} s", HANDSHAKE.as_secs())),
            Ending::Closed => ProcessError::ShutDown.into(),
            Ending::Broke(how) if ears.greeted => LoadError::CompileCrashed { how },
            Ending::Broke(what) => self.no_compiler(what),
            Ending::Silent => self.judge_death(exit, ears),
        }
    }

    /// What it means that a child died without a word.
    fn judge_death(&self, exit: Option<Exit>, ears: &Ears) -> LoadError {
        let signal = match exit.map(|exit| exit.end) {
            Some(End::Signal(signal)) => Some(signal),
            _ => None,
        };
        let usage = exit.and_then(|exit| exit.usage);
        let used = usage.map(|usage| usage.user_cpu.saturating_add(usage.system_cpu));
        let said = String::from_utf8_lossy(&ears.heard);
        match signal.and_then(Signal::from_named_raw) {
            Some(Signal::XCPU) => return LoadError::CompileTime { limit: self.time },
            Some(Signal::XFSZ) => return self.too_much_memory(),
            // The first process of a namespace gets no other signal for that.
            Some(Signal::KILL) if self.plan.compile.map(|limits| limits.cpu) <= used => {
                return LoadError::CompileTime { limit: self.time };
            }
            // What Rust says before it gives up: by SIGABRT, or SIGSEGV where it is
            // the first process of a namespace.
            Some(_) if said.contains("memory allocation of ") && said.contains(" bytes failed") => {
                return self.too_much_memory();
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
        // Whoever kills a compiler that starts crashes it; a program that is none
        // goes of itself.
        if ears.greeted || signal.is_some() {
            LoadError::CompileCrashed { how }
        } else {
            self.no_compiler(how)
        }
    }

    fn start(
        &self,
        source: &File,
        output: &File,
        digest: &blake3::Hash,
        metered: bool,
        user: Option<&User>,
    ) -> Result<(Reaped, Ears), LoadError> {
        let pipes = system("cannot make pipes for a compiler");
        let (socket, its_socket) = UnixStream::pair().map_err(&pipes)?;
        let (words, its_words) = io::pipe().map_err(&pipes)?;
        let mut order = self.order(digest, metered);
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
        let life = Pid::from_raw(child.first)
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|errno| system("cannot watch a compiler")(errno.into()))?;
        // It does not end before it has its order: see `spawn`.
        match channel::send(&socket, &order, &[source.as_fd(), output.as_fd()]) {
            // It is gone; how is for whoever waits for it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            sent => sent.map_err(&pipes)?,
        }
        socket.set_nonblocking(true).map_err(&pipes)?;
        let ears = Ears {
            life,
            socket,
            words,
            answer: Vec::new(),
            heard: Vec::new(),
            hearing: true,
            greeted: false,
            moved: false,
        };
        Ok((child, ears))
    }

    /// The code that a dead child left.
    fn code(
        &self,
        output: File,
        source_len: usize,
        digest: &blake3::Hash,
        metered: bool,
    ) -> Result<Code, LoadError> {
        let lie = |what: String| LoadError::CompileCrashed {
            how: format!("it left what is not the task's code: {what}"),
        };
        let len = output.metadata().map_or(0, |metadata| metadata.len());
        if len > self.memory.min(MAX_FILE) {
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

    /// It had too little memory: by its own limit, or by one that it inherited.
    fn too_much_memory(&self) -> LoadError {
        match shortage::less_memory_than(self.memory) {
            None => LoadError::CompileMemory { limit: self.memory },
            Some(_) => ProcessError::System {
                what: "cannot compile the task",
                source: Errno::NOMEM.into(),
            }
            .into(),
        }
    }

    fn no_compiler(&self, what: String) -> LoadError {
        let program = self.program.clone();
        ProcessError::Handshake { program, what }.into()
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
        let (mut child, mut ears) = self.start(&file, &output, digest, metered, user.as_ref())?;
        drop(file);
        let ending = ears.wait(&mut child, &self.closed, self.time)?;
        // Whatever it still does, nobody needs it.
        let exit = child.end().or_else(|| ears.exit());
        drop(user);
        ears.overhear();
        match ending {
            None => self.code(output, source.len(), digest, metered),
            Some(ending) => Err(self.judge(ending, exit, &ears)),
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

impl Reaped {
    /// Takes over what was started as the leader of a process group.
    pub(super) fn new(member: Member) -> Self {
        Reaped {
            first: member.group(),
            moved: None,
            ended: false,
            member: Some(member),
        }
    }

    /// The number of the one that was started.
    pub(super) fn id(&self) -> i32 {
        self.first
    }

    /// Takes note that it goes on as another child of this process, in the group
    /// of the first; tells of that one's death.
    fn moved(&mut self, pid: i32) -> io::Result<OwnedFd> {
        let other = || io::Error::other("no process of its own");
        // Numbers that mean something else to the kernel.
        if pid <= 1 || pid == self.first {
            return Err(other());
        }
        let pid = Pid::from_raw(pid).ok_or_else(other)?;
        let life = pidfd_open(pid, PidfdFlags::empty())?;
        // As for workers: no process is killed or waited for because a child lied.
        if getpgid(Some(pid))?.as_raw_nonzero().get() != self.first {
            return Err(other());
        }
        // Only a child of ours can be waited for; this does not reap it.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(pid), look)?;
        self.moved = Some(pid.as_raw_nonzero().get());
        Ok(life)
    }

    /// Kills and reaps all of it: how the one ended that it went on as. None when
    /// somebody else reaped it.
    pub(super) fn end(&mut self) -> Option<Exit> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        drop(self.member.take());
        let last = self.moved.unwrap_or(self.first);
        let mut end = None;
        let mut left = vec![self.first];
        left.extend(self.moved);
        if sys::has_child_in(self.first) {
            kill_group(self.first);
        }
        // Each by itself as well, for it may have left the group. One that somebody else
        // has reaped has no number any more.
        left.retain(|pid| sys::is_child(*pid));
        for pid in left.iter().filter_map(|pid| Pid::from_raw(*pid)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        // Also one that was started and not heard of.
        while let Ok(Some((pid, exit))) = sys::wait(Whom::Group(self.first), true) {
            left.retain(|left| *left != pid);
            if pid == last {
                end = Some(exit);
            }
        }
        for pid in left {
            if let Ok(Some((_, exit))) = sys::wait(Whom::Pid(pid), true)
                && pid == last
            {
                end = Some(exit);
            }
        }
        end
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where a child is listened to.
struct Ears {
    life: OwnedFd,
    socket: UnixStream,
    /// Its stdout and stderr.
    words: PipeReader,
    /// What it said so far, and to nobody.
    answer: Vec<u8>,
    heard: Vec<u8>,
    /// More may come of `words`.
    hearing: bool,
    greeted: bool,
    /// Its first word was that it goes on elsewhere.
    moved: bool,
}

impl Ears {
    /// How the child ended, where somebody else has reaped it.
    fn exit(&self) -> Option<Exit> {
        let end = sys::end_of_reaped(self.life.as_fd())?;
        Some(Exit { end, usage: None })
    }

    /// Waits until the child has compiled (none), or has said why not, is dead, has
    /// had `time` since its greeting, or `closed` says that nobody wants it any
    /// more.
    fn wait(
        &mut self,
        child: &mut Reaped,
        closed: &PipeReader,
        time: Duration,
    ) -> Result<Option<Ending>, LoadError> {
        let mut end = Deadline::after(HANDSHAKE);
        loop {
            let Some([gave_up, died]) = self.ready(closed, end)? else {
                return Ok(Some(Ending::TimedOut));
            };
            if gave_up {
                return Ok(Some(Ending::Closed));
            }
            let was_greeted = self.greeted;
            self.overhear();
            let open = self.listen();
            let word = self.word();
            if self.greeted && !was_greeted {
                end = Deadline::after(time);
            }
            match word {
                Ok(Some(CompilerSays::Moved(pid))) if !self.moved => match child.moved(pid) {
                    Ok(life) => {
                        self.life = life;
                        self.moved = true;
                        continue;
                    }
                    Err(error) => {
                        let what = format!("it went where it cannot be: {error}");
                        return Ok(Some(Ending::Broke(what)));
                    }
                },
                Ok(Some(CompilerSays::Moved(_))) => {
                    return Ok(Some(Ending::Broke("it went on twice".to_owned())));
                }
                Ok(Some(CompilerSays::NoJail(mut layer))) => {
                    layer.detail = plain(&layer.detail);
                    return Ok(Some(Ending::Jail(ProcessError::NoJail(layer))));
                }
                Ok(Some(CompilerSays::JailFailed(message))) => {
                    let message = plain(&message);
                    return Ok(Some(Ending::Jail(ProcessError::JailFailed { message })));
                }
                Ok(Some(CompilerSays::Compiled)) => return Ok(None),
                Ok(Some(CompilerSays::Refused(why))) => return Ok(Some(Ending::Refused(why))),
                Ok(Some(CompilerSays::Failed(why))) => return Ok(Some(Ending::Failed(why))),
                Ok(None) => {}
                Err(what) => return Ok(Some(Ending::Broke(what))),
            }
            if died {
                return Ok(Some(Ending::Silent));
            }
            if !open {
                // It is dying, most likely: how says more than that it does.
                let soon = Deadline::after(LINGER);
                let died = wait_readable(&mut [PollFd::new(&self.life, PollFlags::IN)], soon)?;
                return Ok(Some(if died {
                    Ending::Silent
                } else {
                    Ending::Broke("it closed its socket and lived on".to_owned())
                }));
            }
        }
    }

    /// Waits until something happens: whether nobody wants the child any more, and
    /// whether it is dead. None when nothing did until `end`.
    fn ready(
        &self,
        closed: &PipeReader,
        end: Option<Deadline>,
    ) -> Result<Option<[bool; 2]>, LoadError> {
        let fd = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = vec![
            fd(closed.as_fd()),
            fd(self.life.as_fd()),
            fd(self.socket.as_fd()),
        ];
        // At its end it would always be ready.
        if self.hearing {
            fds.push(fd(self.words.as_fd()));
        }
        Ok(wait_readable(&mut fds, end)?
            .then(|| [0, 1].map(|index| !fds[index].revents().is_empty())))
    }

    /// Reads what is there of what the child says to nobody.
    fn overhear(&mut self) {
        let mut bytes = [0; 4096];
        while self.hearing {
            match self.words.read(&mut bytes) {
                Ok(0) => self.hearing = false,
                Ok(len) => self.heard.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.hearing = false,
            }
            self.hearing &= self.heard.len() < MAX_WORDS;
        }
    }

    /// Reads what is there of the child's answer; whether more can come.
    fn listen(&mut self) -> bool {
        let mut bytes = [0; 4096];
        while self.answer.len() <= MAX_ANSWER {
            match self.socket.read(&mut bytes) {
                Ok(0) => return false,
                Ok(len) => self.answer.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Reset, where the child left without reading.
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    /// The child's word, once it is whole; the error is how it broke the protocol.
    fn word(&mut self) -> Result<Option<CompilerSays>, String> {
        let Some((hello, rest)) = self.answer.split_first_chunk::<{ Hello::LEN }>() else {
            return Ok(None);
        };
        Hello::decode(hello).map_err(|error| error.to_string())?;
        self.greeted = true;
        if self.answer.len() > MAX_ANSWER {
            return Err(format!("it said more than {MAX_ANSWER} bytes"));
        }
        let mut decoder = Decoder::default();
        decoder.push(rest);
        let mut next = || decoder.next().map_err(|error| error.to_string());
        if self.moved {
            next()?;
        }
        next()
    }
}

/// Waits until one of them is ready or closed; `false` when none was until `end`.
fn wait_readable(fds: &mut [PollFd<'_>], end: Option<Deadline>) -> Result<bool, LoadError> {
    loop {
        let left = end.map(Deadline::left);
        // A child that is always ready does not live on for that.
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(fds, left.as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(system("cannot wait for a compiler")(errno.into()).into()),
        }
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

/// The start of a text from a child, on one line.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn system(what: &'static str) -> impl Fn(io::Error) -> ProcessError {
    move |source| ProcessError::System { what, source }
}

impl From<ProcessError> for LoadError {
    fn from(error: ProcessError) -> Self {
        LoadError::Compiler(error.into())
    }
}
