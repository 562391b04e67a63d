//! Thread mode, compared with bare wasmtime.

use crate::bare::{self, Bare, Memory};
use crate::measure::{Bench, each};
use crate::{SMALL, guest};
use anyhow::ensure;
use bytes::Bytes;
use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};
use wrun::{Artifact, Mode, Runner, Task};
use wrun_compare::measure::in_threads;

const BATCH: u32 = 500;
const MANY: u32 = 4_000;

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let names = [
        "thread latency",
        "thread throughput",
        "thread compute",
        "epoch checks",
    ];
    if !names.into_iter().any(|name| bench.wants(name)) {
        return Ok(());
    }
    let runner = Runner::builder().mode(Mode::Thread).build()?;
    let echo = runner.blocking_load(guest("echo/echo.wat"))?;
    let same = Bare::new("echo/echo.wat", Memory::PoolAsWrun, true)?;
    let default = Bare::new("echo/echo.wat", Memory::Pool, true)?;
    let runtime = bare::runtime()?;
    let (small, none) = (Bytes::from_static(&SMALL), Bytes::new());
    let cores = std::thread::available_parallelism()?.get();

    for (name, floor_name, bare) in [
        (
            "thread latency",
            "bare wasmtime, wrun's pool settings, block_on",
            &same,
        ),
        (
            "thread latency, default pool",
            "bare wasmtime, its default pool, block_on",
            &default,
        ),
    ] {
        bench.row(
            name,
            floor_name,
            100,
            &mut || {
                each(BATCH, || {
                    let report =
                        runner.blocking_run(Task::new(&echo).input(black_box(&SMALL[..])))?;
                    ensure!(black_box(report).stdout.len() == SMALL.len());
                    Ok(())
                })
            },
            &mut || {
                each(BATCH, || {
                    let output = runtime.block_on(bare.run(black_box(&small)))?;
                    ensure!(black_box(output).len() == SMALL.len());
                    Ok(())
                })
            },
        )?;
    }
    for (name, floor_name, bare) in [
        (
            "thread throughput",
            "bare wasmtime, wrun's pool settings, on every core",
            &same,
        ),
        (
            "thread throughput, default pool",
            "bare wasmtime, its default pool, on every core",
            &default,
        ),
    ] {
        bench.row(
            name,
            floor_name,
            60,
            &mut || runtime.block_on(submit_many(&runner, &echo, MANY)),
            &mut || loop_on_all(cores, bare, runtime),
        )?;
    }

    let mandelbrot = runner.blocking_load(guest("mandelbrot/mandelbrot.wasm"))?;
    let with = Bare::new("mandelbrot/mandelbrot.wasm", Memory::Pool, true)?;
    let without = Bare::new("mandelbrot/mandelbrot.wasm", Memory::Pool, false)?;
    bench.row(
        "thread compute",
        "bare wasmtime, same checks of the epoch",
        40,
        &mut || {
            each(1, || {
                black_box(runner.blocking_run(Task::new(&mandelbrot))?);
                Ok(())
            })
        },
        &mut || {
            each(1, || {
                black_box(runtime.block_on(with.run(&none))?);
                Ok(())
            })
        },
    )?;
    bench.row(
        "epoch checks",
        "the same loop compiled without them",
        40,
        &mut || {
            each(1, || {
                black_box(runtime.block_on(with.run(&none))?);
                Ok(())
            })
        },
        &mut || {
            each(1, || {
                black_box(runtime.block_on(without.run(&none))?);
                Ok(())
            })
        },
    )
}

/// The time of one of `count` tasks, 256 of them submitted at the same time.
pub(crate) async fn submit_many(
    runner: &Runner,
    echo: &Artifact,
    count: u32,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut waiting = VecDeque::new();
    for _ in 0..count {
        if waiting.len() == 256 {
            finish(waiting.pop_front()).await?;
        }
        waiting.push_back(runner.submit(Task::new(echo).input(&SMALL[..])).await?);
    }
    while !waiting.is_empty() {
        finish(waiting.pop_front()).await?;
    }
    Ok(began.elapsed() / count)
}

async fn finish(handle: Option<wrun::TaskHandle>) -> anyhow::Result<()> {
    if let Some(mut handle) = handle {
        let report = handle.report().await?;
        ensure!(report.stdout.len() == SMALL.len(), "{:?}", report.outcome);
    }
    Ok(())
}

pub(crate) fn loop_on_all(
    cores: usize,
    bare: &Bare,
    runtime: &tokio::runtime::Runtime,
) -> anyhow::Result<Duration> {
    let (cores, small) = (u32::try_from(cores)?, Bytes::from_static(&SMALL));
    let share = MANY / cores;
    let began = Instant::now();
    in_threads(0..cores, |_| {
        runtime.block_on(async {
            for _ in 0..share {
                black_box(bare.run(black_box(&small)).await?);
            }
            anyhow::Ok(())
        })
    })??;
    Ok(began.elapsed() / (share * cores))
}
