//! Broadcast channels: the cost of a message that passes through the runner.

use crate::measure::Bench;
use crate::{SMALL, guest, idle_floor, wrun_program};
use anyhow::ensure;
use std::time::{Duration, Instant};
use wrun::{Artifact, Mode, ProcessOptions, Runner, Task};

const ROUNDS: u32 = 2_000;

const ROWS: [(&str, Mode); 2] = [
    ("broadcast round trip, thread", Mode::Thread),
    ("broadcast round trip, process", Mode::Process),
];

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    if !bench.wants("broadcast") {
        return Ok(());
    }
    let mut floor = idle_floor()?;
    for (name, mode) in ROWS {
        let runner = Runner::builder()
            .mode(mode)
            .process(ProcessOptions::default().worker(wrun_program()))
            .build()?;
        let commons = runner.blocking_load(guest("commons/commons.wasm"))?;
        bench.row(
            name,
            "two bare pipe round trips",
            20,
            &mut || ask(&runner, &commons),
            &mut || Ok(floor.echo(SMALL.len(), ROUNDS)? * 2),
        )?;
    }
    Ok(())
}

/// One member sends a message, the other sends it back: the time of a round. Both messages pass
/// through the runner.
fn ask(runner: &Runner, commons: &Artifact) -> anyhow::Result<Duration> {
    let mut answers = runner.blocking_submit(Task::new(commons).input("answer news"))?;
    let began = Instant::now();
    while answers.progress().done == 0 {
        ensure!(
            began.elapsed() < Duration::from_secs(60),
            "no member joined within 60 s"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut asks =
        runner.blocking_submit(Task::new(commons).input(format!("ask news {ROUNDS}")))?;
    let report = asks.blocking_report()?;
    ensure!(report.outcome.is_completed(), "{}", report.outcome);
    ensure!(answers.blocking_report()?.outcome.is_completed());
    Ok(report.stats.run / ROUNDS)
}
