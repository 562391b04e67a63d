//! Files: named, listed, matched by a pattern, or found in a directory.

use super::records::{Record, Records, too_long};
use super::{BUFFER, failed, is_stdin, open};
use crate::error::Error;
use crate::input::{FileInput, Input, Payload};
use crate::pump::{Inputs, Reading};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

pub(super) fn files(
    paths: Vec<PathBuf>,
    list: Option<PathBuf>,
    results: &[PathBuf],
    end: u8,
    most: u64,
    reading: &Reading,
) -> Inputs {
    let results = Outside(results.iter().filter_map(|it| whole(it)).collect());
    let listed = list.map(|path| listed(path, end, most, reading.clone(), results.clone()));
    let named = paths
        .into_iter()
        .flat_map(move |path| named(path, &results));
    Box::new(named.map(Ok).chain(listed.into_iter().flatten()))
}

/// Paths that a file lists. They are not patterns, and directories are walked.
fn listed(
    path: PathBuf,
    end: u8,
    most: u64,
    reading: Reading,
    results: Outside,
) -> impl Iterator<Item = Result<Input, Error>> + Send {
    let opened = match open(&path) {
        Ok(file) => {
            let reader = BufReader::with_capacity(BUFFER, reading.reader(file));
            Ok(Records::new(reader, end, most))
        }
        Err(error) => Err(Some(failed(&path, error))),
    };
    let mut opened = opened;
    let mut walked: Box<dyn Iterator<Item = Input> + Send> = Box::new(std::iter::empty());
    std::iter::from_fn(move || {
        loop {
            if let Some(input) = walked.next() {
                return Some(Ok(input));
            }
            let records = match &mut opened {
                Ok(records) => records,
                Err(error) => return error.take().map(Err),
            };
            let record = match records.next() {
                Ok(record) => record?,
                Err(error) => {
                    opened = Err(None);
                    return Some(Err(failed(&path, error)));
                }
            };
            walked = match record {
                Record::Whole(bytes) if bytes.is_empty() => continue,
                Record::Whole(bytes) => of_path(OsString::from_vec(bytes).into(), &results),
                Record::TooLong(len) => {
                    let name = path.display().to_string();
                    Box::new(std::iter::once(Input::unusable(name, too_long(len, most))))
                }
            };
        }
    })
}

/// The inputs of a path or pattern of the command line.
fn named(path: PathBuf, results: &Outside) -> Box<dyn Iterator<Item = Input> + Send> {
    let text = path.to_str().unwrap_or_default();
    let is_pattern = text.contains(['*', '?', '[']) && fs::symlink_metadata(&path).is_err();
    if !is_pattern {
        return of_path(path, results);
    }
    let name = text.to_owned();
    let mut matches = match glob::glob(text) {
        Ok(matches) => matches.peekable(),
        Err(error) => {
            let why = format!("not a pattern: {error}");
            return Box::new(std::iter::once(Input::unusable(name, why)));
        }
    };
    if matches.peek().is_none() {
        let why = "no file matches this pattern";
        return Box::new(std::iter::once(Input::unusable(name, why)));
    }
    let results = results.clone();
    Box::new(matches.flat_map(move |found| match found {
        Ok(path) => of_path(path, &results),
        Err(error) => {
            let name = error.path().display().to_string();
            let why = unreadable(error.path(), error.error());
            Box::new(std::iter::once(Input::unusable(name, why)))
        }
    }))
}

/// A file, or all files below a directory.
fn of_path(path: PathBuf, results: &Outside) -> Box<dyn Iterator<Item = Input> + Send> {
    let name = path.display().to_string();
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) => {
            let why = unreadable(&path, &error);
            return Box::new(std::iter::once(Input::unusable(name, why)));
        }
    };
    if !metadata.is_dir() {
        let input = results.check(file(name, path, &metadata));
        return Box::new(std::iter::once(input));
    }
    let root = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
    let results = results.clone();
    // Results of this run are not its inputs.
    let is_input = {
        let path = path.clone();
        move |entry: &DirEntry| {
            let below = entry.path().strip_prefix(&path);
            below.is_ok_and(|below| !results.has(&root.join(below)))
        }
    };
    let walk = WalkDir::new(path).min_depth(1).sort_by_file_name();
    let walk = walk.into_iter().filter_entry(is_input);
    Box::new(walk.filter_map(|entry| match entry {
        Ok(entry) => found(&entry),
        Err(error) => {
            let path = error.path().unwrap_or(Path::new("")).to_owned();
            let error = io::Error::from(error);
            let why = unreadable(&path, &error);
            Some(Input::unusable(path.display().to_string(), why))
        }
    }))
}

/// An entry of a directory, unless it is one itself. Links to directories are not followed.
fn found(entry: &DirEntry) -> Option<Input> {
    if entry.file_type().is_dir() {
        return None;
    }
    let (path, name) = (entry.path(), entry.path().display().to_string());
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Some(file(name, path.to_owned(), &metadata)),
        // Pipes, sockets and devices are for others.
        Ok(_) => None,
        Err(error) => Some(Input::unusable(name, unreadable(path, &error))),
    }
}

fn file(name: String, path: PathBuf, metadata: &Metadata) -> Input {
    if is_stdin(&path) || !metadata.is_file() {
        return Input::unusable(name, "not a regular file");
    }
    let modified = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    Input {
        name,
        payload: Ok(Payload::File(FileInput {
            path,
            len: metadata.len(),
            modified,
        })),
        carried: None,
    }
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

/// Files and directories of results. No input may be in them: it could be overwritten.
#[derive(Clone)]
struct Outside(Vec<PathBuf>);

impl Outside {
    fn has(&self, path: &Path) -> bool {
        self.0.iter().any(|result| path.starts_with(result))
    }

    fn check(&self, input: Input) -> Input {
        let (false, Ok(Payload::File(file))) = (self.0.is_empty(), &input.payload) else {
            return input;
        };
        match fs::canonicalize(&file.path) {
            Ok(path) if self.has(&path) => {
                let why = "the file is where results of this run go, and could be overwritten";
                Input::unusable(input.name, why)
            }
            _ => input,
        }
    }
}

/// The real name of a file that need not exist.
fn whole(path: &Path) -> Option<PathBuf> {
    let exists = fs::canonicalize(path);
    exists.ok().or_else(|| {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Some(fs::canonicalize(folder).ok()?.join(path.file_name()?))
    })
}
