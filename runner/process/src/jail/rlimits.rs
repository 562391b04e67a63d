//! Resource limits, for the process and then for the task.
//!
//! Address space is limited to what wasmtime reserves, 4 GiB for each memory, if that is
//! known: this bounds the kernel's page tables.

use super::account::{JailError, Stand};
use super::plan::{Grants, Plan, Role, TaskWalls};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::time::Duration;

/// Maximum of descriptors of a task's process; also at most half of the runner's. The
/// kernel counts descriptors in flight, in sockets, by user, and refuses a send while the
/// count is over the limit of the *sender*: so tasks are refused long before the runner and
/// the zygotes, whose limit is higher.
const DESCRIPTORS: u64 = 4096;

/// Descriptors that runners and zygotes request, if the system permits it.
const RESERVED: u64 = 1 << 16;

/// Maximum of pending signals of a zygote. Without a user namespace the kernel counts all
/// processes of a user; a task may have none pending, so that it does not affect others.
const SIGNALS: u64 = 4096;

/// What the host may use for one task in addition to twice the guest's memory: buffers,
/// tables, stacks. Ample, so that wasmtime's limiter refuses first and this limit only
/// stops code that got past it.
pub(super) const SLACK: u64 = 512 << 20;

/// The first thread's stack, if it may be larger; it does not count as data, either.
const STACK: u64 = 64 << 20;

/// The memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub(super) data: u64,
    pub(super) address_space: u64,
}

/// The limit that [`reserve_descriptors`] raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raise {
    /// The soft limit, up to the hard one.
    Soft,
    /// Both, if this process has the right to.
    Both,
}

/// Raises the limit on descriptors of a process that serves tasks up to [`RESERVED`], as
/// far as the system permits; returns the previous soft limit.
pub fn reserve_descriptors(raise: Raise) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let before = now.current.unwrap_or(u64::MAX);
    let set = |maximum: Option<u64>| {
        let most = maximum.map_or(RESERVED, |hard| hard.min(RESERVED));
        let current = Some(before.max(most));
        setrlimit(Resource::Nofile, Rlimit { current, maximum })
    };
    if before < RESERVED {
        let beyond = now.maximum.map(|hard| hard.max(RESERVED));
        let raised = raise == Raise::Both && set(beyond).is_ok();
        if !raised {
            // If that fails, the limit is unchanged.
            let _ = set(now.maximum);
        }
    }
    before
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
        // The limit is lower then, but still a limit.
        (Err(_), Role::Compiler) => Used::default(),
        (Err(error), _) => {
            let why = format!("memory cannot be measured: {error}");
            return Err(io::Error::new(error.kind(), why));
        }
    };
    lower(Resource::Memlock, 0)?;
    lower(Resource::Nice, 0)?;
    lower(Resource::Rtprio, 0)?;
    lower(Resource::Msgqueue, 0)?;
    lower(Resource::Sigpending, SIGNALS)?;
    let stack = getrlimit(Resource::Stack).current.unwrap_or(STACK);
    lower(Resource::Stack, stack.min(STACK))?;
    wrun_sys::ignore_file_size_signal()?;
    if let (Role::Compiler, Some(limits)) = (plan.role, plan.compile) {
        let own = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        lower(Resource::Nofile, of_a_task(own))?;
        lower(Resource::Data, used.data.saturating_add(limits.data))?;
        lower(Resource::Fsize, limits.file)?;
        cpu(limits.cpu)?;
        return Ok(
            "descriptors, locked memory, priority, queues, stack; data, file size, CPU".into(),
        );
    }
    match (plan.grants().files, plan.grants().regions) {
        (true, _) => {}
        // Writing beyond it is refused even if a file is larger.
        (false, true) => lower(Resource::Fsize, plan.regions.max(wrun_sandbox::port::ARENA))?,
        (false, false) => lower(Resource::Fsize, 0)?,
    }
    Ok(
        "file size, locked memory, priority, queues, stack; per task descriptors, signals, data, \
         address space, CPU, processes"
            .into(),
    )
}

/// Maximum of descriptors of a task whose runner may have this many.
fn of_a_task(runner: u64) -> u64 {
    DESCRIPTORS.min(runner / 2)
}

/// The limits of one task, which has the process from now on. `descriptors` is the runner's
/// limit.
pub(super) fn of_task(
    used: Used,
    descriptors: u64,
    grants: Grants,
    regions: u64,
    task: &TaskWalls<'_>,
) -> Result<(), JailError> {
    let limits = || -> rustix::io::Result<()> {
        lower(Resource::Nproc, 0)?;
        lower(Resource::Nofile, of_a_task(descriptors))?;
        lower(Resource::Sigpending, 0)?;
        let data = task.memory.saturating_mul(2).saturating_add(SLACK);
        lower(Resource::Data, used.data.saturating_add(data))?;
        if let Some(reserved) = task.reserved {
            let space = used.address_space.saturating_add(reserved);
            // Shared regions are mapped in addition to the guest's memory.
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

/// Allows no further threads or processes.
pub(super) fn no_more_threads() -> Result<(), JailError> {
    lower(Resource::Nproc, 0).map_err(|errno| JailError::System {
        what: "cannot limit threads",
        source: errno.into(),
    })
}

/// Seconds from now on, rounded up: then `SIGXCPU`, which can be distinguished, and a
/// second later the signal that the first process of a namespace does not survive either.
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

/// The current memory of this process.
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
