//! Writes the initial corpora for fuzzing: `seeds DIRECTORY`. Each target has a folder
//! with its name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Maximum size of a guest that becomes a seed: mutations of larger guests are slow and
/// find little.
const MAX_GUEST: u64 = 8 << 10;

fn main() -> io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: seeds DIRECTORY"));
    };
    let folder = |target: &str| -> io::Result<PathBuf> {
        let folder = directory.join(target);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    };

    let frames = folder("frame")?;
    for (name, frame) in wrun::fuzzing::frames() {
        fs::write(frames.join(name), frame)?;
    }

    let greetings = folder("handshake")?;
    let ours = wrun::fuzzing::greeting();
    fs::write(greetings.join("ours"), &ours)?;
    fs::write(
        greetings.join("other-version"),
        [&ours[..8], &[0xff; 4]].concat(),
    )?;
    fs::write(greetings.join("shell"), "#!/bin/sh\nexit 0\n")?;

    let exchanges = folder("http")?;
    for (name, exchange) in wrun::fuzzing::exchanges() {
        fs::write(exchanges.join(name), exchange)?;
    }

    let tasks = folder("loader")?;
    for (metered, name) in [(false, "plain"), (true, "metered")] {
        let artifact = wrun::fuzzing::artifact(b"no ELF", metered);
        fs::write(tasks.join(format!("artifact-{name}")), &artifact)?;
        fs::write(
            tasks.join(format!("artifact-{name}-cut")),
            &artifact[artifact.len() / 2..],
        )?;
    }
    let guests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-tasks");
    let mut found = Vec::new();
    collect(&guests, &mut found)?;
    for guest in found {
        let (Some(stem), Some(extension)) = (guest.file_stem(), guest.extension()) else {
            continue;
        };
        let (stem, extension) = (stem.to_string_lossy(), extension.to_string_lossy());
        let bytes = fs::read(&guest)?;
        fs::write(tasks.join(format!("{stem}-{extension}")), &bytes)?;
        if let Some(component) = wrun::fuzzing::component(&bytes)
            && component.len() as u64 <= MAX_GUEST
        {
            fs::write(tasks.join(format!("{stem}-component")), component)?;
        }
        // Seeds for both inputs of the loader: text and binary.
        if extension == "wat"
            && let Ok(binary) = wat::parse_bytes(&bytes)
        {
            fs::write(tasks.join(format!("{stem}-binary")), binary)?;
        }
    }
    Ok(())
}

/// All guests that are small enough, in any folder.
fn collect(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let is_guest = path
            .extension()
            .is_some_and(|it| it == "wat" || it == "wasm");
        if entry.file_type()?.is_dir() {
            collect(&path, found)?;
        } else if is_guest && entry.metadata()?.len() <= MAX_GUEST {
            found.push(path);
        }
    }
    Ok(())
}
