//! Runs thousands of inputs through one task, as fast as the machine allows:
//! `submit` waits while the queue is full, so memory use does not depend on the
//! number of inputs.
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
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use wrun::{Artifact, Limits, Mode, Outcome, Report, Runner, Task, TaskHandle};

/// Maximum number of submitted tasks whose results were not taken yet.
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
    let runner = Arc::new(Runner::builder().mode(mode).max_queued(64).build()?);
    let guests = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tasks"));
    let task = runner.load(guests.join("wordcount/wordcount.wasm")).await?;
    let began = Instant::now();

    // One side submits, the other takes results in the order of the inputs. The
    // capacity of the channel between them limits the tasks in flight.
    let (sender, mut submitted) = mpsc::channel::<(usize, TaskHandle)>(IN_FLIGHT);
    let submitting = tokio::spawn({
        let (runner, task) = (runner.clone(), task.clone());
        async move {
            for index in 0..count {
                let handle = runner.submit(order(&task, index)).await?;
                if sender.send((index, handle)).await.is_err() {
                    break;
                }
            }
            anyhow::Ok(())
        }
    });
    let (mut sum, mut expected, mut cpu) = (Counts::default(), Counts::default(), Duration::ZERO);
    while let Some((index, handle)) = submitted.recv().await {
        let report = finished(&runner, &task, index, handle).await?;
        sum += Counts::parse(&report.stdout)?;
        expected += Counts::of(&input(index));
        cpu += report.stats.cpu.unwrap_or_default();
    }
    submitting.await??;

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

/// Waits for a result; tries again if the worker died, which need not be caused by
/// the input.
async fn finished(
    runner: &Runner,
    task: &Artifact,
    index: usize,
    mut handle: TaskHandle,
) -> anyhow::Result<Report> {
    for _ in 1..ATTEMPTS {
        let report = handle.report().await?;
        match &report.outcome {
            Outcome::Completed(_) => return Ok(report),
            Outcome::Crashed(crash) => eprintln!("input {index}: {crash}; again"),
            other => bail!("input {index}: {other}"),
        }
        handle = runner.submit(order(task, index)).await?;
    }
    let report = handle.report().await?;
    ensure!(
        report.outcome.is_completed(),
        "input {index}: {}",
        report.outcome
    );
    Ok(report)
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
