//! Thread mode, compared with bare wasmtime.

use crate::bare::{self, Bare, Memory};
use crate::measure::{Bench, each};
use crate::{SMALL, guest};
use anyhow::ensure;
use bytes::Bytes;
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wrun::{Artifact, Mode, Runner, Task};
use wrun_compare::measure::in_threads;

const BATCH: u32 = 500;
const MANY: u32 = 4_000;
/// Tasks that are submitted and whose report was not taken.
const AT_ONCE: usize = 256;

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
    let same = Arc::new(Bare::new("echo/echo.wat", Memory::PoolAsWrun, true)?);
    let default = Arc::new(Bare::new("echo/echo.wat", Memory::Pool, true)?);
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
            &mut || runtime.block_on(batch_many(&runner, &echo, MANY, cores)),
            &mut || loop_on_all(cores, bare, runtime),
        )?;
    }
    bench.row(
        "thread throughput, handles",
        "bare wasmtime, wrun's pool settings, each in a task of tokio",
        60,
        &mut || runtime.block_on(submit_many(&runner, &echo, MANY)),
        &mut || runtime.block_on(spawn_many(&same, MANY)),
    )?;

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

/// The time of one of `count` tasks in a batch, [`AT_ONCE`] of them pushed at the same time.
async fn batch_many(
    runner: &Runner,
    echo: &Artifact,
    count: u32,
    cores: usize,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut batch = runner.batch(cores, AT_ONCE);
    let mut pushed = 0;
    loop {
        while pushed < count && !batch.is_full() {
            let task = Task::new(echo).input(&SMALL[..]);
            ensure!(batch.push((pushed, task)).is_ok(), "there was room");
            pushed += 1;
        }
        let Some((_, report)) = batch.next().await else {
            return Ok(began.elapsed() / count);
        };
        ensure!(black_box(report?).stdout.len() == SMALL.len());
    }
}

/// The time of one of `count` bare runs, each in a task of its own, [`AT_ONCE`] of them spawned at
/// the same time.
async fn spawn_many(bare: &Arc<Bare>, count: u32) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut waiting = VecDeque::new();
    for number in 0..count + AT_ONCE as u32 {
        if number >= AT_ONCE as u32
            && let Some(spawned) = waiting.pop_front()
        {
            let output: wasmtime::Result<Bytes> = spawned.await?;
            ensure!(black_box(output?).len() == SMALL.len());
        }
        if number < count {
            let bare = bare.clone();
            let input = Bytes::from_static(black_box(&SMALL));
            waiting.push_back(tokio::spawn(async move { bare.run(&input).await }));
        }
    }
    Ok(began.elapsed() / count)
}

/// The time of one of `count` tasks, [`AT_ONCE`] of them submitted at the same time.
pub(crate) async fn submit_many(
    runner: &Runner,
    echo: &Artifact,
    count: u32,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut waiting = VecDeque::new();
    for _ in 0..count {
        if waiting.len() == AT_ONCE {
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
