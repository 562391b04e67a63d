//! Where things are.

use std::path::PathBuf;

/// The `wrun` that was built with these tests.
pub(crate) fn wrun() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_wrun"))
}

/// A file of the repository.
pub(crate) fn repo(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}
