//! Process mode: what a process of its own costs a task.

use crate::bare::{self, Bare, Memory};
use crate::measure::{Bench, Target, each};
use crate::pipe::Peer;
use crate::thread::finish;
use crate::{SMALL, guest, wrun_program};
use anyhow::ensure;
use std::collections::VecDeque;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use wrun::{Artifact, Builder, Mode, Runner, Task};

/// How long a new worker gets to load its artifact before it is timed; the cold
/// row shows how much of that it needs.
const SETTLE: Duration = Duration::from_millis(40);
const MANY: u32 = 10_000;

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let names = ["process latency", "process cold", "process throughput"];
    if !names.into_iter().any(|name| bench.wants(name)) {
        return Ok(());
    }
    let bare = Bare::new("echo/echo.wat", Memory::OnDemand, true)?;
    let runtime = bare::runtime()?;
    let mut peer = Peer::start()?;
    let builder = || Runner::builder().mode(Mode::Process).worker(wrun_program());

    {
        let (runner, echo) = load(builder().spares(1))?;
        let mut task = || {
            std::thread::sleep(SETTLE);
            each(1, || once(&runner, &echo))
        };
        let mut floor = |count| {
            each(count, || {
                peer.round_trip()?;
                let output = runtime.block_on(bare.run(black_box(&SMALL)))?;
                ensure!(black_box(output).len() == SMALL.len());
                Ok(())
            })
        };
        bench.row(
            "process latency, idle worker",
            "pipe round trip + on-demand sandbox, in a loop",
            Target::AtMost(3.0),
            200,
            &mut task,
            &mut || floor(100),
        )?;
        // The same floor as lonely as the task: after a pause, with caches and
        // processors as cold.
        bench.row(
            "process latency, idle worker, paced floor",
            "the same once, after the same pause",
            Target::None,
            200,
            &mut task,
            &mut || {
                std::thread::sleep(SETTLE);
                floor(1)
            },
        )?;
    }
    {
        let (runner, echo) = load(builder().spares(0))?;
        bench.row(
            "process cold",
            "starting `true` and waiting for it",
            Target::None,
            100,
            &mut || each(1, || once(&runner, &echo)),
            &mut || each(1, start_true),
        )?;
    }
    let (runner, echo) = load(builder())?;
    let many = if bench.quick { MANY / 10 } else { MANY };
    bench.row(
        "process throughput",
        "`true` on every core",
        Target::None,
        3,
        &mut || runtime.block_on(submit_many(&runner, &echo, many)),
        &mut || start_many(many / 10),
    )
}

fn load(builder: Builder) -> anyhow::Result<(Runner, Artifact)> {
    let runner = builder.build()?;
    let echo = runner.load(guest("echo/echo.wat"))?;
    Ok((runner, echo))
}

fn once(runner: &Runner, echo: &Artifact) -> anyhow::Result<()> {
    let report = runner.run(Task::new(echo).input(black_box(&SMALL[..])))?;
    ensure!(report.stdout.len() == SMALL.len(), "{:?}", report.outcome);
    Ok(())
}

async fn submit_many(runner: &Runner, echo: &Artifact, many: u32) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut waiting = VecDeque::new();
    for _ in 0..many {
        if waiting.len() == 256 {
            finish(waiting.pop_front()).await?;
        }
        waiting.push_back(runner.submit(Task::new(echo).input(&SMALL[..])).await?);
    }
    while !waiting.is_empty() {
        finish(waiting.pop_front()).await?;
    }
    Ok(began.elapsed() / many)
}

fn start_true() -> anyhow::Result<()> {
    let status = Command::new("true").stdin(Stdio::null()).status()?;
    ensure!(status.success());
    Ok(())
}

fn start_many(many: u32) -> anyhow::Result<Duration> {
    let cores = std::thread::available_parallelism()?.get();
    let share = many / u32::try_from(cores)?;
    let began = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores)
            .map(|_| scope.spawn(|| each(share, start_true)))
            .collect();
        for thread in threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("starting `true` panicked"))??;
        }
        anyhow::Ok(())
    })?;
    Ok(began.elapsed() / (share * u32::try_from(cores)?))
}
