//! Channels: the cost of a message between two tasks.

use crate::measure::Bench;
use crate::pipe::{self, CHUNK};
use crate::{SMALL, guest, idle_floor, wrun_program};
use anyhow::ensure;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};
use wrun::{Artifact, Message, Mode, ProcessOptions, Runner, Task};

const ROUNDS: u32 = 4_000;

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    if !bench.wants("port") {
        return Ok(());
    }
    let (runner, ports) = load(Mode::Thread)?;
    bench.row(
        "port round trip, thread",
        "two threads, two bounded channels",
        20,
        &mut || ping(&runner, &ports),
        &mut || threads(),
    )?;
    let (runner, ports) = load(Mode::Process)?;
    let mut floor = idle_floor()?;
    bench.row(
        "port round trip, process",
        "bare pipe round trip",
        20,
        &mut || ping(&runner, &ports),
        &mut || Ok(floor.echo(SMALL.len(), ROUNDS)?),
    )?;
    let total: usize = if bench.quick { 128 << 20 } else { 1 << 30 };
    for (name, capacity) in [
        ("port stream 1 GiB, process", 2),
        ("port stream 1 GiB, process, 64 wait", 64),
    ] {
        bench.row(
            name,
            "the same bytes through a bare pipe",
            5,
            &mut || stream(&runner, &ports, total / CHUNK, capacity),
            &mut || pipe::flood(total / CHUNK),
        )?;
    }
    Ok(())
}

/// One task sends this many messages of 64 KiB to another.
fn stream(
    runner: &Runner,
    ports: &Artifact,
    count: usize,
    capacity: u32,
) -> anyhow::Result<Duration> {
    let (theirs, ours) = runner.channel(capacity)?;
    let (second, to_second) = runner.channel(1)?;
    let mut drains = runner.blocking_submit(Task::new(ports).input("drain").port(second))?;
    to_second.blocking_send(Message::default().port(ours))?;
    let flood = Task::new(ports).input(format!("flood {count} {CHUNK}"));
    let began = Instant::now();
    let mut floods = runner.blocking_submit(flood.port(theirs))?;
    let report = drains.blocking_report()?;
    let time = began.elapsed();
    let wanted = format!("{} bytes", count * CHUNK);
    ensure!(report.stdout == wanted.as_str(), "{}", report.outcome);
    ensure!(floods.blocking_report()?.outcome.is_completed());
    Ok(time)
}

pub(crate) fn load(mode: Mode) -> anyhow::Result<(Runner, Artifact)> {
    let runner = Runner::builder()
        .mode(mode)
        .process(ProcessOptions::default().worker(wrun_program()))
        .build()?;
    let ports = runner.blocking_load(guest("ports/ports.wasm"))?;
    Ok((runner, ports))
}

/// Two tasks, of which one sends requests and the other answers: the time of a round.
fn ping(runner: &Runner, ports: &Artifact) -> anyhow::Result<Duration> {
    let start = |what: String| -> anyhow::Result<_> {
        let (theirs, ours) = runner.channel(1)?;
        let task = Task::new(ports).input(what).port(theirs);
        Ok((runner.blocking_submit(task)?, ours))
    };
    let (mut asks, to_asks) = start(format!("ping {ROUNDS}"))?;
    let (mut answers, to_answers) = start("echo".into())?;
    let (one, other) = runner.channel(1)?;
    to_answers.blocking_send(Message::default().port(other))?;
    let report = {
        to_asks.blocking_send(Message::default().port(one))?;
        asks.blocking_report()?
    };
    ensure!(report.outcome.is_completed(), "{}", report.outcome);
    ensure!(answers.blocking_report()?.outcome.is_completed());
    // Without the start of the tasks, which another row measures.
    Ok(report.stats.run / ROUNDS)
}

fn threads() -> anyhow::Result<Duration> {
    let (ask, asked) = sync_channel::<[u8; SMALL.len()]>(1);
    let (answer, answered) = sync_channel(1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for message in asked {
                if answer.send(message).is_err() {
                    break;
                }
            }
        });
        let began = Instant::now();
        for _ in 0..ROUNDS {
            ask.send(SMALL)?;
            answered.recv()?;
        }
        let time = began.elapsed() / ROUNDS;
        drop(ask);
        Ok(time)
    })
}
