//! The requirements for a jail.

use serde::{Deserialize, Serialize};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;
use wrun_types::config::Jail;
#[cfg(any(test, feature = "test-hooks"))]
use wrun_types::jail_report::Layer;

/// The jail of one worker, as planned by its runner.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub mode: Jail,
    pub role: Role,
    pub grants: Grants,
    /// User and group to run as; only root may choose.
    pub identity: Option<(u32, u32)>,
    /// If no user was configured and root runs this: a user, and a group, for this process
    /// alone.
    pub own_user: Option<u32>,
    /// A directory that the runner made ([`Cgroup`](super::Cgroup)), joined first; or why
    /// there is none, for the report.
    pub cgroup: Result<PathBuf, String>,
    /// Maximum bytes of one region, and of all together.
    pub regions: u64,
    /// For [`Role::Compiler`].
    pub compile: Option<CompileLimits>,
    /// Layers that this kernel is treated as not having.
    #[cfg(any(test, feature = "test-hooks"))]
    #[serde(default)]
    pub absent: Vec<Layer>,
}

/// The role of a jailed process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Forks children, which `tighten` before they run a guest.
    Zygote,
    /// Runs one task itself, after it called `tighten`.
    Worker,
    /// Compiles: may start threads, opens nothing, writes its output to descriptors that it
    /// has. `seal` is all it needs.
    Compiler,
}

/// The *kinds* of things that tasks of this worker may be granted; [`TaskWalls`] has the
/// grants themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grants {
    pub files: bool,
    /// Root's files in those directories belong to the worker's user: root starts a worker
    /// that need not be root.
    pub mapped: bool,
    pub tcp: bool,
    /// Channels to other tasks: the task imports `ports`.
    pub talks: bool,
    /// Not an outside grant: memory files that the runner made. Only tasks that import
    /// regions need them.
    pub regions: bool,
}

impl Grants {
    /// Whether anything outside of the process is granted that Landlock must allow.
    pub fn any(self) -> bool {
        self.files || self.tcp
    }
}

/// The limits of compiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileLimits {
    /// Bytes of memory in addition to what the process has when it is sealed; the stacks of
    /// its threads count.
    pub data: u64,
    pub cpu: Duration,
    /// Maximum bytes of a file that it may write.
    pub file: u64,
}

/// The walls of one task, within those of its worker.
#[derive(Clone, Copy, Debug)]
pub struct TaskWalls<'a> {
    /// Open directories, and whether they are read-only.
    pub dirs: &'a [(BorrowedFd<'a>, bool)],
    /// Ports to which it may connect.
    pub tcp_ports: &'a [u16],
    /// Bytes that the guest may have, plus those of the host's own buffers if they can be
    /// more than [`SLACK`](super::rlimits::SLACK).
    pub memory: u64,
    /// Bytes of address space that are only reserved for the guest's memories; `None` if
    /// unknown, which means no limit.
    pub reserved: Option<u64>,
    /// Processor time; seconds, rounded up.
    pub cpu: Option<Duration>,
}

impl Plan {
    /// Possible grants; a compiler is granted nothing.
    pub(super) fn grants(&self) -> Grants {
        match self.role {
            Role::Zygote | Role::Worker => self.grants,
            Role::Compiler => Grants::default(),
        }
    }
}
