//! The kernel's walls around a worker: what they are, how they are put up, and
//! an account of how well they stand on this kernel.
//!
//! A worker calls [`begin`] right after it was started, [`Walls::split`] to go on
//! as the first process of its namespace, [`Walls::seal`] once the code is mapped,
//! and, where the guest runs, [`Sealed::tighten`]. [`syscalls`] is the list of system
//! calls, with reasons.
//!
//! Invariant: a worker says that it is ready only after every wall that was asked
//! for stands or is reported as missing. Nothing is given up without a word.

mod account;
mod cgroup;
mod facts;
mod identity;
mod landlock;
mod namespaces;
mod plan;
mod rlimits;
mod seccomp;
mod syscalls;
#[cfg(test)]
mod tests;
mod walls;

pub use account::JailError;
pub use cgroup::{Cgroup, CgroupLimits};
pub use plan::{CompileLimits, Grants, Plan, Role, TaskWalls};
pub use rlimits::{Raise, reserve_descriptors};
pub use walls::{Sealed, Split, Walls, begin};
