//! The kernel's walls around a worker: what they are, how they are put up, and
//! an account of how well they stand on this kernel.
//!
//! Invariant: a worker says that it is ready only after every wall that was asked
//! for stands or is reported as missing. Nothing is given up without a word.

mod report;
mod stub;
pub(crate) use stub::*;

pub use report::{JailReport, Layer, LayerReport, LayerState};
