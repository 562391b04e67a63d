//! Broadcast channels: what a message costs that the runner passes on.

use crate::measure::{Bench, each};
use crate::pipe::Peer;
use crate::{guest, wrun_program};
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
    let mut peer = Peer::start()?;
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
            &mut || Ok(each(ROUNDS, || peer.round_trip())? * 2),
        )?;
    }
    Ok(())
}

/// A member says something, the other says it again: the time of a round. Each of the two
/// messages passes through the runner.
fn ask(runner: &Runner, commons: &Artifact) -> anyhow::Result<Duration> {
    let mut answers = runner.blocking_submit(Task::new(commons).input("answer news"))?;
    let began = Instant::now();
    while answers.progress().done == 0 {
        ensure!(began.elapsed() < Duration::from_secs(60), "no member came");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut asks =
        runner.blocking_submit(Task::new(commons).input(format!("ask news {ROUNDS}")))?;
    let report = asks.blocking_report()?;
    ensure!(report.outcome.is_completed(), "{}", report.outcome);
    ensure!(answers.blocking_report()?.outcome.is_completed());
    Ok(report.stats.run / ROUNDS)
}
