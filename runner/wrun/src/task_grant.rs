//! Tasks that a task may start.

use std::time::Duration;
use wrun_sandbox::Artifact;
use wrun_types::limits::Limits;
use wrun_types::spec::{MAX_STRINGS, MAX_TASK_NAME, check_limits};
use wrun_types::task_error::{MAX_GRANTS, TaskError};

/// A task that another task may start (`tasks.spawn`), and all that it starts in turn.
///
/// Such a child runs in its parent's mode. It is granted nothing of the outside world:
/// no directory, no variable, no socket; only the same tasks as its parent.
#[derive(Clone, Debug)]
#[must_use = "a grant does nothing until a task has it"]
pub struct TaskGrant {
    pub(crate) name: String,
    pub(crate) artifact: Artifact,
    pub(crate) args: Vec<String>,
    pub(crate) limits: Option<Limits>,
    pub(crate) grace: Option<Duration>,
}

impl TaskGrant {
    /// Maximum length of a name: 256 bytes.
    pub const MAX_NAME: usize = MAX_TASK_NAME;

    /// Grants `artifact` under a name, which is also the child's name and the first
    /// element of its argument list. The same runner must have loaded it.
    pub fn new(name: impl Into<String>, artifact: &Artifact) -> Self {
        TaskGrant {
            name: name.into(),
            artifact: artifact.clone(),
            args: Vec::new(),
            limits: None,
            grace: None,
        }
    }

    /// Appends arguments. The task that starts it cannot add any.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The child's own limits; its time counts from its start, and never exceeds its
    /// parent's remaining time. Default: its parent's limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// How long the child may continue after its parent killed it (`child.kill`), as
    /// [`Task::grace`](crate::Task::grace). Default: its parent's. A child whose parent
    /// dropped it or ended has no grace period.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }
}

/// Checks the tasks that a task is granted.
pub(crate) fn validate_tasks(grants: &[TaskGrant]) -> Result<(), TaskError> {
    if grants.len() > MAX_GRANTS {
        return Err(TaskError::TooManyTasks);
    }
    for (at, grant) in grants.iter().enumerate() {
        let name = &grant.name;
        if name.is_empty() || name.len() > TaskGrant::MAX_NAME || name.contains('\0') {
            return Err(TaskError::TaskName { name: name.clone() });
        }
        if grant.artifact.shape().is_http() {
            return Err(TaskError::HandlerGranted { name: name.clone() });
        }
        if grants[..at].iter().any(|other| other.name == *name) {
            return Err(TaskError::TaskTwice { name: name.clone() });
        }
        if grant.args.iter().any(|arg| arg.contains('\0')) {
            return Err(TaskError::Nul {
                what: "an argument of a granted task",
            });
        }
        let args: usize = grant.args.iter().map(|arg| arg.len() + 1).sum();
        if args + name.len() > MAX_STRINGS {
            return Err(TaskError::TooLong {
                what: "the arguments of a granted task",
            });
        }
        if let Some(limits) = &grant.limits {
            check_limits(limits)?;
        }
    }
    Ok(())
}
