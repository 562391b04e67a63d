//! Files that the options of a benchmark name.

use anyhow::ensure;
use std::path::{Path, PathBuf};

/// The path of a file that is named relative to the top of the repository: cargo runs a
/// benchmark in the folder of its package. An error before anything is measured, not after.
pub(crate) fn named(file: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(file);
    let folder = path.parent().unwrap_or(&path);
    ensure!(folder.is_dir(), "{} is not a folder", folder.display());
    Ok(path)
}
