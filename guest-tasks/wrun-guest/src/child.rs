//! Tasks that this task starts.

use crate::bindings::wasi::io::poll::Pollable;
use crate::bindings::wrun::task::tasks::{self, Child as Handle};
use crate::port::{Port, PortError, channel};
use std::fmt;

pub use crate::bindings::wrun::task::tasks::{Outcome, SpawnError};

/// A task that this one started. It ends with this one at the latest, and is ended when
/// this is dropped.
#[derive(Debug)]
pub struct Child(Handle);

/// No child was started.
#[derive(Debug)]
pub struct Unstarted {
    /// Why not.
    pub error: SpawnError,
    /// What it was to have.
    pub port: Option<Port>,
}

/// Why a child that was to have a channel was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// No channel could be made.
    Channel(PortError),
    /// No task was started.
    Spawn(SpawnError),
}

/// Starts the task that was granted as `name` (`wrun --task NAME=FILE`, or
/// `Task::task` of the library). A child gets `port` from [`parent`](crate::parent).
///
/// # Errors
///
/// [`SpawnError::NotGranted`], [`SpawnError::Limit`], [`SpawnError::TooLarge`] for the
/// input, [`SpawnError::Busy`] for a port with a pollable; the port comes back.
pub fn spawn(name: &str, input: &[u8], port: Option<Port>) -> Result<Child, Unstarted> {
    match tasks::spawn(name, input, port.map(|port| port.0)) {
        Ok(child) => Ok(Child(child)),
        Err(unstarted) => Err(Unstarted {
            error: unstarted.error,
            port: unstarted.port.map(Port),
        }),
    }
}

/// As [`spawn`], with a new channel of this capacity; gives this task's end of it.
///
/// # Errors
///
/// As for [`channel`] and [`spawn`].
pub fn start(name: &str, input: &[u8], capacity: u32) -> Result<(Child, Port), StartError> {
    let (ours, theirs) = channel(capacity).map_err(StartError::Channel)?;
    match spawn(name, input, Some(theirs)) {
        Ok(child) => Ok((child, ours)),
        Err(unstarted) => Err(StartError::Spawn(unstarted.error)),
    }
}

impl Child {
    /// Its number, unique within the runner.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id()
    }

    /// Waits for how it ends; the same answer each time. It goes on waiting when the
    /// host asks this task to stop: the child is asked, too.
    #[must_use]
    pub fn wait(&self) -> Outcome {
        self.0.wait()
    }

    /// Waits for its output.
    ///
    /// # Errors
    ///
    /// Any other end than completion, in words.
    pub fn output(&self) -> Result<Vec<u8>, String> {
        match self.wait() {
            Outcome::Completed(output) => Ok(output),
            outcome => Err(format!("a child: {outcome}")),
        }
    }

    /// Asks it to stop, and ends it after its grace, or at once where it could not hear;
    /// [`Child::wait`] tells what became of it. Dropping it ends it at once.
    pub fn kill(&self) {
        self.0.kill();
    }

    /// Ready when [`Child::wait`] would not wait; for [`poll`](crate::poll).
    #[must_use]
    pub fn subscribe(&self) -> Pollable {
        self.0.subscribe()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Completed(output) => write!(f, "completed with {} bytes", output.len()),
            Outcome::Failed(why) => write!(f, "failed: {why}"),
            Outcome::Exited(code) => write!(f, "exited with {code}"),
            Outcome::Trapped(why) => write!(f, "trapped: {why}"),
            Outcome::LimitExceeded(limit) => write!(f, "limit exceeded: {limit}"),
            Outcome::Crashed(how) => write!(f, "crashed: {how}"),
            Outcome::Cancelled => write!(f, "cancelled"),
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Channel(error) => error.fmt(f),
            StartError::Spawn(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for Unstarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

// In a record they come with no more than their names.
impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SpawnError::NotGranted => "no task of that name was granted",
            SpawnError::Limit => "child tasks are at a limit",
            SpawnError::TooLarge => "the input of a child task is over its limit",
            SpawnError::Busy => "the port of a child task has a pollable",
        })
    }
}

impl std::error::Error for Unstarted {}

impl std::error::Error for StartError {}
