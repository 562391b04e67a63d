//! The compiler program: what the hidden entry of a binary does after it was
//! started to compile one task file.
//!
//! Reads the file, compiles it within the limits it was given, leaves the code
//! in the other file, says how that went. Invariant: nothing of the task file is
//! looked at before the limits stand.

use super::channel::{self, Inbox};
use crate::sandbox::{self, Code, LoadError};
use crate::wire::{CompileOrder, CompilerSays, Hello};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;

/// Task files up to this size are compiled on one thread: what starting others
/// takes is as long.
const SMALL: usize = 64 << 10;

/// Compiles what the runner `parent` orders over the socket that is stdin.
pub(super) fn work(parent: i32) -> io::Result<()> {
    crate::sys::close_inherited();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before that took effect.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Err(io::Error::other("the runner is gone"));
    }
    let runner = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(rustix::stdio::stdout())?;
    channel::send_bytes(&runner, &Hello::encode(), &[])?;
    let mut inbox = Inbox::default();
    let order = order(&mut inbox, &runner)?;
    let [source, output] = <[OwnedFd; 2]>::try_from(inbox.take(2)?)
        .map_err(|_| io::Error::other("not a task file and one for its code"))?;
    let (mut source, mut output) = (File::from(source), File::from(output));

    // JAIL, first half: `jail::begin` and `Walls::split` go here, with the plan in
    // the order. One thread, the three descriptors above, no byte of the task read.
    // Where `split` forks, the outer process must die as the inner one does: the
    // runner reads the wait status, SIGABRT above all.
    limit(&order)?;

    let mut bytes = Vec::new();
    // The runner wrote it, so the position they share is at the end.
    source.seek(SeekFrom::Start(0))?;
    source.read_to_end(&mut bytes)?;
    let parallel = bytes.len() > SMALL && threads(order.threads);

    // JAIL, second half: `Walls::seal` goes here, with `CompileLimits` {data:
    // order.memory, cpu: order.cpu, file: order.output} in place of `limit`. All
    // threads that there will be exist; what comes needs memory, futexes, and to
    // write to two descriptors.

    let says = match compile(&bytes, &order, parallel, &mut output) {
        Ok(()) => CompilerSays::Compiled,
        Err(LoadError::Engine(error)) => CompilerSays::Failed(error.to_string()),
        Err(LoadError::System { source }) => CompilerSays::Failed(source.to_string()),
        Err(refusal) => CompilerSays::Refused(refusal),
    };
    channel::send(&runner, &says, &[])
}

fn compile(
    bytes: &[u8],
    order: &CompileOrder,
    parallel: bool,
    output: &mut File,
) -> Result<(), LoadError> {
    let digest = blake3::Hash::from_bytes(order.source);
    let (elf, meta) = sandbox::compile(bytes, &digest, order.metered, parallel)?;
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

/// Limits this process. Address space is not limited: it is reserved in gigabytes
/// where nothing is ever used.
fn limit(order: &CompileOrder) -> io::Result<()> {
    let set = |resource, soft: u64, hard: u64| {
        // What this process was given is the most that it may give itself.
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Rlimit {
            current: Some(soft.min(most)),
            maximum: Some(hard.min(most)),
        };
        setrlimit(resource, limit)
    };
    set(Resource::Core, 0, 0)?;
    set(Resource::Data, order.memory, order.memory)?;
    set(Resource::Fsize, order.output, order.output)?;
    // The soft limit's signal says what happened; the hard one's is SIGKILL.
    set(Resource::Cpu, order.cpu, order.cpu.saturating_add(1))?;
    Ok(())
}

/// Starts the threads that compile; whether there are any.
fn threads(most: u32) -> bool {
    most > 1
        && rayon::ThreadPoolBuilder::new()
            .num_threads(most as usize)
            .build_global()
            .is_ok()
}
