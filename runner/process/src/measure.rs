//! Parts of this crate for comparisons of the modes: starting, watching and reaping a
//! program.

pub use crate::begin::{check_alone, settle};
pub use crate::error::ProcessError;
pub use crate::image::Image;
pub use crate::program::worker_program;
pub use crate::reaped::Reaped;
pub use crate::roles::{WORKER_ARG, WorkerRole};
pub use crate::suspend::{Member, start};
pub use crate::worker_main::hook;
