//! The compiler program: what a binary's hidden entry does after it was started to compile
//! one task file.
//!
//! Reads the file, compiles it within the limits of its order, writes the code to the other
//! file, and reports the result. Invariant: no byte of the task file is read before the
//! jail is set up.

use super::begin::{check_alone, go_inside, settle};
use super::channel::{self, Inbox};
use crate::jail::{self, CompileLimits, JailError};
use crate::wire::{self, CompileOrder, CompilerSays, Hello};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use wrun_sandbox::{self, Code, CodeError, LoadError};
use wrun_sys::shortage;
use wrun_types::config::Jail;

/// Compiles what the runner `parent` orders over the socket that is stdin.
pub(super) fn work(parent: i32) -> io::Result<()> {
    settle(parent)?;
    check_alone()?;
    wrun_sys::ignore_file_size_signal()?;
    let runner = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(rustix::stdio::stdout())?;
    channel::send_bytes(&runner, &Hello::encode(), &[])?;
    let mut inbox = Inbox::default();
    let order = order(&mut inbox, &runner)?;
    let [source, output] = <[OwnedFd; 2]>::try_from(inbox.take(2)?)
        .map_err(|_| io::Error::other("not a task file and one for its code"))?;
    let (mut source, mut output) = (File::from(source), File::from(output));

    let runner = File::from(runner);
    // A plain write: the jail forbids sending to sockets.
    let say = |says: &CompilerSays| -> io::Result<()> {
        (&runner).write_all(&wire::encode(says).map_err(io::Error::other)?)
    };
    let begun = jail::begin(order.plan.clone());
    let walls = match go_inside(begun, &|pid| say(&CompilerSays::Moved(pid)))? {
        Ok(walls) => walls,
        Err(error) => return say(&refusal_of(error)),
    };
    // Before there are threads: sealing applies to the calling thread, and to those that it
    // starts.
    let sealed = match walls.seal() {
        Ok((sealed, _report)) => sealed,
        Err(error) => return say(&refusal_of(error)),
    };
    if order.plan.mode == Jail::Off {
        let limits = order.plan.compile;
        limit(&limits.ok_or_else(|| io::Error::other("no limits"))?)?;
    }

    // The runner wrote it, so their shared position is at the end.
    source.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes)?;
    drop(source);
    let parallel = bytes.len() > wrun_sandbox::SMALL && threads(order.threads);
    if let Err(error) = sealed.no_more_threads() {
        return say(&refusal_of(error));
    }
    let says = match compile(bytes, &order, parallel, &mut output) {
        Ok(()) => CompilerSays::Compiled,
        // The jail turns a file that is too large into an error.
        Err(LoadError::System {
            source: CodeError::Io { source: error, .. },
        }) if error.kind() == io::ErrorKind::FileTooLarge => {
            let limit = order.plan.compile.map_or(u64::MAX, |limits| limits.file);
            match shortage::smaller_files_than(limit) {
                None => CompilerSays::Refused(LoadError::OutOfMemory),
                Some(_) => {
                    let hint = shortage::hint(&error);
                    CompilerSays::Failed(format!("cannot keep the code: {error}{hint}"))
                }
            }
        }
        Err(LoadError::Engine(error)) => CompilerSays::Failed(error.to_string()),
        Err(LoadError::System { source }) => CompilerSays::Failed(source.to_string()),
        Err(refusal) => CompilerSays::Refused(refusal),
    };
    say(&says)
}

fn compile(
    bytes: Vec<u8>,
    order: &CompileOrder,
    parallel: bool,
    output: &mut File,
) -> Result<(), LoadError> {
    let digest = blake3::Hash::from_bytes(order.source);
    let (elf, meta) = wrun_sandbox::compile(bytes.into(), &digest, order.checks, parallel)?;
    Code::write(output, &elf, &meta).map_err(|source| LoadError::System { source })
}

fn order(inbox: &mut Inbox, runner: &OwnedFd) -> io::Result<CompileOrder> {
    loop {
        match inbox.next().map_err(io::Error::other)? {
            Some(order) => return Ok(order),
            None if inbox.receive(runner)? => {}
            None => return Err(io::Error::other("the runner is gone")),
        }
    }
}

fn refusal_of(error: JailError) -> CompilerSays {
    match error {
        JailError::Missing(layer) => CompilerSays::NoJail(layer),
        other => CompilerSays::JailFailed(other.to_string()),
    }
}

/// Limits this process if there is no jail. Address space is not limited: gigabytes of it
/// are reserved without being used.
fn limit(limits: &CompileLimits) -> io::Result<()> {
    let set = |resource, soft: u64, hard: u64| {
        // The inherited limit is the maximum that it may set.
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Rlimit {
            current: Some(soft.min(most)),
            maximum: Some(hard.min(most)),
        };
        setrlimit(resource, limit)
    };
    set(Resource::Core, 0, 0)?;
    set(Resource::Data, limits.data, limits.data)?;
    set(Resource::Fsize, limits.file, limits.file)?;
    // The soft limit's signal tells the reason; the hard one's is SIGKILL.
    let cpu = limits.cpu.as_secs();
    set(Resource::Cpu, cpu, cpu.saturating_add(1))?;
    Ok(())
}

/// Starts the threads that compile; returns whether there are any.
fn threads(most: u32) -> bool {
    most > 1
        && shortage::room_for_threads(most as usize, 0).ok() == Some(most as usize)
        && rayon::ThreadPoolBuilder::new()
            .num_threads(most as usize)
            .build_global()
            .is_ok()
}
