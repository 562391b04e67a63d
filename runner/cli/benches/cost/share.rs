//! Work that tasks share, compared with one task that does all of it.

use crate::measure::Bench;
use crate::{guest, wrun_program};
use anyhow::{Context, ensure};
use std::time::Duration;
use wrun::{Artifact, Limits, Mode, ProcessOptions, Runner, Task};

/// Bytes of text, in which words are counted.
const TEXT: usize = 32 << 20;

/// Numbers that are sorted.
const NUMBERS: usize = 4 << 20;

const ROWS: [(&str, Mode, &str); 4] = [
    ("share words by 2 tasks, thread", Mode::Thread, "count"),
    ("share words by 2 tasks, process", Mode::Process, "count"),
    ("share a sort by 2 tasks, thread", Mode::Thread, "sort"),
    ("share a sort by 2 tasks, process", Mode::Process, "sort"),
];

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    if !bench.wants("share") {
        return Ok(());
    }
    let text = std::fs::read_to_string(guest("inputs/article.md"))?;
    let input = |what: &str, workers: u32| match what {
        "count" => format!("count {workers} {TEXT}\n{text}"),
        _ => format!("sort {workers} {NUMBERS} 7"),
    };
    for (name, mode, what) in ROWS {
        let runner = Runner::builder()
            .mode(mode)
            .process(ProcessOptions::default().worker(wrun_program()))
            .build()?;
        let talk = runner.blocking_load(guest("talk/talk.wasm"))?;
        let (shared, alone) = (input(what, 2), input(what, 0));
        bench.row(
            name,
            "one task, alone",
            10,
            &mut || run(&runner, &talk, &shared),
            &mut || run(&runner, &talk, &alone),
        )?;
    }
    Ok(())
}

/// The time of the task, which includes the start and the end of its children.
fn run(runner: &Runner, talk: &Artifact, input: &str) -> anyhow::Result<Duration> {
    let limits = Limits::default().timeout(Duration::from_secs(60));
    let task = Task::new(talk).task("worker", talk).limits(limits);
    let report = runner.blocking_run(task.input(input.to_owned()))?;
    ensure!(report.outcome.is_completed(), "{}", report.outcome);
    let output = report.outcome.output().context("no output")?;
    ensure!(!output.as_bytes().is_empty());
    Ok(report.stats.run)
}
