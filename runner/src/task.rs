//! What to run: an artifact with its arguments, input, grants and limits. Plain
//! data with validation; knows neither modes nor engines.

use crate::sandbox::Artifact;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tokio::io::AsyncRead;

/// Most bytes that all arguments together, and the environment likewise, may
/// have; the same order as Linux allows for `execve`.
pub(crate) const MAX_STRINGS: usize = 1 << 20;

/// Most directories that one task is granted, and most addresses.
const MAX_GRANTS: usize = 256;

/// One run of an artifact: arguments, input, grants and limits.
///
/// Nothing of the outside world is granted by default: no directory, no
/// variable, no socket.
///
/// ```no_run
/// # fn main() -> Result<(), wrun::Error> {
/// use std::time::Duration;
/// use wrun::{DirGrant, Limits, Runner, Task};
///
/// let runner = Runner::builder().build()?;
/// let artifact = runner.load("convert.wasm")?;
/// let report = runner.run(
///     Task::new(&artifact)
///         .args(["--fast"])
///         .input("some text")
///         .dir(DirGrant::new("photos").guest("/in").read_only())
///         .limits(Limits::default().timeout(Duration::from_secs(5))),
/// )?;
/// println!("{}", report.outcome);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a task does nothing until it is submitted"]
pub struct Task {
    pub(crate) artifact: Artifact,
    pub(crate) spec: Spec,
    pub(crate) input: Input,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

/// The part of a task that travels to where it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) dirs: Vec<DirGrant>,
    pub(crate) tcp: Vec<TcpGrant>,
    pub(crate) limits: Limits,
}

impl Task {
    /// A task named after the artifact's file, without arguments, input or
    /// grants, with [`Limits::default`]; stdout and stderr are captured.
    pub fn new(artifact: &Artifact) -> Self {
        Task {
            artifact: artifact.clone(),
            spec: Spec {
                name: artifact.name().to_owned(),
                args: Vec::new(),
                env: Vec::new(),
                dirs: Vec::new(),
                tcp: Vec::new(),
                limits: Limits::default(),
            },
            input: Input::empty(),
            stdout: Stdio::Capture,
            stderr: Stdio::Capture,
        }
    }

    /// The name in reports and in `context.info`; also the first element of the
    /// guest's argument list.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.spec.name = name.into();
        self
    }

    /// Appends arguments. The guest sees them after the task's name.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.spec.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets one environment variable of the guest; the last value counts.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let key = key.into();
        self.spec.env.retain(|(known, _)| *known != key);
        self.spec.env.push((key, value.into()));
        self
    }

    /// What `run` is called with, and what a command reads on stdin.
    pub fn input(mut self, input: impl Into<Input>) -> Self {
        self.input = input.into();
        self
    }

    /// Grants a directory.
    pub fn dir(mut self, grant: DirGrant) -> Self {
        self.spec.dirs.push(grant);
        self
    }

    /// Grants TCP connections to one address.
    pub fn allow_tcp(mut self, grant: TcpGrant) -> Self {
        self.spec.tcp.push(grant);
        self
    }

    /// Replaces the limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.spec.limits = limits;
        self
    }

    /// Where the output goes: what `run` returns, or a command's stdout.
    pub fn stdout(mut self, stdio: Stdio) -> Self {
        self.stdout = stdio;
        self
    }

    /// Where stderr goes. For a task that exports `run`, what it prints to WASI
    /// stdout arrives here too, since its output is what it returns.
    pub fn stderr(mut self, stdio: Stdio) -> Self {
        self.stderr = stdio;
        self
    }
}

impl Spec {
    /// What a run gets that never reaches its guest: no grants, little memory.
    pub(crate) fn rehearsal() -> Self {
        Spec {
            name: "rehearsal".to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dirs: Vec::new(),
            tcp: Vec::new(),
            limits: Limits::default().max_memory(64 << 20),
        }
    }

    /// Checks what can be checked before anything starts.
    pub(crate) fn validate(&mut self) -> Result<(), TaskError> {
        if self.name.contains('\0') || self.args.iter().any(|arg| arg.contains('\0')) {
            return Err(TaskError::Nul {
                what: "an argument",
            });
        }
        let args: usize = self.args.iter().map(|arg| arg.len() + 1).sum();
        if args + self.name.len() > MAX_STRINGS {
            return Err(TaskError::TooLong {
                what: "the arguments",
            });
        }
        for (key, value) in &self.env {
            if key.contains('\0') || value.contains('\0') {
                return Err(TaskError::Nul {
                    what: "an environment variable",
                });
            }
            if key.is_empty() || key.contains('=') {
                return Err(TaskError::EnvName { name: key.clone() });
            }
        }
        let env: usize = self.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum();
        if env > MAX_STRINGS {
            return Err(TaskError::TooLong {
                what: "the environment",
            });
        }
        if self.limits.max_table_elements > Limits::MAX_TABLE_ELEMENTS {
            return Err(TaskError::TooManyTableElements);
        }
        if self.dirs.len() > MAX_GRANTS || self.tcp.len() > MAX_GRANTS {
            return Err(TaskError::TooManyGrants);
        }
        for grant in &mut self.dirs {
            let metadata = std::fs::metadata(&grant.host).map_err(|source| TaskError::Dir {
                path: grant.host.clone(),
                source,
            })?;
            if !metadata.is_dir() {
                return Err(TaskError::NotADir {
                    path: grant.host.clone(),
                });
            }
            // A worker may have another working directory.
            grant.host = std::path::absolute(&grant.host).map_err(|source| TaskError::Dir {
                path: grant.host.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

/// What a task is given to work on.
pub struct Input(pub(crate) InputKind);

pub(crate) enum InputKind {
    Bytes(Bytes),
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

impl Input {
    /// No bytes; a command reads end-of-file at once.
    pub fn empty() -> Self {
        Input(InputKind::Bytes(Bytes::new()))
    }

    /// Bytes at hand.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Input(InputKind::Bytes(bytes.into()))
    }

    /// A stream. A command reads it as it comes, and nothing is read before the
    /// command asks; a task that exports `run` is called once it has ended.
    pub fn reader(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Input(InputKind::Reader(Box::new(reader)))
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            InputKind::Bytes(bytes) => write!(f, "Input({} bytes)", bytes.len()),
            InputKind::Reader(_) => f.write_str("Input(reader)"),
        }
    }
}

impl From<Vec<u8>> for Input {
    fn from(bytes: Vec<u8>) -> Self {
        Input::bytes(bytes)
    }
}

impl From<Bytes> for Input {
    fn from(bytes: Bytes) -> Self {
        Input::bytes(bytes)
    }
}

impl From<String> for Input {
    fn from(text: String) -> Self {
        Input::bytes(text)
    }
}

impl From<&[u8]> for Input {
    fn from(bytes: &[u8]) -> Self {
        Input::bytes(Bytes::copy_from_slice(bytes))
    }
}

impl From<&str> for Input {
    fn from(text: &str) -> Self {
        Input::bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

/// Where one output stream of a task goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stdio {
    /// Kept for the report, up to [`Limits::max_output`].
    #[default]
    Capture,
    /// Handed out as it is produced, by
    /// [`TaskHandle::stdout`](crate::TaskHandle::stdout) or `stderr`. A task
    /// waits while nobody reads.
    Stream,
    /// Thrown away.
    Null,
}

/// The limits of one task, the same in both modes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Limits {
    /// Wall-clock time from submission, queueing included; it also ends a task
    /// that is blocked in a host call. Default: none.
    pub timeout: Option<Duration>,
    /// Units of computation, about one per WebAssembly instruction: a limit that
    /// does not depend on the machine. Metered code is compiled separately and
    /// is up to about two times slower. Default: none.
    pub fuel: Option<u64>,
    /// Linear memory over all memories of the task, in bytes. Growth beyond it
    /// is refused; a task that then traps has exceeded its memory limit.
    /// Default: 512 MiB.
    pub max_memory: u64,
    /// Output that is captured, in bytes, for stdout and for stderr each.
    /// `Some` is also a limit on streamed output. Default: `None`, which is
    /// 16 MiB where output is captured and no limit where it is streamed.
    pub max_output: Option<u64>,
    /// Input, in bytes. Default: `None`, which is 64 MiB for a task that exports
    /// `run` and no limit for a command, which streams.
    pub max_input: Option<u64>,
    /// Elements over all tables of the task. Default, and most there can be:
    /// [`Limits::MAX_TABLE_ELEMENTS`].
    pub max_table_elements: u64,
    /// Core instances within one component. Default: 1,000.
    pub max_instances: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            timeout: None,
            fuel: None,
            max_memory: 512 << 20,
            max_output: None,
            max_input: None,
            max_table_elements: Limits::MAX_TABLE_ELEMENTS,
            max_instances: 1_000,
        }
    }
}

impl Limits {
    /// Table elements at most: 1,000,000. A pool of sandboxes reserves address
    /// space for each.
    pub const MAX_TABLE_ELEMENTS: u64 = 1_000_000;
    /// Captured output by default: 16 MiB.
    pub const CAPTURE_DEFAULT: u64 = 16 << 20;
    /// Input of a task that exports `run` by default: 64 MiB.
    pub const INPUT_DEFAULT: u64 = 64 << 20;

    /// Sets [`Limits::timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets [`Limits::fuel`].
    pub fn fuel(mut self, fuel: u64) -> Self {
        self.fuel = Some(fuel);
        self
    }

    /// Sets [`Limits::max_memory`].
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = bytes;
        self
    }

    /// Sets [`Limits::max_output`].
    pub fn max_output(mut self, bytes: u64) -> Self {
        self.max_output = Some(bytes);
        self
    }

    /// Sets [`Limits::max_input`].
    pub fn max_input(mut self, bytes: u64) -> Self {
        self.max_input = Some(bytes);
        self
    }

    /// Sets [`Limits::max_table_elements`].
    pub fn max_table_elements(mut self, elements: u64) -> Self {
        self.max_table_elements = elements;
        self
    }

    /// Sets [`Limits::max_instances`].
    pub fn max_instances(mut self, instances: u32) -> Self {
        self.max_instances = instances;
        self
    }
}

/// A directory that a task may use, with everything below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirGrant {
    pub(crate) host: PathBuf,
    pub(crate) guest: String,
    pub(crate) read_only: bool,
}

impl DirGrant {
    /// Grants `host` for reading and writing, under the same name.
    pub fn new(host: impl Into<PathBuf>) -> Self {
        let host = host.into();
        let guest = host.to_string_lossy().into_owned();
        DirGrant {
            host,
            guest,
            read_only: false,
        }
    }

    /// The name the guest sees.
    pub fn guest(mut self, path: impl Into<String>) -> Self {
        self.guest = path.into();
        self
    }

    /// Takes away writing, creating, renaming and deleting.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

impl FromStr for DirGrant {
    type Err = TaskError;

    /// `HOST[::GUEST][:ro]`.
    fn from_str(text: &str) -> Result<Self, TaskError> {
        let (text, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let grant = match text.split_once("::") {
            Some((host, guest)) if !guest.is_empty() => DirGrant::new(host).guest(guest),
            Some(_) => {
                return Err(TaskError::DirSyntax {
                    text: text.to_owned(),
                });
            }
            None => DirGrant::new(text),
        };
        if grant.host.as_os_str().is_empty() {
            return Err(TaskError::DirSyntax {
                text: text.to_owned(),
            });
        }
        Ok(if read_only { grant.read_only() } else { grant })
    }
}

/// TCP connections to one port of one host that a task may open.
///
/// Available to components (WASI 0.2); WASI 0.1 has no way to connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpGrant {
    /// As given: a name or an address.
    pub(crate) host: String,
    /// True when `host` is a name, which the guest may then resolve.
    pub(crate) is_name: bool,
    /// What `host` resolved to when the grant was made.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl TcpGrant {
    /// Grants `host:port`. A name is resolved now, once: later answers of the
    /// resolver widen nothing.
    pub fn new(host: &str, port: u16) -> Result<Self, TaskError> {
        use std::net::{IpAddr, ToSocketAddrs};
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(TcpGrant {
                host: bare.to_owned(),
                is_name: false,
                addresses: vec![SocketAddr::new(ip, port)],
            });
        }
        let addresses: Vec<SocketAddr> = (host, port)
            .to_socket_addrs()
            .map_err(|source| TaskError::Resolve {
                host: host.to_owned(),
                source,
            })?
            .take(64)
            .collect();
        Ok(TcpGrant {
            host: host.to_owned(),
            is_name: true,
            addresses,
        })
    }
}

impl FromStr for TcpGrant {
    type Err = TaskError;

    /// `HOST:PORT`, with an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, TaskError> {
        let syntax = || TaskError::TcpSyntax {
            text: text.to_owned(),
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(syntax)?;
        let port: u16 = port.parse().map_err(|_| syntax())?;
        if host.is_empty() || port == 0 {
            return Err(syntax());
        }
        TcpGrant::new(host, port)
    }
}

/// A task's settings that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say it")]
pub enum TaskError {
    #[error("{what} contains a NUL byte")]
    Nul { what: &'static str },
    #[error("{what} have more than 1 MiB")]
    TooLong { what: &'static str },
    #[error("a task has at most {MAX_GRANTS} directories and as many addresses")]
    TooManyGrants,
    #[error("max_table_elements is at most 1,000,000")]
    TooManyTableElements,
    #[error("{name:?} is no name for an environment variable")]
    EnvName { name: String },
    #[error("cannot grant the directory {}: {source}", path.display())]
    Dir {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot grant {}: it is not a directory", path.display())]
    NotADir { path: PathBuf },
    #[error("{text:?} is no directory grant; it is written HOST[::GUEST][:ro]")]
    DirSyntax { text: String },
    #[error("{text:?} is no address to grant; it is written HOST:PORT")]
    TcpSyntax { text: String },
    #[error("cannot resolve {host:?}: {source}")]
    Resolve {
        host: String,
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dir_grants_parse() {
        let grant: DirGrant = "a/b".parse().expect("plain");
        assert_eq!((grant.guest.as_str(), grant.read_only), ("a/b", false));
        let grant: DirGrant = "a::/in:ro".parse().expect("all three");
        assert_eq!(grant, DirGrant::new("a").guest("/in").read_only());
        assert!("".parse::<DirGrant>().is_err());
        assert!("a::".parse::<DirGrant>().is_err());
        assert!("::b".parse::<DirGrant>().is_err());
    }

    #[test]
    fn tcp_grants_parse() {
        let grant: TcpGrant = "127.0.0.1:80".parse().expect("v4");
        assert!(!grant.is_name);
        let grant: TcpGrant = "[::1]:80".parse().expect("v6");
        assert_eq!(grant.addresses, ["[::1]:80".parse().expect("addr")]);
        for bad in [
            "",
            "host",
            ":80",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:99999",
        ] {
            assert!(bad.parse::<TcpGrant>().is_err(), "{bad}");
        }
    }

    #[test]
    fn strings_are_checked() {
        let spec = |env: &[(&str, &str)]| Spec {
            name: "t".into(),
            args: vec![],
            env: env
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
            dirs: vec![],
            tcp: vec![],
            limits: Limits::default(),
        };
        assert!(spec(&[("A", "b")]).validate().is_ok());
        assert!(spec(&[("A=", "b")]).validate().is_err());
        assert!(spec(&[("A", "\0")]).validate().is_err());
        let big = "x".repeat(MAX_STRINGS);
        assert!(spec(&[("A", &big)]).validate().is_err());
    }
}
