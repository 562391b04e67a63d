//! The program that is started: the one that an embedder named, or this one.

use super::error::ProcessError;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this program has called `worker_hook`.
static HOOKED: AtomicBool = AtomicBool::new(false);

/// This program, as it was started.
const OWN: &str = "/proc/self/exe";

/// Whether a worker program is this program, which can be one.
pub(super) fn is_own(program: &Path) -> bool {
    program.as_os_str() == OWN && is_hooked()
}

/// Whether this program can be its own worker.
pub(super) fn is_hooked() -> bool {
    HOOKED.load(Ordering::Relaxed)
}

/// Records that this program can be its own worker.
pub(super) fn hook() {
    HOOKED.store(true, Ordering::Relaxed);
}

/// The program for workers and compilers.
pub fn worker_program(named: Option<&Path>) -> Result<PathBuf, ProcessError> {
    // For finding the program itself, and for workers, which count their threads there.
    if std::fs::symlink_metadata("/proc/self").is_err() {
        return Err(ProcessError::NoProc);
    }
    match named {
        Some(program) => Ok(program.to_owned()),
        None if is_hooked() => Ok(PathBuf::from(OWN)),
        None => Err(ProcessError::NoHook),
    }
}
