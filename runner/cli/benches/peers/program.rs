//! The program of a peer while it runs, and the memory and processor time of it and its
//! descendants.

use anyhow::{Context, bail, ensure};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};
use wrun_compare::measure::{Memory, descendants};

/// How long any answer may take, and how long a program may take to end.
const PATIENCE: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(2);

/// How to start one.
pub(crate) struct Started {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

/// A peer that was started.
pub(crate) struct Program {
    child: Child,
    to: Option<ChildStdin>,
    from: Receiver<std::io::Result<String>>,
}

impl Program {
    pub(crate) fn start(how: &Started, cache: &Path, stderr: Stdio) -> anyhow::Result<Self> {
        let mut child = Command::new(&how.program)
            .args(&how.arguments)
            .envs(how.environment.iter().map(|(key, value)| (key, value)))
            .env("XDG_CACHE_HOME", cache)
            .env_remove("WRUN_CACHE_DIR")
            .env_remove("EXTISM_CACHE_CONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("cannot start {}", how.program.display()))?;
        let to = child.stdin.take();
        let stdout = child.stdout.take().context("no stdout")?;
        let (sender, from) = sync_channel(1);
        // It ends with the program's stdout.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Program { child, to, from })
    }

    /// An order, and the line that answers it.
    pub(crate) fn ask(&mut self, order: &str) -> anyhow::Result<String> {
        let to = self.to.as_mut().context("no stdin")?;
        writeln!(to, "{order}")?;
        let answer = match self.from.recv_timeout(PATIENCE) {
            Ok(line) => line?,
            Err(RecvTimeoutError::Timeout) => bail!("{order}: no answer in {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("{order}: the program ended"),
        };
        ensure!(!answer.starts_with("error: "), "{order}: {answer}");
        Ok(answer)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Its stdin ends, and so should it.
        self.to = None;
        let began = Instant::now();
        while began.elapsed() < END {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The proportional set size of all descendants of a process, and of itself unless it is this
/// one; in bytes.
pub(crate) fn memory_of(process: u32) -> anyhow::Result<f64> {
    let own = Some(process).filter(|it| *it != std::process::id());
    let mut sum = 0.0;
    for process in own.into_iter().chain(descendants(process)) {
        if let Ok(memory) = Memory::of(&process.to_string()) {
            sum += memory.proportional;
            continue;
        }
        // It ended, or this user may not read it.
        let alive = std::fs::read(format!("/proc/{process}/cmdline"));
        ensure!(
            alive.unwrap_or_default().is_empty(),
            "the memory of process {process} cannot be read"
        );
    }
    Ok(sum)
}

/// The processor time of a process, of those of its descendants that live and of those that it or
/// they have waited for, in nanoseconds. The kernel gives it in hundredths of a second.
pub(crate) fn processor_time_of(process: u32) -> anyhow::Result<f64> {
    let mut ticks = ticks_of(process).context("the program has ended")?;
    for process in descendants(process) {
        // One that has ended meanwhile is counted where it was waited for.
        ticks += ticks_of(process).unwrap_or(0);
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(ticks as f64 * 1e9 / rustix::param::clock_ticks_per_second() as f64)
}

/// `utime`, `stime`, `cutime` and `cstime` of proc(5).
fn ticks_of(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before it may have any character.
    let (_, fields) = stat.rsplit_once(')')?;
    let times = fields.split_whitespace().skip(11).take(4);
    times.map(|ticks| ticks.parse::<u64>().ok()).sum()
}
