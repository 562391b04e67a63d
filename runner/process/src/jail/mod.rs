//! The kernel's walls around a worker: their definition, their setup, and an account of
//! their state on this kernel.
//!
//! A worker calls [`begin`] right after it was started, [`Walls::split`] to continue as the
//! first process of its namespace, [`Walls::seal`] once the code is mapped, and, before the
//! guest runs, [`Sealed::tighten`]. [`syscalls`] is the list of system calls, with reasons.
//!
//! Invariant: a worker reports that it is ready only after every requested wall is in place
//! or is reported as missing. No wall is left out silently.

mod account;
mod cgroup;
mod facts;
mod filter;
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
pub use namespaces::Early;
pub use plan::{CompileLimits, Grants, Plan, Role, TaskWalls};
pub use rlimits::{Raise, reserve_descriptors};
pub use walls::{Sealed, Split, Walls, begin, begin_after};
