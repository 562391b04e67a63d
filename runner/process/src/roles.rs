//! By which arguments a worker program knows what it is to be.

use std::io;

/// The first argument that makes a program a worker.
pub const WORKER_ARG: &str = "__wrun-worker";
/// The third one that makes a worker program a compiler.
pub(super) const COMPILE_ARG: &str = "compile";

/// What else a worker program can be, beside a worker and a compiler.
#[derive(Clone, Copy, Debug)]
pub struct WorkerRole {
    /// The third argument, by which it is chosen.
    pub name: &'static str,
    /// What it does, given the process that started it; then the program ends.
    pub work: fn(i32) -> io::Result<()>,
}
