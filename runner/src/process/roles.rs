//! By which arguments a worker program knows what it is to be.

use std::io;

/// The first argument that makes a program a worker.
pub(super) const WORKER_ARG: &str = "__wrun-worker";
/// The third one that makes a worker program a compiler.
pub(super) const COMPILE_ARG: &str = "compile";
/// What makes it measure floors.
pub(super) const FLOOR_ARG: &str = "floor";
/// What makes it a sacrifice.
pub(super) const SACRIFICE_ARG: &str = "sacrifice";

/// What a sacrifice does: its order, and by what it says a line. Comparisons know that,
/// which are above this module.
pub(crate) type Sacrificed = fn(&str, &mut dyn FnMut(&str) -> io::Result<()>) -> io::Result<()>;

/// Bytes of a sacrifice's order: what fits a pipe that nobody reads yet.
pub(super) const MAX_ORDER: usize = 16 << 10;
