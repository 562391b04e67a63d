//! Exit codes: the one function from what happened to what the shell sees. The
//! table is in `docs/exit-codes.md`.

use crate::{Crash, Error, ErrorKind, Limit, Outcome};

/// The task failed: it returned `err`.
pub(super) const FAILED: u8 = 1;
/// The command line is wrong.
pub(super) const USAGE: u8 = 2;
/// The deadline passed.
pub(super) const DEADLINE: u8 = 124;
/// wrun itself failed.
pub(super) const RUNNER: u8 = 125;
/// The file is no task.
pub(super) const NOT_LOADABLE: u8 = 126;
/// There is no such file.
pub(super) const NOT_FOUND: u8 = 127;
/// SIGHUP.
pub(super) const HUNG_UP: u8 = 129;
/// SIGINT: Ctrl-C.
pub(super) const INTERRUPTED: u8 = 130;
/// The task trapped.
pub(super) const TRAP: u8 = 134;
/// SIGTERM.
pub(super) const TERMINATED: u8 = 143;
/// Any limit but the deadline.
pub(super) const LIMIT: u8 = 137;

/// The code of an outcome.
pub(super) fn of_outcome(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Completed(_) => 0,
        Outcome::Failed(_) => FAILED,
        Outcome::Exited(code) => *code,
        Outcome::Trapped(_) => TRAP,
        Outcome::LimitExceeded(Limit::Deadline) => DEADLINE,
        Outcome::LimitExceeded(_) => LIMIT,
        Outcome::Crashed(Crash::Signal(signal)) => u8::try_from(128 + signal).unwrap_or(RUNNER),
        Outcome::Crashed(_) => RUNNER,
        Outcome::Cancelled => INTERRUPTED,
    }
}

/// The code of an error.
pub(super) fn of_error(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::NotFound => NOT_FOUND,
        ErrorKind::NotLoadable => NOT_LOADABLE,
        ErrorKind::InvalidTask => USAGE,
        _ => RUNNER,
    }
}
