//! Process mode: the cost of a process for each task.

use crate::bare::{self, Bare};
use crate::measure::{Bench, each};
use crate::node;
use crate::thread::submit_many;
use crate::{SMALL, guest, idle_floor, wrun_program};
use anyhow::ensure;
use bytes::Bytes;
use std::hint::black_box;
use std::process::{Command, Stdio};
use std::time::Duration;
use wrun::{Artifact, Builder, Jail, Mode, ProcessOptions, Runner, Start, Task, measure};
use wrun_compare::measure::{Floor, Memory, Work, descendants};

/// Time for spares to be forked and to warm up before one is timed.
const SETTLE: Duration = Duration::from_millis(60);
/// Spares, and tasks that use up some of them one after the other, so that processors and
/// caches are as warm as in the loop of the floor.
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

/// One task, and a worker that waits for it, compared with what no such task can do without: its
/// input and output cross to another process, and its sandbox is made.
fn latency(bench: &mut Bench) -> anyhow::Result<()> {
    if !bench.wants("process latency") {
        return Ok(());
    }
    const FLOOR: &str = "bare pipe round trip and bare sandbox, on demand";
    let mut floor = idle_floor()?;
    let bare = Bare::new("echo/echo.wat", bare::Memory::OnDemand, true)?;
    let runtime = bare::runtime()?;
    let small = Bytes::from_static(&SMALL);
    let sandbox = || {
        let output = runtime.block_on(bare.run(black_box(&small)))?;
        ensure!(black_box(output).len() == SMALL.len());
        Ok(())
    };
    let spares = |jail| {
        let options = ProcessOptions::default().spares(SPARES).jail(jail);
        let (runner, echo) = load(builder().process(options))?;
        once(&runner, &echo)?;
        anyhow::Ok((runner, echo))
    };
    for (name, jail) in [
        ("process latency, waiting spare", Jail::Strict),
        ("process latency, waiting spare, no jail", Jail::Off),
    ] {
        let (runner, echo) = spares(jail)?;
        bench.row(
            name,
            FLOOR,
            60,
            &mut || {
                std::thread::sleep(SETTLE);
                each(BURST, || once(&runner, &echo))
            },
            &mut || {
                std::thread::sleep(SETTLE);
                let mut echoes = floor.echoes(SMALL.len(), BURST)?;
                each(BURST, || {
                    echoes.round_trip()?;
                    sandbox()
                })
            },
        )?;
    }
    let (runner, echo) = spares(Jail::Strict)?;
    bench.row(
        "process latency, waiting spare, both after a pause",
        FLOOR,
        60,
        &mut || {
            std::thread::sleep(SETTLE);
            each_after_a_pause(BURST, || once(&runner, &echo))
        },
        &mut || {
            let mut echoes = floor.echoes(SMALL.len(), BURST)?;
            each_after_a_pause(BURST, || {
                echoes.round_trip()?;
                sandbox()
            })
        },
    )?;
    let (runner, echo) = load(builder().process(ProcessOptions::default().reuse(u32::MAX)))?;
    once(&runner, &echo)?;
    bench.row(
        "process latency, reused worker",
        FLOOR,
        60,
        &mut || each(100, || once(&runner, &echo)),
        &mut || {
            let mut echoes = floor.echoes(SMALL.len(), 100)?;
            each(100, || {
                echoes.round_trip()?;
                sandbox()
            })
        },
    )
}

/// The time of one of `count` operations, with a pause before each: what the last one left
/// behind is done then, and processors may sleep.
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
    let (runner, echo) = load(builder().process(ProcessOptions::default().spares(0)))?;
    once(&runner, &echo)?;
    let mut floor = forks(&runner, &echo)?;
    bench.row(
        "process start, fork",
        "bare fork, sandbox, pipe",
        100,
        &mut || each(20, || once(&runner, &echo)),
        &mut || Ok(floor.tasks(Work::Task, 20, 1)?),
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
    let in_flight = 4 * std::thread::available_parallelism()?.get();
    let at_once = u32::try_from(in_flight)?;
    let (runner, echo) = load(builder())?;
    let mut floor = forks(&runner, &echo)?;
    let mut other = forks(&runner, &echo)?;
    drop(runner);
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
            "bare fork, sandbox, pipe; the same number at the same time",
            15,
            &mut || runtime.block_on(submit_many(&runner, &echo, MANY)),
            &mut || Ok(floor.tasks(Work::Task, MANY, at_once)?),
        )?;
    }
    bench.row(
        "process throughput, floor itself",
        "bare fork, exit, wait",
        15,
        &mut || Ok(floor.tasks(Work::Task, MANY, at_once)?),
        &mut || Ok(other.tasks(Work::Exit, MANY, at_once)?),
    )
}

/// The private memory of a zygote and of a worker that waits.
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

/// KiB of private memory (`smaps_rollup`), the largest of several processes.
struct Private {
    zygote: f64,
    worker: f64,
}

impl Private {
    /// Of the worker programs that this one started. Workers wait for a task and have
    /// no children; a program that has some is a zygote, or waits for one.
    fn of_ours() -> anyhow::Result<Self> {
        let mut private = Private {
            zygote: 0.0,
            worker: 0.0,
        };
        for pid in descendants(std::process::id()) {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // One that ends meanwhile has no memory any more.
            let (true, Ok(memory)) = (
                command.starts_with(b"wrun-worker"),
                Memory::of(&pid.to_string()),
            ) else {
                continue;
            };
            let largest = match descendants(pid).is_empty() {
                true => &mut private.worker,
                false => &mut private.zygote,
            };
            *largest = largest.max(memory.private / 1024.0);
        }
        ensure!(private.zygote > 0.0, "there is no zygote");
        ensure!(private.worker > 0.0, "there is no worker that waits");
        Ok(private)
    }
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

/// The program that forks, with the task loaded: no limits, no grants, no jail, no supervision.
fn forks(runner: &Runner, echo: &Artifact) -> anyhow::Result<Floor> {
    let mut floor = idle_floor()?;
    let (code, spec) = (measure::code(runner, echo)?, measure::spec(Task::new(echo)));
    let output = floor.load(&code, &spec, &Bytes::from_static(&SMALL), None)?;
    ensure!(output == SMALL[..], "the floor has another output");
    Ok(floor)
}

fn start_true() -> anyhow::Result<()> {
    let status = Command::new("true").stdin(Stdio::null()).status()?;
    ensure!(status.success());
    Ok(())
}
