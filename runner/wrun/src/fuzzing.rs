//! The functions for the fuzz targets in `fuzz/` and the replay of their corpus: each takes
//! any bytes, reads them the way wrun reads those of a peer or of a stranger, and panics if
//! a property does not hold. Not a public API.

#[cfg(feature = "http")]
pub use wrun_process::http::fuzzing::{exchanges, http};
pub use wrun_process::wire::fuzzing::{frame, frames, greeting, handshake};
pub use wrun_sandbox::fuzzing::{artifact, component, loader};
