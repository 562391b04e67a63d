//! What the command line grants to tasks.

use super::read::read;
use super::{Failure, exit};
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueHint};
use std::env::VarError;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wrun::{DirGrant, ErrorKind, HttpGrant, TaskError, TaskGrant, TcpGrant};

/// The grants of the task.
#[derive(Args, Debug)]
pub(crate) struct Grants {
    /// Grant a directory, optionally under another name or read-only (`:ro`; the default is
    /// `:rw`). If wrun is root and
    /// the owners of its files cannot be mapped to another user, the worker runs as root
    /// and a note says so; --uid avoids that
    #[arg(long, value_name = "HOST[::GUEST][:ro|:rw]", value_hint = ValueHint::DirPath, value_parser = OsStringValueParser::new().try_map(dir))]
    pub(crate) dir: Vec<DirGrant>,

    /// Set an environment variable of the task, or pass on the value of wrun's own
    #[arg(long, value_name = "K[=V]", value_parser = OsStringValueParser::new().try_map(variable))]
    pub(crate) env: Vec<(String, String)>,

    /// Grant TCP connections to this address
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) allow_tcp: Vec<TcpGrant>,

    /// Grant HTTP and HTTPS requests to this host (`*.DOMAIN`: all hosts below it); without a
    /// port, those to 80 and 443. The runner sends them
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) allow_http: Vec<HttpGrant>,

    /// Trust these certificate authorities, in PEM, for HTTPS requests of tasks, beside those
    /// on Mozilla's list
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) http_ca: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) children: TaskFiles,
}

/// The tasks that the task may start.
#[derive(Args, Debug)]
pub(crate) struct TaskFiles {
    /// Let the task and its child tasks start FILE under this name; repeat for more names
    #[arg(long, value_name = "NAME=FILE", value_hint = ValueHint::FilePath, value_parser = OsStringValueParser::new().try_map(|text| TaskFile::try_from(&*text)))]
    pub(crate) task: Vec<TaskFile>,
}

impl Grants {
    /// The files that they name.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let tasks = self.children.task.iter().map(|task| &*task.file);
        tasks.chain(self.http_ca.as_deref())
    }

    /// The certificate authorities for HTTP requests; none given is an empty list.
    /// A pipe may have its writer for `patience`.
    pub(super) fn http_authorities(&self, patience: Option<Duration>) -> Result<Vec<u8>, Failure> {
        /// Larger than every list in use.
        const MAX: u64 = 16 << 20;

        let Some(path) = &self.http_ca else {
            return Ok(Vec::new());
        };
        let failed = |code, why: &dyn std::fmt::Display| {
            let message = format!("--http-ca {}: {why}", path.display());
            Failure::new(code, message)
        };
        match read(path, MAX, patience) {
            Err(error) => Err(failed(exit::of_reading(&error), &error)),
            Ok(pem) if pem.len() as u64 > MAX => {
                Err(failed(exit::USAGE, &"the file is larger than 16 MiB"))
            }
            // An empty list would be none.
            Ok(pem) if pem.is_empty() => Err(failed(
                exit::USAGE,
                &"expected certificates in PEM: the file is empty",
            )),
            Ok(pem) => Ok(pem),
        }
    }

    /// An error of making the runner, which may be about these certificate authorities: nothing
    /// else is invalid by then.
    pub(super) fn failure(&self, error: wrun::Error) -> Failure {
        match (&self.http_ca, error.kind()) {
            (Some(path), ErrorKind::InvalidTask) => {
                let message = format!("--http-ca {}: {error}", path.display());
                Failure::new(exit::USAGE, message)
            }
            _ => error.into(),
        }
    }
}

impl TaskFiles {
    /// Before anything is loaded: two tasks cannot have the same name.
    pub(super) fn check(&self) -> Result<(), Failure> {
        for (at, TaskFile { name, .. }) in self.task.iter().enumerate() {
            if self.task[..at].iter().any(|other| other.name == *name) {
                let message =
                    format!("--task {name} is given twice: expected a name for each task");
                return Err(Failure::new(exit::USAGE, message));
            }
        }
        Ok(())
    }
}

/// A directory to grant.
fn dir(text: OsString) -> Result<DirGrant, TaskError> {
    DirGrant::try_from(&*text)
}

/// A variable of the task with its value, which may be that of this process.
fn variable(text: OsString) -> Result<(String, String), String> {
    // WASI's strings are UTF-8.
    let Some(text) = text.to_str() else {
        return Err("a task's variables must be UTF-8".into());
    };
    if text.is_empty() || text.starts_with('=') {
        return Err("expected NAME=VALUE or NAME: there is no name".into());
    }
    if let Some((key, value)) = text.split_once('=') {
        return Ok((key.to_owned(), value.to_owned()));
    }
    match std::env::var(text) {
        Ok(value) => Ok((text.to_owned(), value)),
        Err(VarError::NotPresent) => Err(
            "there is no such variable in wrun's environment: expected NAME=VALUE, or the name \
                 of one that is set"
                .into(),
        ),
        Err(VarError::NotUnicode(_)) => {
            Err("its value in this process is not UTF-8, as a task's variables must be".into())
        }
    }
}

/// A task that the task may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskFile {
    pub(crate) name: String,
    pub(crate) file: PathBuf,
}

impl TryFrom<&OsStr> for TaskFile {
    type Error = String;

    fn try_from(text: &OsStr) -> Result<Self, String> {
        let written = |wrong: &str| Err(format!("{wrong}: it is written NAME=FILE"));
        let bytes = text.as_bytes();
        let Some(at) = bytes.iter().position(|byte| *byte == b'=') else {
            return written("there is no `=`");
        };
        let (name, file) = (&bytes[..at], &bytes[at + 1..]);
        if name.is_empty() {
            return written("there is no name before the `=`");
        }
        if file.is_empty() {
            return written("there is no file after the `=`");
        }
        if name.len() > TaskGrant::MAX_NAME {
            return Err(format!("a name has up to {} bytes", TaskGrant::MAX_NAME));
        }
        let Ok(name) = std::str::from_utf8(name) else {
            return Err("the name must be UTF-8; the file's need not".into());
        };
        Ok(TaskFile {
            name: name.to_owned(),
            file: OsStr::from_bytes(file).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_to_start() {
        let parse = |text: &[u8]| TaskFile::try_from(OsStr::from_bytes(text));
        let parsed = parse(b"a=b=c.wasm");
        let (name, file) = ("a".to_owned(), "b=c.wasm".into());
        assert_eq!(parsed, Ok(TaskFile { name, file }));
        for (bad, why) in [
            ("", "no `=`"),
            ("a", "no `=`"),
            ("=", "no name"),
            ("=b.wasm", "no name"),
            ("a=", "no file"),
            (&format!("{}=b.wasm", "x".repeat(257)), "256 bytes"),
        ] {
            let told = parse(bad.as_bytes()).expect_err(bad);
            assert!(told.contains(why), "{bad}: {told}");
        }
        assert!(parse(b"\xff=b.wasm").is_err());
        let file = parse(b"a=\xff.wasm").expect("a file's name").file;
        assert_eq!(file.as_os_str().as_bytes(), b"\xff.wasm");
    }
}
