//! What the fuzz targets in `fuzz/` and the replay of their corpus call: each
//! takes any bytes, reads them the way wrun reads a peer's or a stranger's, and
//! panics when a property does not hold. No public API.

pub use wrun_process::wire::fuzzing::{frame, frames, greeting, handshake};
pub use wrun_sandbox::fuzzing::{artifact, component, loader};
