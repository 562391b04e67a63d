//! What the fuzz targets in `fuzz/` and the replay of their corpus call: each
//! takes any bytes, reads them the way wrun reads a peer's or a stranger's, and
//! panics when a property does not hold. No public API.

pub use crate::sandbox::fuzzing::{artifact, component, loader};
pub use crate::wire::fuzzing::{frame, frames, greeting, handshake};
