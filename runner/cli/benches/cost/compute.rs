//! The processor time of the guest's own code, in both modes and with both ways to preempt it, over
//! the same task in bare wasmtime without checks in its code.

use crate::measure::Bench;
use crate::{bare, guest};
use anyhow::{Context, ensure};
use bytes::Bytes;
use std::time::{Duration, Instant};
use wrun::measure::{self, Allocation, sys};
use wrun::{Artifact, Limits, Mode, Outcome, Preemption, ProcessOptions, Runner, Task};

/// A guest with something to do.
struct Work {
    /// In process mode; and in thread mode, preempted by epochs and by signals.
    rows: [&'static str; 3],
    file: &'static str,
    args: &'static [&'static str],
    input: fn() -> anyhow::Result<Vec<u8>>,
}

const FLOOR: &str = "bare wasmtime, without checks";
const ROUNDS: usize = 24;

const WORK: [Work; 9] = [
    Work {
        rows: [
            "compute mandelbrot, process",
            "compute mandelbrot, thread",
            "compute mandelbrot, thread, signal",
        ],
        file: "mandelbrot/mandelbrot.wasm",
        args: &[],
        input: || Ok(b"512 512 500".to_vec()),
    },
    Work {
        rows: [
            "compute digest, process",
            "compute digest, thread",
            "compute digest, thread, signal",
        ],
        file: "digest/digest.wasm",
        args: &[],
        input: || repeated("inputs/article.md", 8 << 20),
    },
    Work {
        rows: [
            "compute gzip, process",
            "compute gzip, thread",
            "compute gzip, thread, signal",
        ],
        file: "gzip/gzip.wasm",
        args: &[],
        input: || repeated("inputs/article.md", 2 << 20),
    },
    Work {
        rows: [
            "compute csv-stats, process",
            "compute csv-stats, thread",
            "compute csv-stats, thread, signal",
        ],
        file: "csv-stats/csv-stats.wasm",
        args: &["region", "amount"],
        input: rows,
    },
    Work {
        rows: [
            "compute image-filter, process",
            "compute image-filter, thread",
            "compute image-filter, thread, signal",
        ],
        file: "image-filter/image-filter.wasm",
        args: &[],
        input: || repeated("inputs/sunset.png", 1),
    },
    Work {
        rows: [
            "compute wordcount, process",
            "compute wordcount, thread",
            "compute wordcount, thread, signal",
        ],
        file: "wordcount/wordcount.wasm",
        args: &[],
        input: || repeated("inputs/article.md", 8 << 20),
    },
    Work {
        rows: [
            "compute markdown, process",
            "compute markdown, thread",
            "compute markdown, thread, signal",
        ],
        file: "markdown/markdown.wasm",
        args: &[],
        input: || repeated("inputs/article.md", 2 << 20),
    },
    Work {
        rows: [
            "compute python, process",
            "compute python, thread",
            "compute python, thread, signal",
        ],
        file: "../target/guests/primes.wasm",
        args: &[],
        input: || Ok(b"20000".to_vec()),
    },
    Work {
        rows: [
            "compute javascript, process",
            "compute javascript, thread",
            "compute javascript, thread, signal",
        ],
        file: "../target/guests/template.wasm",
        args: &[],
        input: || repeated("inputs/letter.json", 1),
    },
];

/// A file, as often as makes at least this many bytes.
fn repeated(file: &str, len: usize) -> anyhow::Result<Vec<u8>> {
    let file = std::fs::read(guest(file))?;
    Ok(file.repeat(len.div_ceil(file.len().max(1))))
}

/// A table with many rows.
fn rows() -> anyhow::Result<Vec<u8>> {
    let file = std::fs::read_to_string(guest("inputs/sales.csv"))?;
    let (head, rows) = file.split_once('\n').context("a table")?;
    let many = rows.repeat((1 << 20) / rows.len().max(1) + 1);
    Ok(format!("{head}\n{many}").into_bytes())
}

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    if !bench.wants("compute") {
        return Ok(());
    }
    let process = Runner::builder()
        .mode(Mode::Process)
        .process(ProcessOptions::default().worker(crate::wrun_program()))
        .build()?;
    let thread = Runner::builder().mode(Mode::Thread).build()?;
    let signal = Runner::builder()
        .mode(Mode::Thread)
        .preemption(Preemption::Signal)
        .build()?;
    let runners = [&process, &thread, &signal];
    for work in &WORK {
        let file = guest(work.file);
        if !file.exists() {
            eprintln!("{}: not built", file.display());
            continue;
        }
        let input = Bytes::from((work.input)()?);
        let task = |artifact: &Artifact| {
            let limits = Limits::default().max_input(1 << 30).max_output(1 << 30);
            let task = Task::new(artifact).input(input.clone()).limits(limits);
            task.args(work.args.iter().copied())
        };
        let artifact = process.blocking_load(&file)?;
        let code = measure::code(&process, &artifact)?;
        let engine = measure::runtime(code.meta.kind(), Allocation::OnDemand)?;
        let floor = measure::Bare::new(&engine, &code)?;
        let spec = measure::spec(task(&artifact));
        let runtime = bare::runtime()?;
        for (name, runner) in work.rows.into_iter().zip(runners) {
            let artifact = runner.blocking_load(&file)?;
            bench.row(
                name,
                FLOOR,
                ROUNDS,
                &mut || of_task(runner, task(&artifact)),
                &mut || {
                    let before = sys::thread_cpu(Instant::now());
                    let output = runtime.block_on(floor.run(&spec, &input))?;
                    ensure!(!output.is_empty(), "there is no output");
                    Ok(sys::thread_cpu(Instant::now()).saturating_sub(before))
                },
            )?;
        }
    }
    Ok(())
}

fn of_task(runner: &Runner, task: Task) -> anyhow::Result<Duration> {
    let report = runner.blocking_run(task)?;
    let completed = matches!(report.outcome, Outcome::Completed(_));
    ensure!(completed, "{}", report.outcome);
    report.stats.cpu.context("no processor time")
}
