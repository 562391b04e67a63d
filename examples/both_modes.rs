//! Runs one task in both modes: the outcome and the output are the same, the cost
//! is different.
//!
//! ```sh
//! cargo run --release --example both_modes -- [TASK [INPUT]]
//! ```
//!
//! Without arguments it renders a Markdown file. Exits with 1 if the results of
//! the modes differ.

use anyhow::{Context, ensure};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use wrun::{Mode, Report, Runner, Task};

/// Number of runs after the first; the median run is shown.
const RUNS: usize = 21;

fn main() -> anyhow::Result<()> {
    // In process mode this program is its own worker; this must be the first call in main.
    wrun::worker_hook();

    let guests = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tasks"));
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let task = args
        .next()
        .unwrap_or_else(|| guests.join("markdown/markdown.wasm"));
    let input = match args.next() {
        Some(path) => path,
        None => guests.join("inputs/article.md"),
    };
    let input =
        std::fs::read(&input).with_context(|| format!("cannot read {}", input.display()))?;

    println!(
        "{:8} {:>10} {:>10} {:>10} {:>10} {:>10} {:>12} {:>8}",
        "mode", "load", "first", "start", "run", "total", "memory", "output"
    );
    let [thread, process] = [Mode::Thread, Mode::Process].map(|mode| measure(mode, &task, &input));
    let (thread, process) = (thread?, process?);

    println!("both: {}", thread.outcome);
    ensure!(
        thread.outcome == process.outcome && thread.stdout == process.stdout,
        "the modes disagree: {} in thread mode, {} in process mode",
        thread.outcome,
        process.outcome
    );
    Ok(())
}

/// Loads and runs the task in one mode, prints the cost, and returns the report of
/// the median run.
fn measure(mode: Mode, task: &PathBuf, input: &[u8]) -> anyhow::Result<Report> {
    let runner = Runner::builder().mode(mode).build()?;
    let began = Instant::now();
    let artifact = runner.blocking_load(task)?;
    let load = began.elapsed();
    let first = runner.blocking_run(Task::new(&artifact).input(input))?;

    let mut reports = (0..RUNS)
        .map(|_| runner.blocking_run(Task::new(&artifact).input(input)))
        .collect::<Result<Vec<_>, _>>()?;
    reports.sort_by_key(|report| report.stats.total);
    let report = reports.swap_remove(RUNS / 2);

    let stats = &report.stats;
    let memory = stats
        .peak_memory_bytes
        .map_or("?".into(), |bytes| format!("{} KiB", bytes / 1024));
    println!(
        "{mode:8} {:>10} {:>10} {:>10} {:>10} {:>10} {memory:>12} {:>8}",
        millis(load),
        millis(first.stats.total),
        millis(stats.start),
        millis(stats.run),
        millis(stats.total),
        report.stdout.len(),
    );
    Ok(report)
}

fn millis(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}
