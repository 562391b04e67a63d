//! Where inputs come from: files, lines, JSON lines, rows of CSV, pieces of a large file.
//!
//! Each source is an iterator that blocks; a thread runs it ([`Pumped`](crate::Pumped)). None keeps
//! more than one record, and each record has a maximum length.

mod files;
mod json_lines;
mod lines;
mod records;
mod rows;
mod split;

use crate::error::Error;
use crate::pump::{Inputs, Reading};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The buffer of a reader.
const BUFFER: usize = 64 << 10;

/// What the inputs are.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Source {
    /// Files: these paths, directories with all below them in sorted order, patterns such as
    /// `*.png` that are not the name of a file, and then those that a file lists.
    Files {
        /// Paths and patterns.
        paths: Vec<PathBuf>,
        /// A file with one path in each line; `-` is stdin.
        list: Option<PathBuf>,
        /// Files and directories where results go. Files in them are refused, or left out of a
        /// directory.
        results: Vec<PathBuf>,
    },
    /// Each line of these files.
    Lines(Vec<PathBuf>),
    /// Each line of these files, which is JSON.
    JsonLines {
        /// The files.
        files: Vec<PathBuf>,
        /// The field that is the input: a key, or a JSON pointer that begins with `/`. `None` for
        /// the whole line.
        field: Option<String>,
    },
    /// Each row of these files in CSV (RFC 4180), which begin with a row of names.
    Rows {
        /// The files.
        files: Vec<PathBuf>,
        /// The column that is the input; `None` for the row as a JSON object.
        field: Option<String>,
        /// What separates fields.
        delimiter: u8,
    },
    /// Pieces of these files, which end at line ends.
    Split {
        /// The files.
        files: Vec<PathBuf>,
        /// The size of a piece in bytes, which only a longer line exceeds.
        size: u64,
    },
}

/// How records are read.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// What ends a line, or a path of a list: a line feed, or NUL.
    pub end: u8,
    /// The maximum length of a line, a row or a piece. Default: [`Reader::MAX_RECORD`].
    pub max_record: u64,
}

impl Reader {
    /// 16 MiB.
    pub const MAX_RECORD: u64 = 16 << 20;
}

impl Default for Reader {
    fn default() -> Self {
        Reader {
            end: b'\n',
            max_record: Reader::MAX_RECORD,
        }
    }
}

impl Source {
    /// The inputs, in their order.
    pub fn open(self, reader: Reader, reading: Reading) -> Inputs {
        let Reader { end, max_record } = reader;
        match self {
            Source::Files {
                paths,
                list,
                results,
            } => files::files(paths, list, &results, end, max_record, &reading),
            Source::Lines(files) => each(files, reading, move |path, file| {
                Box::new(lines::lines(path, file, end, max_record))
            }),
            Source::JsonLines { files, field } => each(files, reading, move |path, file| {
                Box::new(json_lines::json_lines(
                    path,
                    file,
                    field.clone(),
                    max_record,
                ))
            }),
            Source::Rows {
                files,
                field,
                delimiter,
            } => each(files, reading, move |path, file| {
                Box::new(rows::Rows::new(
                    path,
                    file,
                    field.clone(),
                    delimiter,
                    max_record,
                ))
            }),
            Source::Split { files, size } => each(files, reading, move |path, file| {
                Box::new(split::Split::new(path, file, size, max_record))
            }),
        }
    }

    /// What the inputs are, as text, for the identity of a journal.
    pub fn describe(&self) -> String {
        format!("{self:?}")
    }
}

type Opened = BufReader<crate::pump::Metered<Box<dyn Read + Send>>>;

/// The inputs of files, one after another.
fn each(
    files: Vec<PathBuf>,
    reading: Reading,
    read: impl Fn(PathBuf, Opened) -> Inputs + Send + 'static,
) -> Inputs {
    // Their sizes first, for the time that is left.
    for path in files.iter().filter(|path| !is_stdin(path)) {
        let metadata = path.metadata();
        let size = metadata.map_or(0, |it| if it.is_file() { it.len() } else { 0 });
        reading.meter().add_size(size);
    }
    let mut failed = false;
    let opened = files.into_iter().map(move |path| match open(&path) {
        Ok(file) => read(path, BufReader::with_capacity(BUFFER, reading.reader(file))),
        Err(source) => Box::new(std::iter::once(Err(Error::Source { path, source }))),
    });
    // After an error nothing follows.
    Box::new(opened.flatten().take_while(move |input| {
        let goes_on = !failed;
        failed = input.is_err();
        goes_on
    }))
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

fn open(path: &Path) -> io::Result<Box<dyn Read + Send>> {
    if is_stdin(path) {
        return Ok(Box::new(Stdin));
    }
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(Box::new(file))
}

/// Stdin without a lock and a buffer of the program's, which may be non-blocking.
struct Stdin;

impl Read for Stdin {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        use rustix::event::{PollFd, PollFlags, poll};
        let stdin = rustix::stdio::stdin();
        loop {
            match rustix::io::read(stdin, &mut *bytes) {
                Err(rustix::io::Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&stdin, PollFlags::IN)], None)?;
                }
                read => return Ok(read?),
            }
        }
    }
}

/// An error of reading a file.
fn failed(path: &Path, source: io::Error) -> Error {
    Error::Source {
        path: path.to_owned(),
        source,
    }
}

/// The name of the n-th record of a file, n from 1.
fn named(path: &Path, number: u64) -> String {
    format!("{}:{number}", path.display())
}

trait Buffered: BufRead + Send + 'static {}
impl<R: BufRead + Send + 'static> Buffered for R {}

#[cfg(test)]
mod tests;
