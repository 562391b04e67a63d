//! Exit codes: the one function from results to codes. The table is in
//! `docs/exit-codes.md`.

use super::signals;
use std::io;
use wrun::{Crash, Error, ErrorKind, Limit, Outcome};

/// The task failed: it returned `err`.
pub(super) const FAILED: u8 = 1;
/// The command line is wrong.
pub(super) const USAGE: u8 = 2;
/// Too many inputs of a batch failed.
pub(super) const ENDED_EARLY: u8 = 3;
/// The deadline passed, or compiling took too long.
pub(super) const DEADLINE: u8 = 124;
/// wrun itself failed.
pub(super) const RUNNER: u8 = 125;
/// The file is not a task.
pub(super) const NOT_LOADABLE: u8 = 126;
/// The file does not exist.
pub(super) const NOT_FOUND: u8 = 127;
/// SIGHUP.
pub(super) const HUNG_UP: u8 = 129;
/// SIGINT: Ctrl-C.
pub(super) const INTERRUPTED: u8 = 130;
/// The task trapped.
pub(super) const TRAP: u8 = 134;
/// SIGTERM.
pub(super) const TERMINATED: u8 = 143;
/// SIGXCPU: no processor time is left.
pub(super) const OUT_OF_TIME: u8 = 152;
/// Any limit except the deadline.
pub(super) const LIMIT: u8 = 137;

/// The code of an outcome.
pub(super) fn of_outcome(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Completed(_) => 0,
        Outcome::Failed(_) => FAILED,
        Outcome::Exited(code) => *code,
        Outcome::Trapped(_) => TRAP,
        Outcome::LimitExceeded(limit) => of_limit(*limit),
        Outcome::Crashed(crash) => match crash.how() {
            Crash::Signal(signal) => u8::try_from(128 + signal).unwrap_or(RUNNER),
            _ => RUNNER,
        },
        Outcome::Cancelled => INTERRUPTED,
        _ => RUNNER,
    }
}

/// The code of a limit.
fn of_limit(limit: Limit) -> u8 {
    match limit {
        Limit::Deadline | Limit::CompileTime => DEADLINE,
        _ => LIMIT,
    }
}

/// The code of an error of reading a file that an option names.
pub(super) fn of_reading(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::TimedOut => DEADLINE,
        io::ErrorKind::Interrupted => signals::arrived().unwrap_or(RUNNER),
        _ => USAGE,
    }
}

/// The code of an error.
pub(super) fn of_error(error: &Error) -> u8 {
    if let Some(limit) = error.limit() {
        return of_limit(limit);
    }
    match error.kind() {
        ErrorKind::NotFound => NOT_FOUND,
        ErrorKind::NotLoadable
        | ErrorKind::Precompiled
        | ErrorKind::FuelMismatch
        | ErrorKind::ModeMismatch => NOT_LOADABLE,
        ErrorKind::InvalidTask => USAGE,
        _ => RUNNER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_has_one_code_wherever_it_was_exceeded() {
        for (limit, code) in [(Limit::CompileTime, 124), (Limit::CompileMemory, 137)] {
            let error = Error::new(ErrorKind::LoadLimit, "too much").with_limit(limit, 1);
            assert_eq!(error.kind(), ErrorKind::LoadLimit);
            assert_eq!(of_error(&error), code, "{error}");
            assert_eq!(of_outcome(&Outcome::LimitExceeded(limit)), code);
        }
    }
}
