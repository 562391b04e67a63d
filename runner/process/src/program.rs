//! The program that is started: the one that an embedder named, or this one.

use super::error::ProcessError;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this program has called `worker_hook`.
static HOOKED: AtomicBool = AtomicBool::new(false);

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
        None if HOOKED.load(Ordering::Relaxed) => Ok(PathBuf::from("/proc/self/exe")),
        None => Err(ProcessError::NoHook),
    }
}
