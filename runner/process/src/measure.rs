//! What a comparison of the modes uses of processes: how to start, watch and reap a
//! program of its own.

pub use crate::begin::{check_alone, settle};
pub use crate::error::ProcessError;
pub use crate::image::Image;
pub use crate::program::worker_program;
pub use crate::reaped::Reaped;
pub use crate::roles::{WORKER_ARG, WorkerRole};
pub use crate::suspend::{Member, start};
pub use crate::worker_main::hook;
