//! What every test needs: where things are, and both modes.

use std::path::PathBuf;

/// Both modes, in the order that messages name them.
pub(crate) const MODES: [&str; 2] = ["thread", "process"];

/// The `wrun` that was built with these tests.
pub(crate) fn wrun() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_wrun"))
}

/// A file of the repository.
pub(crate) fn repo(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}
