//! Limits of resources, for the process and then for the task.
//!
//! Address space is limited to what wasmtime reserves, 4 GiB for each memory,
//! where that is known: it bounds the tables that the kernel keeps for pages.

use super::account::{JailError, Stand};
use super::plan::{Grants, Plan, Role, TaskWalls};
use crate::sys;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::time::Duration;

/// Descriptors of a worker at most; and less than its runner may have. The kernel counts
/// descriptors that lie in sockets for the user, and refuses to take more from whoever
/// has a limit below that: what tasks leave in channels must not keep their runner from
/// sending its workers theirs.
const DESCRIPTORS: u64 = 4096;

/// Signals that may wait, each timer's among them. The kernel counts all of a
/// user's processes where a worker has no user namespace, so this is not only for
/// one.
const SIGNALS: u64 = 4096;

/// What the host may use for one task beside twice the guest's memory: buffers,
/// tables, stacks. Ample, so that wasmtime's limiter refuses first and this limit
/// is met only by what got past it.
pub(crate) const SLACK: u64 = 512 << 20;

/// The data of a message, which travels in a file where it is large.
const MESSAGE: u64 = crate::Message::MAX_DATA as u64;

/// The first thread's stack, where it may be larger; it is no data, either.
const STACK: u64 = 64 << 20;

/// What a process has of memory, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub(super) data: u64,
    pub(super) address_space: u64,
}

/// For every worker, before anything untrusted.
pub(super) fn no_core() -> rustix::io::Result<()> {
    lower(Resource::Core, 0)
}

/// The limits of a process, which its children inherit.
pub(super) fn of_process(plan: &Plan, used: io::Result<Used>) -> Stand {
    match limit_process(plan, used) {
        Ok(words) => Stand::enforced(words),
        Err(error) => Stand::partial(error.to_string()),
    }
}

fn limit_process(plan: &Plan, used: io::Result<Used>) -> io::Result<String> {
    let used = match (used, plan.role) {
        (Ok(used), _) => used,
        // The limit is lower then, and still one.
        (Err(_), Role::Compiler) => Used::default(),
        (Err(error), _) => {
            let why = format!("memory cannot be measured: {error}");
            return Err(io::Error::new(error.kind(), why));
        }
    };
    let own = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    lower(Resource::Nofile, DESCRIPTORS.min(own / 4 * 3))?;
    lower(Resource::Memlock, 0)?;
    lower(Resource::Nice, 0)?;
    lower(Resource::Rtprio, 0)?;
    lower(Resource::Msgqueue, 0)?;
    lower(Resource::Sigpending, SIGNALS)?;
    let stack = getrlimit(Resource::Stack).current.unwrap_or(STACK);
    lower(Resource::Stack, stack.min(STACK))?;
    sys::ignore_file_size_signal()?;
    if let (Role::Compiler, Some(limits)) = (plan.role, plan.compile) {
        lower(Resource::Data, used.data.saturating_add(limits.data))?;
        lower(Resource::Fsize, limits.file)?;
        cpu(limits.cpu)?;
        return Ok(
            "descriptors, locked memory, priority, queues, stack; data, file size, CPU".into(),
        );
    }
    match (plan.grants().files, plan.grants().regions) {
        (true, _) => {}
        // Writing beyond it is refused also where a file is larger.
        (false, true) => lower(Resource::Fsize, plan.regions.max(MESSAGE))?,
        (false, false) => lower(Resource::Fsize, 0)?,
    }
    Ok(
        "descriptors, file size, locked memory, priority, queues, stack; per task data, address \
         space, CPU, processes"
            .into(),
    )
}

/// The limits of one task, which has the process from now on.
pub(super) fn of_task(
    used: Used,
    grants: Grants,
    regions: u64,
    task: &TaskWalls<'_>,
) -> Result<(), JailError> {
    let limits = || -> rustix::io::Result<()> {
        lower(Resource::Nproc, 0)?;
        let data = task.memory.saturating_mul(2).saturating_add(SLACK);
        lower(Resource::Data, used.data.saturating_add(data))?;
        if let Some(reserved) = task.reserved {
            let space = used.address_space.saturating_add(reserved);
            // Shared regions are mapped beside the guest's memory.
            let mapped = if grants.regions { regions } else { 0 };
            lower(
                Resource::As,
                space.saturating_add(data).saturating_add(mapped),
            )?;
        }
        task.cpu.map_or(Ok(()), cpu)
    };
    limits().map_err(|errno| JailError::System {
        what: "cannot limit the task",
        source: errno.into(),
    })
}

/// No threads but those there are; processes neither.
pub(super) fn no_more_threads() -> Result<(), JailError> {
    lower(Resource::Nproc, 0).map_err(|errno| JailError::System {
        what: "cannot limit threads",
        source: errno.into(),
    })
}

/// Seconds from now on, rounded up: then the signal that can be told apart
/// (`SIGXCPU`), and a second later the one that the first process of a namespace
/// does not survive either.
fn cpu(time: Duration) -> rustix::io::Result<()> {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used = Duration::try_from(used).unwrap_or_default();
    let end = used.saturating_add(time);
    let seconds = end
        .as_secs()
        .saturating_add(u64::from(end.subsec_nanos() > 0))
        .max(1);
    let hard = getrlimit(Resource::Cpu).maximum;
    let within = |limit: u64| Some(hard.map_or(limit, |hard| hard.min(limit)));
    setrlimit(
        Resource::Cpu,
        Rlimit {
            current: within(seconds),
            maximum: within(seconds.saturating_add(1)),
        },
    )
}

fn lower(resource: Resource, to: u64) -> rustix::io::Result<()> {
    let to = getrlimit(resource).maximum.map_or(to, |hard| hard.min(to));
    setrlimit(
        resource,
        Rlimit {
            current: Some(to),
            maximum: Some(to),
        },
    )
}

/// What this process has.
pub(super) fn used() -> io::Result<Used> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let field = |number| {
        statm
            .split_whitespace()
            .nth(number)
            .and_then(|pages| pages.parse::<u64>().ok())
            .map(|pages| pages.saturating_mul(rustix::param::page_size() as u64))
            .ok_or_else(|| io::Error::other("/proc/self/statm is not as expected"))
    };
    Ok(Used {
        data: field(5)?,
        address_space: field(0)?,
    })
}
