//! What `wrun compare` and the benchmarks of this repository measure with: floors, quantiles,
//! and what the kernel says of memory. Not public API: it changes with any version.

mod copies;
mod floor;
mod memory;
mod threads;

pub use crate::environment::look as environment;
pub use crate::sorted::Sorted;
pub use copies::copies;
pub(crate) use floor::ROLE;
pub use floor::{Echoes, Floor, FloorProgram, Work};
pub use memory::{Memory, descendants};
pub use threads::in_threads;
