//! Runs thousands of inputs through one task, as fast as the machine allows: a batch
//! has room for a number of inputs, so memory use does not depend on how many there are.
//!
//! ```sh
//! cargo run --release --example batch -- [COUNT [thread|process]]
//! ```
//!
//! Counts the words of generated texts and sums the counts. If a worker died, its
//! input is tried again; if a task ends in any other way than completed, the batch
//! ends.

use anyhow::{Context, bail, ensure};
use std::ops::AddAssign;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wrun::{Artifact, Limits, Mode, Outcome, Runner, Task};

/// Maximum number of tasks whose reports were not taken yet.
const IN_FLIGHT: usize = 256;
/// How often an input is tried if workers die.
const ATTEMPTS: usize = 3;

fn main() -> anyhow::Result<()> {
    // In process mode this program is its own worker; this must be the first call in main.
    wrun::worker_hook();

    let mut args = std::env::args().skip(1);
    let count = match args.next() {
        Some(count) => count.parse().context("COUNT is a number")?,
        None => 5_000,
    };
    let mode: Mode = match args.next() {
        Some(name) => name.parse().map_err(anyhow::Error::msg)?,
        None => Mode::Thread,
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(batch(count, mode))
}

async fn batch(count: usize, mode: Mode) -> anyhow::Result<()> {
    let runner = Runner::builder().mode(mode).build()?;
    let guests = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tasks"));
    let task = runner.load(guests.join("wordcount/wordcount.wasm")).await?;
    let began = Instant::now();

    // As many run at the same time as there are processors. The room limits the inputs that
    // are in memory.
    let at_once = std::thread::available_parallelism()?.get();
    let mut batch = runner.batch(at_once, IN_FLIGHT);
    let (mut sum, mut expected, mut cpu) = (Counts::default(), Counts::default(), Duration::ZERO);
    let mut indices = 0..count;
    // Inputs whose worker died, which they need not have caused, and how often.
    let mut again: Vec<(usize, usize)> = Vec::new();
    loop {
        while !batch.is_full()
            && let Some(next) = again.pop().or_else(|| Some((indices.next()?, 1)))
        {
            let pushed = batch.push((next, order(&task, next.0)));
            ensure!(pushed.is_ok(), "there was room");
        }
        // Reports come as tasks end.
        let Some(((index, attempt), report)) = batch.next().await else {
            break;
        };
        let report = report?;
        match &report.outcome {
            Outcome::Completed(_) => {
                sum += Counts::parse(&report.stdout)?;
                expected += Counts::of(&input(index));
                cpu += report.stats.cpu.unwrap_or_default();
            }
            Outcome::Crashed(crash) if attempt < ATTEMPTS => {
                eprintln!("input {index}: {crash}; again");
                again.push((index, attempt + 1));
            }
            other => bail!("input {index}: {other}"),
        }
    }

    let elapsed = began.elapsed();
    println!(
        "{count} inputs in {mode} mode: {} lines, {} words, {} bytes; {elapsed:.2?}, {:.0} a \
         second, {cpu:.2?} of CPU time in guests",
        sum.lines,
        sum.words,
        sum.bytes,
        count as f64 / elapsed.as_secs_f64()
    );
    ensure!(sum == expected, "the host counted {expected:?}");
    Ok(())
}

/// The task for one input.
fn order(task: &Artifact, index: usize) -> Task {
    Task::new(task)
        .name(format!("input {index}"))
        .input(input(index))
        .limits(Limits::default().timeout(Duration::from_secs(60)))
}

/// A text that depends only on the index.
fn input(index: usize) -> String {
    let mut text = String::new();
    for line in 0..index % 7 {
        for word in 0..=index % 11 {
            text.push_str(["wasm ", "task ", "runner "][(line + word) % 3]);
        }
        text.push('\n');
    }
    text
}

#[derive(Debug, Default, PartialEq)]
struct Counts {
    lines: u64,
    words: u64,
    bytes: u64,
}

impl Counts {
    fn parse(output: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(output)?;
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        let mut next = || anyhow::Ok(numbers.next().context("a number is missing")??);
        Ok(Counts {
            lines: next()?,
            words: next()?,
            bytes: next()?,
        })
    }

    fn of(text: &str) -> Self {
        Counts {
            lines: text.lines().count() as u64,
            words: text.split_whitespace().count() as u64,
            bytes: text.len() as u64,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.words += other.words;
        self.bytes += other.bytes;
    }
}
