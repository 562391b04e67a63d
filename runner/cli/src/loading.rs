//! Loading task files within the allowed time: until a signal arrives or the time is up,
//! with a line on the terminal if compiling takes long.

use super::limit_args::CompilingArgs;
use super::progress;
use super::signals::{Signals, Time, over};
use super::{Failure, exit};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;
use wrun::{Artifact, Compiled, Error, ErrorKind, Limit, Runner};

/// Loading may take as long as the task, and at least this long.
const LOADING: Duration = Duration::from_secs(10);

/// How task files are loaded.
pub(super) struct Loading<'a> {
    pub(super) runner: &'a Runner,
    /// Whether artifacts are loaded, too.
    pub(super) trusted: bool,
    /// Whether compiling is shown.
    pub(super) shown: bool,
    /// The time limit of the task.
    pub(super) timeout: Option<Duration>,
    pub(super) compiling: CompilingArgs,
}

/// Why the task was not loaded, and the exceeded limit with its value.
pub(super) struct NotLoaded {
    pub(super) failure: Failure,
    pub(super) limit: Option<(Limit, Option<u64>)>,
}

impl Loading<'_> {
    /// Loads one.
    pub(super) async fn load(
        &self,
        path: &Path,
        signals: &mut Signals,
    ) -> Result<Artifact, NotLoaded> {
        let loading = async {
            match self.trusted {
                true => self.runner.load_trusted(path).await,
                false => self.runner.load(path).await,
            }
        };
        self.within(path, signals, loading).await
    }

    /// Does something that compiles this task file.
    pub(super) async fn within<T>(
        &self,
        path: &Path,
        signals: &mut Signals,
        loading: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, NotLoaded> {
        let name = path.file_name().unwrap_or(path.as_os_str());
        let name = name.to_string_lossy();
        let (shown, gone) = progress::gone();
        let showing = progress::compiling(&name, self.shown, self.runner, shown);
        let allowed = allowed(self.timeout, self.compiling.compile_timeout);
        let loaded = tokio::select! {
            loaded = loading => loaded.map_err(|error| NotLoaded {
                limit: error.limit().map(|limit| (limit, error.limit_value())),
                failure: failure(error, path),
            }),
            code = signals.next() => Err(NotLoaded {
                failure: Failure::new(code, match code {
                    exit::OUT_OF_TIME => "wrun has used up its processor time (ulimit -t) while \
                                          it loaded the task",
                    _ => "interrupted while loading the task",
                }),
                limit: None,
            }),
            () = over(allowed.map(Time::new)) => Err(self.late(allowed.unwrap_or_default())),
            never = showing => match never {},
        };
        gone.wait();
        loaded
    }

    fn late(&self, allowed: Duration) -> NotLoaded {
        let time = humantime::format_duration(allowed);
        let nanos = u64::try_from(allowed.as_nanos()).unwrap_or(u64::MAX);
        let message = match self.compiling.compile_timeout {
            None => format!(
                "loading the task took longer than the {time} that --timeout allows; \
                 --compile-timeout gives compiling more"
            ),
            Some(_) => format!(
                "loading the task took longer than the {time} that --timeout and \
                 --compile-timeout allow"
            ),
        };
        NotLoaded {
            failure: Failure::new(exit::DEADLINE, message),
            limit: Some((Limit::CompileTime, Some(nanos))),
        }
    }
}

/// A missing file with a plain name may have been meant as a command.
fn failure(error: Error, path: &Path) -> Failure {
    let is_word = path
        .as_os_str()
        .as_bytes()
        .iter()
        .all(u8::is_ascii_alphabetic);
    let is_missing = error.kind() == ErrorKind::NotFound;
    let mut failure = Failure::from(error);
    if is_missing && is_word {
        failure
            .message
            .push_str("; `wrun --help` lists the commands");
    }
    failure
}

/// How long loading may take, given the time limits of the task and of compiling it.
fn allowed(timeout: Option<Duration>, compiling: Option<Duration>) -> Option<Duration> {
    let timeout = timeout?.max(LOADING);
    // If compiling takes too long, the runner reports it, and must be first.
    let compiling = compiling.map_or(Duration::ZERO, |time| time.saturating_add(LOADING));
    Some(timeout.max(compiling))
}

/// A note that each run compiles, if that takes long enough to be noticed.
pub(super) fn compiles_each_time(artifacts: &[Artifact]) -> Option<String> {
    let (mut took, mut because) = (Duration::ZERO, None);
    for Compiled { time, not_kept, .. } in artifacts.iter().filter_map(Artifact::compiled) {
        if let Some(why) = not_kept {
            took += time;
            because.get_or_insert(why);
        }
    }
    let why = because.filter(|_| took > Compiled::NOTICEABLE)?;
    Some(format!(
        "each run compiles, this one for {:.1} s: {why}; WRUN_CACHE_DIR names another directory \
         for compiled code",
        took.as_secs_f64()
    ))
}

#[cfg(test)]
mod tests {
    use super::allowed;
    use std::time::Duration;

    #[test]
    fn a_short_timeout_leaves_time_to_compile() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(allowed(None, None), None);
        assert_eq!(allowed(None, seconds(1)), None);
        assert_eq!(allowed(seconds(1), None), seconds(10));
        assert_eq!(allowed(seconds(30), None), seconds(30));
        assert_eq!(allowed(seconds(1), seconds(300)), seconds(310));
        assert_eq!(allowed(seconds(600), seconds(300)), seconds(600));
        assert_eq!(
            allowed(seconds(1), Some(Duration::MAX)),
            Some(Duration::MAX)
        );
    }
}
