//! Regions: the cost to hand one over, and of bytes that go through them.

use crate::measure::{Bench, each};
use crate::node;
use crate::port::load;
use crate::{SMALL, idle_floor};
use anyhow::ensure;
use std::time::{Duration, Instant};
use wrun::measure::sys::ToMap;
use wrun::{Artifact, Message, Mode, Runner, Task};
use wrun_compare::measure::copies;

/// Each is two: there and back.
const ROUNDS: u32 = 1_000;
/// Rows of streams, and the size of the pieces. Each page of a piece that is smaller than a
/// large page is a page fault, on both sides and each time that it is mapped.
const STREAMS: [(&str, Mode, usize); 6] = [
    ("region stream 1 GiB, process", Mode::Process, 16 << 20),
    ("region stream 1 GiB, thread", Mode::Thread, 16 << 20),
    ("region stream by 4 MiB, process", Mode::Process, 4 << 20),
    ("region stream by 4 MiB, thread", Mode::Thread, 4 << 20),
    ("region stream by 1 MiB, process", Mode::Process, 1 << 20),
    ("region stream by 1 MiB, thread", Mode::Thread, 1 << 20),
];

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    if !bench.wants("region") {
        return Ok(());
    }
    let (threads, thread_ports) = load(Mode::Thread)?;
    let (processes, process_ports) = load(Mode::Process)?;
    let mut floor = idle_floor()?;
    for (name, mode, size) in [
        ("region handover 64 KiB, process", Mode::Process, 64 << 10),
        ("region handover 1 MiB, process", Mode::Process, 1 << 20),
        ("region handover 64 MiB, process", Mode::Process, 64 << 20),
        ("region handover 64 KiB, thread", Mode::Thread, 64 << 10),
        ("region handover 64 MiB, thread", Mode::Thread, 64 << 20),
    ] {
        let (runner, ports) = match mode {
            Mode::Process => (&processes, &process_ports),
            _ => (&threads, &thread_ports),
        };
        let file = ToMap::new(size)?;
        bench.row(
            name,
            "bare mmap of it and bare pipe round trip",
            20,
            &mut || toss(runner, ports, size),
            &mut || {
                let mapped = each(ROUNDS, || Ok(file.map()?))?;
                Ok(mapped + floor.echo(SMALL.len(), ROUNDS)?)
            },
        )?;
    }
    for (name, runner, ports) in [
        (
            "region handover of any size, process",
            &processes,
            &process_ports,
        ),
        (
            "region handover of any size, thread",
            &threads,
            &thread_ports,
        ),
    ] {
        bench.row(
            name,
            "64 KiB where the row has 64 MiB",
            20,
            &mut || toss(runner, ports, 64 << 20),
            &mut || toss(runner, ports, 64 << 10),
        )?;
    }
    for (name, mode, way, size) in [
        (
            "region 64 KiB beside Node, thread",
            Mode::Thread,
            "thread",
            64 << 10,
        ),
        (
            "region 64 MiB beside Node, thread",
            Mode::Thread,
            "thread",
            64 << 20,
        ),
        (
            "region 64 KiB beside Node, process",
            Mode::Process,
            "process",
            64 << 10,
        ),
        (
            "region 64 MiB beside Node, process",
            Mode::Process,
            "process",
            64 << 20,
        ),
    ] {
        let (runner, ports) = match mode {
            Mode::Process => (&processes, &process_ports),
            _ => (&threads, &thread_ports),
        };
        node::hand_over(bench, name, way, size, &mut || toss(runner, ports, size))?;
    }
    let total: usize = if bench.quick { 256 << 20 } else { 1 << 30 };
    for (name, mode, piece) in STREAMS {
        let (runner, ports) = match mode {
            Mode::Process => (&processes, &process_ports),
            _ => (&threads, &thread_ports),
        };
        let (count, bytes) = (total / piece, total as u64);
        bench.row(
            name,
            "memcpy",
            5,
            &mut || pour(runner, ports, count, piece),
            &mut || Ok(copies(bytes, piece)),
        )?;
    }
    Ok(())
}

/// Two tasks with a channel between them: the time and the output of the first.
fn pair(
    runner: &Runner,
    ports: &Artifact,
    [first, second]: [&str; 2],
) -> anyhow::Result<(Duration, String)> {
    let start = |what: &str| -> anyhow::Result<_> {
        let (theirs, ours) = runner.channel(1)?;
        let task = Task::new(ports).input(what.to_owned()).port(theirs);
        Ok((runner.blocking_submit(task)?, ours))
    };
    let (mut one, to_one) = start(first)?;
    let (mut other, to_other) = start(second)?;
    let (end, far) = runner.channel(8)?;
    to_other.blocking_send(Message::default().port(far))?;
    let began = Instant::now();
    to_one.blocking_send(Message::default().port(end))?;
    let report = one.blocking_report()?;
    let time = began.elapsed();
    ensure!(report.outcome.is_completed(), "{}", report.outcome);
    ensure!(other.blocking_report()?.outcome.is_completed());
    Ok((time, String::from_utf8(report.stdout.to_vec())?))
}

/// A region goes to another task, which maps it and gives it back: the time of a round.
fn toss(runner: &Runner, ports: &Artifact, size: u64) -> anyhow::Result<Duration> {
    let toss = format!("toss {ROUNDS} {size}");
    let (_, time) = pair(runner, ports, [&toss, "catch"])?;
    Ok(Duration::from_nanos(time.parse::<u64>()?) / ROUNDS)
}

/// One task copies this many pieces into regions, and another reads them.
fn pour(runner: &Runner, ports: &Artifact, count: usize, piece: usize) -> anyhow::Result<Duration> {
    let pour = format!("pour {count} {piece}");
    Ok(pair(runner, ports, [&pour, "drink"])?.0)
}
