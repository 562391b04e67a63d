//! Process mode: what a process of its own costs a task.

use crate::bare::{self, Bare, Memory};
use crate::fork::{Forks, Work};
use crate::measure::{Bench, each};
use crate::node;
use crate::pipe::Peer;
use crate::thread::finish;
use crate::{SMALL, guest, wrun_program};
use anyhow::{Context, ensure};
use std::collections::{BTreeSet, VecDeque};
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use wrun::{Artifact, Builder, Jail, Mode, ProcessOptions, Runner, Start, Task};

/// How long spares get to be forked and to warm_up before any is timed.
const SETTLE: Duration = Duration::from_millis(60);
/// Spares, and tasks that use some of them up one after the other: processors and
/// caches are then as warm as in the floor's loop.
const SPARES: usize = 48;
const BURST: u32 = 24;
/// Between operations that are timed one by one.
const PAUSE: Duration = Duration::from_millis(1);
const MANY: u32 = 2_000;

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    latency(bench)?;
    starts(bench)?;
    throughput(bench)?;
    memory(bench)
}

fn builder() -> Builder {
    Runner::builder()
        .mode(Mode::Process)
        .process(ProcessOptions::default().worker(wrun_program()))
}

/// One task, and a worker that waits for it.
fn latency(bench: &mut Bench) -> anyhow::Result<()> {
    if !bench.wants("process latency") {
        return Ok(());
    }
    let mut peer = Peer::start()?;
    for (name, jail) in [
        ("process latency, waiting spare", Jail::Strict),
        ("process latency, waiting spare, no jail", Jail::Off),
    ] {
        let (runner, echo) =
            load(builder().process(ProcessOptions::default().spares(SPARES).jail(jail)))?;
        once(&runner, &echo)?;
        bench.row(
            name,
            "bare pipe round trip",
            60,
            &mut || {
                std::thread::sleep(SETTLE);
                each(BURST, || once(&runner, &echo))
            },
            &mut || {
                std::thread::sleep(SETTLE);
                each(BURST, || peer.round_trip())
            },
        )?;
    }
    let (runner, echo) = load(builder().process(ProcessOptions::default().spares(SPARES)))?;
    once(&runner, &echo)?;
    let bare = Bare::new("echo/echo.wat", Memory::OnDemand, true)?;
    let runtime = bare::runtime()?;
    bench.row(
        "process latency, waiting spare, beside a sandbox",
        "bare pipe round trip and bare sandbox, on demand",
        60,
        &mut || {
            std::thread::sleep(SETTLE);
            each(BURST, || once(&runner, &echo))
        },
        &mut || {
            std::thread::sleep(SETTLE);
            each(BURST, || {
                peer.round_trip()?;
                let output = runtime.block_on(bare.run(black_box(&SMALL)))?;
                ensure!(black_box(output).len() == SMALL.len());
                Ok(())
            })
        },
    )?;
    bench.row(
        "process latency, waiting spare, both after a pause",
        "bare pipe round trip",
        60,
        &mut || {
            std::thread::sleep(SETTLE);
            each_after_a_pause(BURST, || once(&runner, &echo))
        },
        &mut || each_after_a_pause(BURST, || peer.round_trip()),
    )?;
    let (runner, echo) = load(builder().process(ProcessOptions::default().reuse(u32::MAX)))?;
    once(&runner, &echo)?;
    bench.row(
        "process latency, reused worker",
        "bare pipe round trip",
        60,
        &mut || each(100, || once(&runner, &echo)),
        &mut || each(100, || peer.round_trip()),
    )
}

/// The time of one of `count` operations, before each of which there is time for
/// whatever the last one left behind, and for the processors to fall asleep.
fn each_after_a_pause(
    count: u32,
    mut operation: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let mut taken = Duration::ZERO;
    for _ in 0..count {
        std::thread::sleep(PAUSE);
        taken += each(1, &mut operation)?;
    }
    Ok(taken / count)
}

/// The first task of a worker that does not exist yet.
fn starts(bench: &mut Bench) -> anyhow::Result<()> {
    if !bench.wants("process start") {
        return Ok(());
    }
    let mut forks = Forks::start()?;
    let (runner, echo) = load(builder().process(ProcessOptions::default().spares(0)))?;
    once(&runner, &echo)?;
    bench.row(
        "process start, fork",
        "bare fork, sandbox, pipe",
        100,
        &mut || each(20, || once(&runner, &echo)),
        &mut || forks.run(Work::Task, 20, 1),
    )?;
    let (runner, echo) =
        load(builder().process(ProcessOptions::default().spares(0).start(Start::Exec)))?;
    bench.row(
        "process start, exec",
        "starting `true` and waiting for it",
        100,
        &mut || each(1, || once(&runner, &echo)),
        &mut || each(1, start_true),
    )?;
    let (runner, echo) = load(builder().process(ProcessOptions::default().spares(SPARES)))?;
    once(&runner, &echo)?;
    node::row(bench, "process start, first result", &mut || {
        std::thread::sleep(SETTLE);
        each(1, || once(&runner, &echo))
    })
}

/// Many tasks, each in a fresh process.
fn throughput(bench: &mut Bench) -> anyhow::Result<()> {
    if !bench.wants("process throughput") {
        return Ok(());
    }
    let runtime = bare::runtime()?;
    let mut forks = Forks::start()?;
    let in_flight = 4 * std::thread::available_parallelism()?.get();
    for (name, jail) in [
        ("process throughput, full jail", Jail::Strict),
        ("process throughput, no jail", Jail::Off),
    ] {
        let (runner, echo) = load(
            builder()
                .process(ProcessOptions::default().jail(jail))
                .max_running(in_flight),
        )?;
        once(&runner, &echo)?;
        bench.row(
            name,
            "bare fork, sandbox, pipe; as many at a time",
            15,
            &mut || runtime.block_on(submit_many(&runner, &echo, MANY)),
            &mut || forks.run(Work::Task, MANY, in_flight),
        )?;
    }
    let mut other = Forks::start()?;
    bench.row(
        "process throughput, floor itself",
        "bare fork, exit, wait",
        15,
        &mut || forks.run(Work::Task, MANY, in_flight),
        &mut || other.run(Work::Nothing, MANY, in_flight),
    )
}

/// What a zygote and a waiting worker have of memory for themselves.
fn memory(bench: &mut Bench) -> anyhow::Result<()> {
    if !bench.wants("process memory") {
        return Ok(());
    }
    let (runner, echo) = load(builder().process(ProcessOptions::default().spares(4)))?;
    let settled = || {
        once(&runner, &echo)?;
        std::thread::sleep(Duration::from_millis(300));
        Private::of_ours()
    };
    bench.amount(
        "process memory, zygote",
        "16 MiB",
        16 << 10,
        10,
        &mut || Ok(settled()?.zygote),
    )?;
    bench.amount(
        "process memory, waiting worker",
        "1 MiB",
        1 << 10,
        10,
        &mut || Ok(settled()?.worker),
    )
}

/// KiB of private memory (`smaps_rollup`): of all that have it, the most that one has.
struct Private {
    zygote: u32,
    worker: u32,
}

impl Private {
    /// Of the worker programs that this one started. Workers wait for a task and have
    /// no children; what has is a zygote, or waits for one.
    fn of_ours() -> anyhow::Result<Self> {
        let ours = format!("\0{}\0", std::process::id());
        let (mut parents, mut found) = (BTreeSet::new(), Vec::new());
        for process in std::fs::read_dir("/proc")?.flatten() {
            let path = process.path();
            let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            if !command.starts_with("wrun-worker") || !command.contains(&ours) {
                continue;
            }
            // One that ends meanwhile has nothing any more.
            let read = |name: &str| std::fs::read_to_string(path.join(name));
            if let (Ok(status), Ok(rollup)) = (read("status"), read("smaps_rollup")) {
                parents.extend(sum(&status, "PPid:"));
                let pid = sum(&status, "Pid:");
                found.push((pid, sum(&rollup, "Private_").context("no private memory")?));
            }
        }
        let most = |is_parent: bool| {
            let mine = |it: &&(Option<u32>, u32)| {
                it.0.is_some_and(|pid| parents.contains(&pid)) == is_parent
            };
            found.iter().filter(mine).map(|it| it.1).max()
        };
        Ok(Private {
            zygote: most(true).context("no zygote")?,
            worker: most(false).context("no worker")?,
        })
    }
}

/// The numbers together of all lines of a file of `/proc` that begin like this.
fn sum(text: &str, begin: &str) -> Option<u32> {
    let lines = text.lines().filter(|line| line.starts_with(begin));
    lines
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok())
        .reduce(u32::saturating_add)
}

fn load(builder: Builder) -> anyhow::Result<(Runner, Artifact)> {
    let runner = builder.build()?;
    let echo = runner.blocking_load(guest("echo/echo.wat"))?;
    Ok((runner, echo))
}

fn once(runner: &Runner, echo: &Artifact) -> anyhow::Result<()> {
    let report = runner.blocking_run(Task::new(echo).input(black_box(&SMALL[..])))?;
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
