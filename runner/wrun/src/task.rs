//! What to run: an artifact with its arguments, input, grants and limits. Independent of
//! modes and engines.

use crate::task_grant::TaskGrant;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncRead;
use wrun_sandbox::Artifact;
use wrun_sandbox::InputKind;
#[cfg(feature = "http")]
use wrun_sandbox::http::Body;
use wrun_sandbox::port::Port;
#[cfg(feature = "http")]
use wrun_types::grant::HttpGrant;
use wrun_types::grant::{DirGrant, TcpGrant};
use wrun_types::limits::Limits;
use wrun_types::spec::{Spec, Terminals};
use wrun_types::task_error::TaskError;

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
/// let artifact = runner.blocking_load("convert.wasm")?;
/// let report = runner.blocking_run(
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
    pub(crate) spec: Arc<Spec>,
    pub(crate) input: Input,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
    pub(crate) retries: u32,
    pub(crate) grace: Duration,
    pub(crate) port: Option<Port>,
    pub(crate) tasks: Vec<TaskGrant>,
    #[cfg(feature = "http")]
    pub(crate) request: Option<Box<http::Request<Body>>>,
}

impl Task {
    /// The default of [`Task::grace`]: one second.
    pub const GRACE: Duration = Duration::from_secs(1);

    /// Maximum of [`Task::retries`].
    pub const MAX_RETRIES: u32 = 100;

    /// A task named after the artifact's file, without arguments, input or
    /// grants, with [`Limits::default`]; stdout and stderr are captured.
    pub fn new(artifact: &Artifact) -> Self {
        Task {
            artifact: artifact.clone(),
            spec: artifact.spec().clone(),
            input: Input::empty(),
            stdout: Stdio::Capture,
            stderr: Stdio::Capture,
            retries: 0,
            grace: Task::GRACE,
            port: None,
            tasks: Vec::new(),
            #[cfg(feature = "http")]
            request: None,
        }
    }

    fn settings(&mut self) -> &mut Spec {
        Arc::make_mut(&mut self.spec)
    }

    /// The name in reports and in `context.info`; also the first element of the
    /// guest's argument list.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings().name = name.into();
        self
    }

    /// Appends arguments. The guest sees them after the task's name.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.settings()
            .args
            .extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets one environment variable of the guest; the last value counts.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let key = key.into();
        self.settings().env.retain(|(known, _)| *known != key);
        self.settings().env.push((key, value.into()));
        self
    }

    /// The argument of `run`, or a command's stdin.
    pub fn input(mut self, input: impl Into<Input>) -> Self {
        self.input = input.into();
        self
    }

    /// Grants a directory.
    pub fn dir(mut self, grant: DirGrant) -> Self {
        self.settings().dirs.push(grant);
        self
    }

    /// Grants TCP connections to one address.
    pub fn allow_tcp(mut self, grant: TcpGrant) -> Self {
        self.settings().tcp.push(grant);
        self
    }

    /// Grants HTTP requests to a host, which this runner sends.
    #[cfg(feature = "http")]
    pub fn allow_http(mut self, grant: HttpGrant) -> Self {
        self.settings().http.push(grant);
        self
    }

    /// Grants the task to start `artifact`, under a name, with its own limits and no
    /// arguments: short for [`Task::allow_task`].
    pub fn task(self, name: impl Into<String>, artifact: &Artifact) -> Self {
        self.allow_task(TaskGrant::new(name, artifact))
    }

    /// Grants the task to start another one, any number of times, and likewise all
    /// that it starts. They end with the task.
    pub fn allow_task(mut self, grant: TaskGrant) -> Self {
        self.tasks.push(grant);
        self
    }

    /// Replaces the limits.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings().limits = limits;
        self
    }

    /// Where the output goes: what `run` returns, or a command's stdout.
    pub fn stdout(mut self, stdio: Stdio) -> Self {
        self.stdout = stdio;
        self
    }

    /// Where stderr goes. For a task that exports `run`, what it prints to WASI stdout
    /// arrives here too, because its output is what it returns.
    pub fn stderr(mut self, stdio: Stdio) -> Self {
        self.stderr = stdio;
        self
    }

    /// Which of its standard streams are terminals for the task (`isatty`); none by
    /// default. Its output is not examined: the program that shows it on a terminal decides
    /// which control sequences are passed on.
    pub fn terminals(mut self, terminals: Terminals) -> Self {
        self.settings().terminals = terminals;
        self
    }

    /// Gives the task one end of a channel, which it gets from `ports.parent`.
    ///
    /// It must come from [`Runner::channel`](crate::Runner::channel) of the same runner.
    pub fn port(mut self, port: Port) -> Self {
        self.port = Some(port);
        self
    }

    /// The HTTP request that the task answers, for an artifact that
    /// [is an HTTP handler](crate::Shape::is_http); its response is
    /// [`TaskHandle::response`](crate::TaskHandle::response).
    ///
    /// Its URI has a scheme and an authority, or the request has a `host` field; without either
    /// the guest sees `localhost`. Fields that concern the connection (`connection`,
    /// `transfer-encoding`, `upgrade` and the like) do not reach the guest.
    /// [`Limits::max_input`] limits the bytes of the body, [`Limits::max_output`] those of
    /// the response's body; neither has a limit by default, because bodies are streamed.
    #[cfg(feature = "http")]
    pub fn request(mut self, request: http::Request<Body>) -> Self {
        self.request = Some(Box::new(request));
        self
    }

    /// How long the task may continue after it was killed
    /// ([`TaskHandle::kill`](crate::TaskHandle::kill)): it is requested to stop, as by
    /// [`TaskHandle::cancel`](crate::TaskHandle::cancel), and ended if it has not ended by
    /// then. Default: [`Task::GRACE`]. Zero ends it at once; so does killing a task that
    /// cannot observe the request: one that imports neither `context` nor `ports`, or one
    /// that waits in the queue.
    ///
    /// Its children have the same grace period when it kills them ([`TaskGrant::grace`]).
    ///
    /// It does not apply to deadlines and to the end of the runner.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Maximum of new attempts after the task's worker died
    /// ([`Outcome::Crashed`](crate::Outcome::Crashed)), and after nothing else. Default: 0.
    /// More than [`Task::MAX_RETRIES`] are reduced to that. No effect in thread mode, where
    /// a crash ends the whole process.
    ///
    /// An attempt starts again with the same input, and the output of the previous one is
    /// dropped. A new attempt is not possible if some of a streamed input
    /// ([`Input::reader`]) was read, or some of a streamed output ([`Stdio::Stream`]) was
    /// passed on, or if the task had a port, started child tasks or joined a broadcast
    /// channel; the report's [`notes`](crate::Report::notes) then say so. Changes that an
    /// attempt made in granted directories and over the network are not undone.
    ///
    /// Between attempts is a pause of 10 ms, doubling up to 1 s, reduced at random by up to
    /// half. The task keeps its permit meanwhile, its deadline continues to count, and
    /// killing or cancelling it ends it. [`Report::attempt`](crate::Report::attempt)
    /// counts; progress returns to zero.
    pub fn retries(mut self, retries: u32) -> Self {
        self.retries = retries.min(Task::MAX_RETRIES);
        self
    }
}

/// Checks the destinations of output.
pub(crate) fn validate_output(stdout: Stdio, stderr: Stdio) -> Result<(), TaskError> {
    match (stdout, stderr) {
        (Stdio::Stdout, _) => Err(TaskError::NotJoined),
        (Stdio::Stream, Stdio::Stdout) => Ok(()),
        (_, Stdio::Stdout) => Err(TaskError::NotJoined),
        _ => Ok(()),
    }
}

/// The input of a task.
pub struct Input(pub(crate) InputKind);

impl Input {
    /// No bytes; a command reads end-of-file at once.
    pub fn empty() -> Self {
        Input(InputKind::Bytes(Bytes::new()))
    }

    /// Bytes in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Input(InputKind::Bytes(bytes.into()))
    }

    /// A stream. A command reads it as it arrives, and nothing is read before the command
    /// reads; a task that exports `run` is called once the stream has ended.
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
    /// Passed on as it is produced, by
    /// [`TaskHandle::take_stdout`](crate::TaskHandle::take_stdout) or `stderr`. A task
    /// waits while it is not read.
    Stream,
    /// Discarded.
    Null,
    /// Only for [`Task::stderr`], with [`Stdio::Stream`] for stdout: both arrive in one
    /// stream, [`TaskHandle::take_stdout`](crate::TaskHandle::take_stdout), in the order in which
    /// the task writes them, as with `2>&1` in a shell. Each keeps its own limit on
    /// output.
    Stdout,
}
