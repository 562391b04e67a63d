//! The compiler program: what the hidden entry of a binary does after it was
//! started to compile one task file.
//!
//! Reads the file, compiles it within the limits it was given, leaves the code
//! in the other file, says how that went. Invariant: nothing of the task file is
//! looked at before the limits stand.

use super::descriptors;
use crate::sandbox::{self, Code, LoadError};
use crate::wire::{self, CompileOrder, CompilerSays, Decoder, Hello};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Task files up to this size are compiled on one thread: what starting others
/// takes is as long.
const SMALL: usize = 64 << 10;

/// Compiles what the runner `parent` left in the socket that is stdin.
pub(super) fn work(parent: i32) -> io::Result<()> {
    crate::sys::close_inherited();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before that took effect.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Err(io::Error::other("the runner is gone"));
    }
    let [source, output] = descriptors::receive(rustix::stdio::stdin())?;
    let (mut source, mut output) = (File::from(source), File::from(output));
    let mut runner = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?);
    runner.write_all(&Hello::encode())?;
    let order = order(&mut runner)?;

    // JAIL, first half: `jail::begin` and `walls.split` go here. One thread, the
    // three descriptors above, no byte of the task read. `limit` is then the
    // jail's `CompileLimits` {data: order.memory, cpu: order.cpu, file:
    // order.output}.
    limit(&order)?;

    let mut bytes = Vec::new();
    // The runner wrote it, so the position they share is at the end.
    source.seek(SeekFrom::Start(0))?;
    source.read_to_end(&mut bytes)?;
    let parallel = bytes.len() > SMALL && threads(order.threads);

    // JAIL, second half: `walls.seal` goes here. All threads that there will be
    // exist; what comes needs memory, futexes, and to write to two descriptors.

    let says = match compile(&bytes, &order, parallel, &mut output) {
        Ok(()) => CompilerSays::Compiled,
        Err(LoadError::Engine(error)) => CompilerSays::Failed(error.to_string()),
        Err(LoadError::System { source }) => CompilerSays::Failed(source.to_string()),
        Err(refusal) => CompilerSays::Refused(refusal),
    };
    let frame = wire::encode(&says).map_err(io::Error::other)?;
    runner.write_all(&frame)
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

fn order(runner: &mut File) -> io::Result<CompileOrder> {
    let mut decoder = Decoder::default();
    loop {
        if let Some(order) = decoder.next().map_err(io::Error::other)? {
            return Ok(order);
        }
        let mut bytes = [0; 512];
        match runner.read(&mut bytes)? {
            0 => return Err(io::Error::other("the runner needs nothing compiled")),
            len => decoder.push(&bytes[..len]),
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
