//! Before a task runs: compiled, loaded, and the first report of a runner.

use super::tasks::program_once;
use super::{Job, Rows, failed, nanos};
use crate::{
    bench::Ready,
    results::{Measure, Policy},
    rounds::Row,
};
use std::time::Instant;
use wrun::{
    Builder, Cache, Error, Mode,
    measure::{Allocation, Bare, Checks},
};

/// Compiled, each time anew.
pub(super) fn compile(job: &mut Job<'_, '_>) -> Rows {
    let comparison = job.bench.comparison;
    let bytes =
        wrun::measure::read(&comparison.task, Builder::MODULE_SIZE_DEFAULT).map_err(failed)?;
    let digest = blake3::hash(&bytes);
    let mut rows = Vec::new();
    for policy in [Policy::Instance, Policy::Spare] {
        let bench = &*job.bench;
        let runner = bench.runner(policy, Cache::Off)?;
        let side = Box::new(move || {
            let began = Instant::now();
            runner.blocking_load(&comparison.task)?;
            Ok(vec![nanos(began.elapsed())])
        });
        let mut row = Row::of(Measure::Compile, policy, side);
        row.policy = None;
        let (bytes, digest) = (bytes.clone(), digest);
        let checks = Checks {
            metered: false,
            epochs: policy.mode() == Mode::Thread,
        };
        rows.push(row.floor(
            "bare wasmtime: compile in this process",
            Box::new(move || {
                let began = Instant::now();
                let compiled = wrun::measure::compile((&*bytes).into(), &digest, checks, true);
                let time = began.elapsed();
                compiled.map_err(failed)?;
                Ok(vec![nanos(time)])
            }),
        ));
    }
    job.rounds(rows)
}

/// Loaded, with the code in the cache.
pub(super) fn load(job: &mut Job<'_, '_>) -> Rows {
    let comparison = job.bench.comparison;
    let ready = job.bench.ready(Policy::Instance)?;
    let code = wrun::measure::code(&ready.runner, &ready.artifact)?;
    let mut rows = Vec::new();
    for policy in [Policy::Instance, Policy::Spare] {
        let cache = Cache::Directory(job.bench.cache());
        let runner = job.bench.runner(policy, cache)?;
        let side = Box::new(move || {
            let began = Instant::now();
            runner.blocking_load(&comparison.task)?;
            Ok(vec![nanos(began.elapsed())])
        });
        let mut row = Row::of(Measure::Load, policy, side);
        row.policy = None;
        if policy.mode() == Mode::Thread {
            let engine =
                wrun::measure::runtime(code.meta.kind(), Allocation::OnDemand).map_err(failed)?;
            let code = code.clone();
            row = row.floor(
                "bare wasmtime: map the code, link it",
                Box::new(move || {
                    let began = Instant::now();
                    let bare = Bare::new(&engine, &code);
                    let time = began.elapsed();
                    bare.map_err(failed)?;
                    Ok(vec![nanos(time)])
                }),
            );
        }
        rows.push(row);
    }
    job.rounds(rows)
}

/// From no runner to the first report, the code in the cache.
pub(super) fn cold(job: &mut Job<'_, '_>) -> Rows {
    let comparison = job.bench.comparison;
    let has_floor = job.floor()?.is_some();
    // Their floors run the same code.
    let of_threads = job.bench.ready(Policy::Instance)?;
    let of_processes = job.bench.ready(Policy::Fork)?;
    let mut rows = Vec::new();
    for policy in [Policy::Instance, Policy::Fork, Policy::Exec] {
        let ready = match policy.mode() {
            Mode::Thread => &of_threads,
            _ => &of_processes,
        };
        let bench = &*job.bench;
        let cache = Cache::Directory(bench.cache());
        let once = move || -> Result<Vec<f64>, Error> {
            let began = Instant::now();
            let ready = Ready::new(comparison, bench.runner(policy, cache.clone())?)?;
            ready.run(comparison)?;
            Ok(vec![nanos(began.elapsed())])
        };
        let row = Row::of(Measure::Cold, policy, Box::new(once));
        rows.push(match policy.mode() {
            Mode::Process if has_floor => {
                let (program, ready) = (bench.program.clone(), ready.clone());
                row.floor(
                    "bare program: start, map the code, instantiate, call, pipe, end",
                    Box::new(move || Ok(vec![nanos(program_once(&program, &ready, comparison)?)])),
                )
            }
            Mode::Thread if has_floor => {
                let (ready, input) = (ready.clone(), ready.input(comparison));
                row.floor(
                    "bare wasmtime: make an engine, map the code, instantiate, call",
                    Box::new(move || {
                        let code = wrun::measure::code(&ready.runner, &ready.artifact)?;
                        let spec = ready.spec(comparison);
                        let began = Instant::now();
                        let engine = wrun::measure::runtime(code.meta.kind(), Allocation::OnDemand)
                            .map_err(failed)?;
                        let bare = Bare::new(&engine, &code).map_err(failed)?;
                        let runtime = super::runtime().map_err(failed)?;
                        let ran = runtime.block_on(bare.run(&spec, &input));
                        let time = began.elapsed();
                        ran.map_err(failed)?;
                        Ok(vec![nanos(time)])
                    }),
                )
            }
            _ => row,
        });
    }
    // The rows borrow all of `bench`.
    let watch = &mut *job.watch;
    Ok(crate::rounds::measure(
        comparison,
        rows,
        job.time,
        &mut job.notes,
        watch,
    ))
}
