//! The input of a task.

use super::args::RunArgs;
use super::lazy::Lazy;
use super::stdio::{self, Patient};
use super::{Failure, exit};
use std::fs::File;
use std::io::{self, Cursor, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use wrun::{Input, Limits, Mode};

/// A file up to this size is kept for further attempts.
const KEPT: u64 = Limits::INPUT_DEFAULT;

pub(super) fn input(args: &RunArgs, is_command: bool) -> Result<Input, Failure> {
    let replayed = args.mode == Mode::Process && args.process.retries > 0;
    match args.input.as_deref() {
        // A command reads what its user types; the input of `run` is read to the end first, and
        // a user would not know that it waits.
        None if io::stdin().is_terminal() && !is_command => Ok(Input::empty()),
        Some(path) if path != Path::new("-") => {
            let fail = |error: io::Error| {
                let path = path.display();
                Failure::new(exit::USAGE, format!("cannot read {path}: {error}"))
            };
            if std::fs::metadata(path).is_ok_and(|it| it.file_type().is_fifo()) {
                return Ok(Input::reader(named_pipe(path.to_owned())));
            }
            let file = File::open(path).map_err(fail)?;
            if file.metadata().map_err(fail)?.is_dir() {
                return Err(fail(io::ErrorKind::IsADirectory.into()));
            }
            if replayed {
                return keep(file).map_err(fail);
            }
            Ok(Input::reader(Lazy::new(Box::new(Patient(file)))))
        }
        _ => {
            if replayed && let Ok(file) = io::stdin().as_fd().try_clone_to_owned() {
                let fail =
                    |error| Failure::new(exit::RUNNER, format!("cannot read stdin: {error}"));
                return keep(file.into()).map_err(fail);
            }
            Ok(Input::reader(Lazy::new(Box::new(stdio::stdin()))))
        }
    }
}

/// Opening it waits for a writer.
fn named_pipe(path: PathBuf) -> Lazy {
    Lazy::opened_by(Box::new(move || Ok(Box::new(File::open(path)?))))
}

/// Input that can be repeated for another attempt: a file that is not too long, read now.
/// Anything else is a stream.
fn keep(mut file: File) -> io::Result<Input> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > KEPT {
        return Ok(Input::reader(Lazy::new(Box::new(Patient(file)))));
    }
    let mut bytes = Vec::new();
    (&mut file).take(KEPT).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == KEPT {
        // It may have grown meanwhile.
        return Ok(Input::reader(Lazy::new(Box::new(
            Cursor::new(bytes).chain(file),
        ))));
    }
    Ok(Input::bytes(bytes))
}
