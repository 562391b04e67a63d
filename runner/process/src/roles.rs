//! The arguments by which a worker program knows its role.

use std::io;

/// The first argument that makes a program a worker.
pub const WORKER_ARG: &str = "__wrun-worker";
/// The third argument that makes a worker program a compiler.
pub(super) const COMPILE_ARG: &str = "compile";

/// Another role of a worker program, beside worker and compiler.
#[derive(Clone, Copy, Debug)]
pub struct WorkerRole {
    /// The third argument, which selects it.
    pub name: &'static str,
    /// Its function, given the process that started it; then the program ends.
    pub work: fn(i32) -> io::Result<()>,
}
