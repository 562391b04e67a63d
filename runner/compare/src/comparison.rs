//! What to compare and for how long: the settings for embedders.

use super::results::{Fault, Measure};
use bytes::Bytes;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;
use wrun::measure::WholeRequest;
use wrun::{Builder, DirGrant, HttpGrant, Limits, Mode, ProcessOptions, TcpGrant};

/// A task to compare both modes with. Plain settings; [`Comparison::run`] measures.
///
/// CPU time, page faults, context switches, descriptors and the memory of threads are
/// counted for the whole process: other work of it, and its other children, are included in
/// these rows.
///
/// ```no_run
/// # fn main() -> Result<(), wrun::Error> {
/// wrun_compare::worker_hook();
/// let results = wrun_compare::Comparison::new("resize.wasm")
///     .args(["640"])
///     .input(std::fs::read("in.png").unwrap())
///     .run()?;
/// std::fs::write("compared.html", results.to_html()).unwrap();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is compared until run is called"]
pub struct Comparison {
    pub(super) task: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) dirs: Vec<DirGrant>,
    pub(super) tcp: Vec<TcpGrant>,
    pub(super) http: Vec<HttpGrant>,
    pub(super) tasks: Vec<(String, PathBuf)>,
    pub(super) input: Bytes,
    pub(super) request: Option<WholeRequest>,
    pub(super) limits: Limits,
    pub(super) rounds: u32,
    pub(super) budget: Duration,
    pub(super) measures: Vec<Measure>,
    pub(super) faults: Vec<Fault>,
    pub(super) builder: Builder,
    pub(super) command: Vec<String>,
    pub(super) hooks: Hooks,
}

/// For wrun's own tests: deliberate errors of measurement.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hooks {
    /// A mode in which each task takes this much longer.
    pub(super) slowed: Option<(Mode, Duration)>,
    /// The factor by which floors are reported too high.
    pub(super) floors: Option<f64>,
}

/// The progress of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step<'a> {
    /// The current measurement, for people.
    pub what: &'a str,
    /// The completed part of all measurements, in thousandths.
    pub done: u32,
}

/// Called at each step; returns whether to continue.
pub(super) type Watch<'a> = &'a mut dyn FnMut(Step<'_>) -> ControlFlow<()>;

impl Comparison {
    /// The default of [`Comparison::rounds`].
    pub const ROUNDS: u32 = 40;
    /// Maximum of [`Comparison::rounds`].
    pub const MAX_ROUNDS: u32 = 10_000;
    /// The default of [`Comparison::budget`]: 30 seconds.
    pub const BUDGET: Duration = Duration::from_secs(30);
    /// The time limit of a task without another: 10 seconds.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// Compares the modes with this task file, with the defaults: no arguments, no
    /// input, nothing granted, [`Limits::default`] with [`Comparison::TIMEOUT`],
    /// everything measured.
    pub fn new(task: impl Into<PathBuf>) -> Self {
        let task = task.into();
        Comparison {
            command: vec!["wrun".into(), "compare".into()],
            task,
            args: Vec::new(),
            env: Vec::new(),
            dirs: Vec::new(),
            tcp: Vec::new(),
            http: Vec::new(),
            tasks: Vec::new(),
            input: Bytes::new(),
            request: None,
            limits: Limits::default().timeout(Comparison::TIMEOUT),
            rounds: Comparison::ROUNDS,
            budget: Comparison::BUDGET,
            measures: Measure::ALL.to_vec(),
            faults: Fault::ALL.to_vec(),
            builder: Builder::default(),
            hooks: Hooks::default(),
        }
    }

    /// Appends arguments of the task.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The input of each run of the task. Default: empty.
    pub fn input(mut self, input: impl Into<Bytes>) -> Self {
        self.input = input.into();
        self
    }

    /// The request that each run of an HTTP handler answers; an error for other tasks. Its URI
    /// is absolute, or it has a `host` field. Default, for handlers: `GET http://localhost/`.
    pub fn request(mut self, request: http::Request<Bytes>) -> Self {
        self.request = Some(WholeRequest::of(&request));
        self
    }

    /// Sets a variable of the task.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Grants a directory. Each run finds in it what earlier runs have left.
    pub fn dir(mut self, grant: DirGrant) -> Self {
        self.dirs.push(grant);
        self
    }

    /// Grants TCP connections to one address.
    pub fn allow_tcp(mut self, grant: TcpGrant) -> Self {
        self.tcp.push(grant);
        self
    }

    /// Grants HTTP requests to a host.
    pub fn allow_http(mut self, grant: HttpGrant) -> Self {
        self.http.push(grant);
        self
    }

    /// Certificate authorities for these requests, as [`Builder::http_authorities`].
    pub fn http_authorities(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.builder = self.builder.http_authorities(pem);
        self
    }

    /// Grants the task to start another one, under a name.
    pub fn task(mut self, name: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        self.tasks.push((name.into(), file.into()));
        self
    }

    /// Replaces the limits of each run. A time limit is required: a task without one gets
    /// [`Comparison::TIMEOUT`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self.limits.timeout.get_or_insert(Comparison::TIMEOUT);
        self
    }

    /// How often each row is measured, in turns with the others; less often if the budget
    /// does not suffice. Default: [`Comparison::ROUNDS`]; 1 to [`Comparison::MAX_ROUNDS`].
    pub fn rounds(mut self, rounds: u32) -> Self {
        self.rounds = rounds.clamp(1, Comparison::MAX_ROUNDS);
        self
    }

    /// How long measuring costs may take, approximately; faults take some seconds more.
    /// Rows that do not fit are left out, and the results say so. Default:
    /// [`Comparison::BUDGET`].
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// The rows of cost to measure. Default: all.
    pub fn measures(mut self, measures: impl IntoIterator<Item = Measure>) -> Self {
        self.measures = measures.into_iter().collect();
        self
    }

    /// The faults to inject. Default: all.
    pub fn faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.faults = faults.into_iter().collect();
        self
    }

    /// Settings of process mode, as [`Builder::process`]; the comparison itself sets those
    /// for starting, spares, reuse and idle workers. The [worker](ProcessOptions::worker)
    /// is also the program for measuring floors, and for faults that would end this
    /// program.
    pub fn process(mut self, options: ProcessOptions) -> Self {
        self.builder = self.builder.process(options);
        self
    }

    /// How long compiling the task may take, as [`Builder::compile_timeout`].
    pub fn compile_timeout(mut self, time: Duration) -> Self {
        self.builder = self.builder.compile_timeout(time);
        self
    }

    /// Memory that compiling the task may take, as [`Builder::compile_memory`].
    pub fn compile_memory(mut self, bytes: u64) -> Self {
        self.builder = self.builder.compile_memory(bytes);
        self
    }

    /// The command that the results name for measuring again, up to the task. Default:
    /// `wrun compare`, without these settings.
    pub fn command<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// For wrun's own tests: each task takes this much longer in one mode.
    #[cfg(feature = "test-hooks")]
    #[doc(hidden)]
    pub fn slowed(mut self, mode: Mode, by: Duration) -> Self {
        self.hooks.slowed = Some((mode, by));
        self
    }

    /// For wrun's own tests: floors are reported too high by this factor.
    #[cfg(feature = "test-hooks")]
    #[doc(hidden)]
    pub fn wrong_floors(mut self, factor: f64) -> Self {
        self.hooks.floors = Some(factor);
        self
    }

    /// The command that measures this again, or a part of it.
    pub(super) fn command_for(&self, only: Option<&str>) -> String {
        let mut words = self.command.clone();
        if let Some(only) = only {
            words.extend(["--only".into(), only.into()]);
        }
        words.push(self.task.display().to_string());
        if self.args.iter().any(|arg| arg.starts_with('-')) {
            words.push("--".into());
        }
        words.extend(self.args.iter().cloned());
        words
            .iter()
            .map(|word| quoted(word))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// A word quoted for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_typed_again() {
        let comparison = Comparison::new("it's/a task.wasm").args(["-n", "", "$HOME"]);
        assert_eq!(
            comparison.command_for(Some("warm")),
            r"wrun compare --only warm 'it'\''s/a task.wasm' -- -n '' '$HOME'"
        );
    }
}
