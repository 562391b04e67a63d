//! What is asked of a jail.

use serde::{Deserialize, Serialize};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;
use wrun_types::config::Jail;
#[cfg(any(test, feature = "test-hooks"))]
use wrun_types::jail_report::Layer;

/// The jail of one worker, as its runner wants it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub mode: Jail,
    pub role: Role,
    pub grants: Grants,
    /// User and group to run as; only root may choose.
    pub identity: Option<(u32, u32)>,
    /// Where nobody chose and root runs this: a user, and a group, of this process alone.
    pub own_user: Option<u32>,
    /// A directory that the runner made ([`Cgroup`](super::Cgroup)), joined before
    /// anything else; or why there is none, for the report.
    pub cgroup: Result<PathBuf, String>,
    /// Bytes of the largest region, and of all together.
    pub regions: u64,
    /// For [`Role::Compiler`].
    pub compile: Option<CompileLimits>,
    /// Layers that this kernel is said not to have.
    #[cfg(any(test, feature = "test-hooks"))]
    #[serde(default)]
    pub absent: Vec<Layer>,
}

/// What a jailed process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Forks children, which `tighten` before they run a guest.
    Zygote,
    /// Runs one task itself, after it called `tighten`.
    Worker,
    /// Compiles: may start threads, opens nothing, writes what it made to
    /// descriptors that it has. `seal` is all it needs.
    Compiler,
}

/// The *kinds* of things that tasks of this worker may be granted; which ones is
/// said in [`TaskWalls`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grants {
    pub files: bool,
    /// Of those, what is root's on disk is the worker's user's: root starts a worker that
    /// need not be root.
    pub mapped: bool,
    pub tcp: bool,
    /// Channels to others: the task imports `ports`.
    pub talks: bool,
    /// Not from outside: memory files that the runner made. What does not import them
    /// needs none.
    pub regions: bool,
}

impl Grants {
    /// Whether anything outside of the process is granted, that Landlock has to let
    /// through.
    pub fn any(self) -> bool {
        self.files || self.tcp
    }
}

/// What compiling may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompileLimits {
    /// Bytes of memory beside what the process has when it is sealed; the stacks
    /// of its threads count.
    pub data: u64,
    pub cpu: Duration,
    /// Bytes of the largest file it may write.
    pub file: u64,
}

/// The walls of one task, within those of its worker.
#[derive(Clone, Copy, Debug)]
pub struct TaskWalls<'a> {
    /// Open directories, and whether they are only to be read.
    pub dirs: &'a [(BorrowedFd<'a>, bool)],
    /// Ports that may be connected to.
    pub tcp_ports: &'a [u16],
    /// Bytes that the guest may have, and those of the host's own buffers where
    /// they can be more than [`SLACK`](super::rlimits::SLACK).
    pub memory: u64,
    /// Bytes of address space that are only reserved for the guest's memories;
    /// without a limit where nobody knows.
    pub reserved: Option<u64>,
    /// Processor time; seconds, rounded up.
    pub cpu: Option<Duration>,
}

impl Plan {
    /// What may be granted; a compiler is granted nothing.
    pub(super) fn grants(&self) -> Grants {
        match self.role {
            Role::Zygote | Role::Worker => self.grants,
            Role::Compiler => Grants::default(),
        }
    }
}
