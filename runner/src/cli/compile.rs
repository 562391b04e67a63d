//! `wrun compile`.

use super::args::CompileArgs;
use super::{Failure, exit};
use crate::{Mode, Runner};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

pub(super) fn compile(args: &CompileArgs) -> Result<u8, Failure> {
    let runner = Runner::builder()
        .mode(Mode::Process)
        .spares(0)
        .max_running(1)
        .worker_threads(1)
        .metered(args.metered)
        .build()?;
    let artifact = runner.load(&args.task)?;
    let bytes = runner.compile(&artifact)?;
    write_whole(&args.output, &bytes).map_err(|error| {
        let path = args.output.display();
        Failure::new(exit::RUNNER, format!("cannot write {path}: {error}"))
    })?;
    Ok(0)
}

/// Writes a file that is there whole or not at all. What is no regular file, a
/// pipe or a device, is written to: a rename would replace it.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return fs::write(path, bytes),
        // Behind a link is what was meant.
        Ok(_) => path.canonicalize()?,
        Err(_) => path.to_owned(),
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".wrun-")
        .tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.persist(&path).map_err(|error| error.error)?;
    Ok(())
}
