//! The part of a task that travels to where it runs. Plain data with validation,
//! independent of what runs it.

use crate::grant::{DirGrant, HttpGrant, TcpGrant};
use crate::injection::Injection;
use crate::limits::Limits;
use crate::task_error::{MAX_GRANTS, TaskError};
use serde::{Deserialize, Serialize};

/// Maximum of bytes in all arguments together, and in the environment; the same order of
/// magnitude as Linux allows for `execve`.
pub const MAX_STRINGS: usize = 1 << 20;

/// Maximum length of the name of a granted task, in bytes.
pub const MAX_TASK_NAME: usize = 256;

/// The part of a task that travels to where it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    #[doc(hidden)]
    pub name: String,
    #[doc(hidden)]
    pub args: Vec<String>,
    #[doc(hidden)]
    pub env: Vec<(String, String)>,
    #[doc(hidden)]
    pub dirs: Vec<DirGrant>,
    #[doc(hidden)]
    pub tcp: Vec<TcpGrant>,
    #[doc(hidden)]
    pub http: Vec<HttpGrant>,
    #[doc(hidden)]
    pub terminals: Terminals,
    #[doc(hidden)]
    pub limits: Limits,
    /// Maximum of bytes that the host holds of one child task, as input or output; 0 if it
    /// can have no children.
    #[doc(hidden)]
    pub child_data: u64,
    /// What the host's code does in the guest's place, for a comparison.
    #[doc(hidden)]
    pub injection: Option<Injection>,
}

impl Spec {
    /// No arguments, no variables, no grants, default limits.
    #[doc(hidden)]
    pub fn new(name: impl Into<String>) -> Self {
        Spec {
            name: name.into(),
            args: Vec::new(),
            env: Vec::new(),
            dirs: Vec::new(),
            tcp: Vec::new(),
            http: Vec::new(),
            terminals: Terminals::default(),
            limits: Limits::default(),
            child_data: 0,
            injection: None,
        }
    }

    /// For a run that never reaches its guest: no grants, little memory.
    #[doc(hidden)]
    pub fn warm_up() -> Self {
        Spec {
            limits: Limits::default().max_memory(64 << 20),
            ..Spec::new("warm-up")
        }
    }

    /// What the host does in the guest's place, in the tests' own build.
    #[cfg(feature = "test-hooks")]
    #[doc(hidden)]
    pub fn probe(&self) -> Option<&str> {
        let mut env = self.env.iter();
        env.find(|(key, _)| key == "WRUN_TEST_PROBE")
            .map(|(_, request)| request.as_str())
    }

    /// Checks what can be checked before anything starts, without the directories.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), TaskError> {
        if self.name.contains('\0') || self.args.iter().any(|arg| arg.contains('\0')) {
            return Err(TaskError::Nul {
                what: "an argument",
            });
        }
        let args: usize = self.args.iter().map(|arg| arg.len() + 1).sum();
        if args + self.name.len() > MAX_STRINGS {
            return Err(TaskError::TooLong {
                what: "the arguments",
            });
        }
        for (key, value) in &self.env {
            if key.contains('\0') || value.contains('\0') {
                return Err(TaskError::Nul {
                    what: "an environment variable",
                });
            }
            if key.is_empty() || key.contains('=') {
                return Err(TaskError::EnvName { name: key.clone() });
            }
        }
        let env: usize = self.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum();
        if env > MAX_STRINGS {
            return Err(TaskError::TooLong {
                what: "the environment",
            });
        }
        check_limits(&self.limits)?;
        // Only for a submitted task: for others the total does not count.
        let (total, memory) = (self.limits.max_total_memory, self.limits.max_memory);
        if total < memory {
            return Err(TaskError::TotalMemory { total, memory });
        }
        let grants = [self.dirs.len(), self.tcp.len(), self.http.len()];
        if grants.iter().any(|len| *len > MAX_GRANTS) {
            return Err(TaskError::TooManyGrants);
        }
        for (at, grant) in self.dirs.iter().enumerate() {
            let name = grant.guest_name();
            if self.dirs[..at].iter().any(|it| it.guest_name() == name) {
                return Err(TaskError::DirTwice {
                    name: name.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Checks the granted directories, and makes their paths absolute: a worker may have another
    /// working directory.
    #[doc(hidden)]
    pub fn settle_dirs(&mut self) -> Result<(), TaskError> {
        for grant in &mut self.dirs {
            let path = || grant.host.clone();
            let cannot = |error| TaskError::Dir {
                path: path(),
                error,
            };
            let found = std::fs::metadata(&grant.host);
            if matches!(&found, Err(error) if error.kind() == std::io::ErrorKind::NotFound)
                && let Some(whole) = grant.undivided()
            {
                return Err(TaskError::DirDivided {
                    host: path(),
                    whole,
                });
            }
            if !found.map_err(cannot)?.is_dir() {
                return Err(TaskError::NotADir { path: path() });
            }
            // A directory that this user may not search is useless to a task; a worker could
            // not even open it.
            std::fs::metadata(grant.host.join(".")).map_err(cannot)?;
            grant.host = std::path::absolute(&grant.host).map_err(cannot)?;
        }
        Ok(())
    }
}

/// Checks what is the same for every task.
pub fn check_limits(limits: &Limits) -> Result<(), TaskError> {
    if limits.max_table_elements > Limits::MAX_TABLE_ELEMENTS {
        return Err(TaskError::TooManyTableElements);
    }
    if limits.max_tasks > Limits::MAX_TASKS || limits.max_depth > Limits::MAX_DEPTH {
        return Err(TaskError::TooManyChildren);
    }
    Ok(())
}

/// Which of its standard streams are terminals for a task (`Task::terminals`): for `isatty`
/// of WASI 0.1 and for `wasi:cli/terminal-*` of 0.2. Programs check this, and then write
/// line by line, or in colours, or begin a dialogue.
///
/// ```
/// use wrun::Terminals;
///
/// let shown = Terminals { stdout: true, ..Terminals::default() };
/// assert!(!shown.stdin);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminals {
    /// What the task reads.
    pub stdin: bool,
    /// What a command writes. What a task that exports `run` prints goes to stderr.
    pub stdout: bool,
    /// What the task writes to stderr.
    pub stderr: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_checked() {
        let spec = |env: &[(&str, &str)]| Spec {
            env: env
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            ..Spec::new("t")
        };
        assert!(spec(&[("A", "b")]).validate().is_ok());
        assert!(spec(&[("A=", "b")]).validate().is_err());
        assert!(spec(&[("A", "\0")]).validate().is_err());
        let big = "x".repeat(MAX_STRINGS);
        assert!(spec(&[("A", &big)]).validate().is_err());
    }
}
