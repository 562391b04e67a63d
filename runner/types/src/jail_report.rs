//! The state of each wall of a worker's jail. Plain data.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The walls of a worker's jail, outermost last. Their names in reports are those
/// of [`Layer::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Layer {
    /// `no_new_privs`: no program gains privileges.
    NoNewPrivs,
    /// The worker dies with its runner.
    ParentDeath,
    /// Every descriptor that is not the worker's own is closed.
    Descriptors,
    /// The environment is empty.
    Environment,
    /// No core dump, and no access by `ptrace` or through `/proc`.
    CoreDumps,
    /// Resource limits (`setrlimit`): memory, files, processes, CPU time.
    Rlimits,
    /// An unprivileged user and group, and no capabilities.
    Identity,
    /// A separate user namespace.
    UserNamespace,
    /// A process-number namespace: other processes cannot be addressed.
    PidNamespace,
    /// A network namespace without a network; absent where sockets are granted.
    NetNamespace,
    /// A namespace for System V IPC and message queues.
    IpcNamespace,
    /// A mount namespace whose root is empty.
    MountNamespace,
    /// A control group (version 2) with limits, for all workers of the runner.
    Cgroup,
    /// Landlock: no files but those under granted directories, no other sockets,
    /// no signals to other processes.
    Landlock,
    /// A list of allowed system calls.
    Seccomp,
}

impl Layer {
    /// All of them, in the order of reports.
    pub const ALL: [Layer; 15] = [
        Layer::NoNewPrivs,
        Layer::ParentDeath,
        Layer::Descriptors,
        Layer::Environment,
        Layer::CoreDumps,
        Layer::Rlimits,
        Layer::Identity,
        Layer::UserNamespace,
        Layer::PidNamespace,
        Layer::NetNamespace,
        Layer::IpcNamespace,
        Layer::MountNamespace,
        Layer::Cgroup,
        Layer::Landlock,
        Layer::Seccomp,
    ];

    /// The name in reports, such as `no-new-privs`.
    pub fn name(self) -> &'static str {
        match self {
            Layer::NoNewPrivs => "no-new-privs",
            Layer::ParentDeath => "parent-death",
            Layer::Descriptors => "descriptors",
            Layer::Environment => "environment",
            Layer::CoreDumps => "core-dumps",
            Layer::Rlimits => "rlimits",
            Layer::Identity => "identity",
            Layer::UserNamespace => "user-namespace",
            Layer::PidNamespace => "pid-namespace",
            Layer::NetNamespace => "net-namespace",
            Layer::IpcNamespace => "ipc-namespace",
            Layer::MountNamespace => "mount-namespace",
            Layer::Cgroup => "cgroup",
            Layer::Landlock => "landlock",
            Layer::Seccomp => "seccomp",
        }
    }

    /// Whether [`Jail::Strict`](crate::config::Jail::Strict) refuses to run without it. The
    /// others depend on what a system permits: namespaces and control groups add to the
    /// required ones.
    pub fn is_required(self) -> bool {
        !matches!(
            self,
            Layer::UserNamespace
                | Layer::PidNamespace
                | Layer::NetNamespace
                | Layer::IpcNamespace
                | Layer::MountNamespace
                | Layer::Cgroup
        )
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// To what extent a wall is in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LayerState {
    /// Whole.
    Enforced,
    /// In part; the detail says what is missing.
    Partial,
    /// Not at all; the detail says why.
    Unavailable,
}

impl LayerState {
    /// The name in reports, such as `enforced`.
    pub fn name(self) -> &'static str {
        match self {
            LayerState::Enforced => "enforced",
            LayerState::Partial => "partial",
            LayerState::Unavailable => "unavailable",
        }
    }
}

/// The state of one wall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerReport {
    /// The wall.
    pub layer: Layer,
    /// To what extent it is in place.
    pub state: LayerState,
    /// What it consists of, or what is missing and why; for people, at most 256
    /// bytes.
    pub detail: String,
}

impl LayerReport {
    /// The state of this wall.
    pub fn new(layer: Layer, state: LayerState, detail: impl Into<String>) -> Self {
        LayerReport {
            layer,
            state,
            detail: detail.into(),
        }
    }
}

/// How strong a worker's walls were, as the worker found when it put them up
/// before it touched the task's code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JailReport {
    /// Each layer once, in the order of [`Layer::ALL`]; empty with
    /// [`Jail::Off`](crate::config::Jail::Off).
    pub layers: Vec<LayerReport>,
}

impl JailReport {
    /// The report of these walls.
    pub fn new(layers: Vec<LayerReport>) -> Self {
        JailReport { layers }
    }

    /// One layer; none with [`Jail::Off`](crate::config::Jail::Off).
    pub fn layer(&self, layer: Layer) -> Option<&LayerReport> {
        self.layers.iter().find(|report| report.layer == layer)
    }

    /// The first required layer that is not enforced.
    pub fn missing(&self) -> Option<&LayerReport> {
        self.layers
            .iter()
            .find(|report| report.layer.is_required() && report.state != LayerState::Enforced)
    }
}
