//! Floods: the effect of tasks that send without a pause on another task.
//!
//! A row is the 99th percentile of small tasks, one after the other, while four tasks
//! flood; its floor is the same beside four tasks that only compute, which take the same
//! share of the processors. The difference is the work of the runner's own threads.

use crate::measure::Bench;
use crate::{SMALL, guest, wrun_program};
use anyhow::{Context, ensure};
use std::time::{Duration, Instant};
use wrun::{
    Artifact, Limits, Mode, Preemption, ProcessOptions, Runner, Stdio, Task, TaskGrant, TaskHandle,
};
use wrun_compare::measure::Sorted;

/// Small tasks of a round.
const TASKS: usize = 100;
/// Tasks that flood at the same time.
const FLOODERS: usize = 4;

const ROWS: [(&str, &str, Mode); 12] = [
    ("flood of broadcasts, thread", "broadcast.wat", Mode::Thread),
    (
        "flood of broadcasts, process",
        "broadcast.wat",
        Mode::Process,
    ),
    ("flood of members, thread", "members.wat", Mode::Thread),
    ("flood of members, process", "members.wat", Mode::Process),
    ("flood of locks, thread", "locks.wat", Mode::Thread),
    ("flood of locks, process", "locks.wat", Mode::Process),
    ("flood of progress, thread", "progress.wat", Mode::Thread),
    ("flood of progress, process", "progress.wat", Mode::Process),
    ("flood of children, thread", "children.wat", Mode::Thread),
    ("flood of children, process", "children.wat", Mode::Process),
    ("flood of output, thread", "output.wat", Mode::Thread),
    ("flood of output, process", "output.wat", Mode::Process),
];

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    if !bench.wants("flood") {
        return Ok(());
    }
    for (name, file, mode) in ROWS {
        let runner = Runner::builder()
            .mode(mode)
            .process(ProcessOptions::default().worker(wrun_program()))
            .max_running(FLOODERS + 1)
            .build()?;
        let flood = runner.blocking_load(folder().join(file))?;
        let compute = runner.blocking_load(guest("hostile/endless-loop-run.wat"))?;
        let echo = runner.blocking_load(guest("echo/echo.wat"))?;
        bench.row(
            name,
            "p99 beside tasks that compute",
            5,
            &mut || beside(&runner, FLOODERS, false, &flood, &compute, &echo),
            &mut || beside(&runner, FLOODERS, false, &compute, &compute, &echo),
        )?;
    }
    Ok(())
}

/// A small task that is submitted, beside twice as many tasks that compute as there are processors: preempted by
/// signals, over epochs.
pub(crate) fn measure_computing(bench: &mut Bench) -> anyhow::Result<()> {
    let name = "small task beside computing, thread, signal";
    if !bench.wants(name) {
        return Ok(());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let made = |preemption| -> anyhow::Result<_> {
        let runner = Runner::builder()
            .mode(Mode::Thread)
            .preemption(preemption)
            .max_running(2 * cores + 1)
            .build()?;
        let compute = runner.blocking_load(guest("hostile/endless-loop-run.wat"))?;
        let echo = runner.blocking_load(guest("echo/echo.wat"))?;
        Ok((runner, compute, echo))
    };
    let (signal, epoch) = (made(Preemption::Signal)?, made(Preemption::Epoch)?);
    let p99 = |(runner, compute, echo): &(Runner, Artifact, Artifact)| {
        beside(runner, 2 * cores, true, compute, compute, echo)
    };
    bench.row(
        name,
        "p99, preempted by epochs",
        9,
        &mut || p99(&signal),
        &mut || p99(&epoch),
    )
}

fn folder() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/cost/floods")
}

/// The 99th percentile of small tasks beside a number of another kind.
fn beside(
    runner: &Runner,
    count: usize,
    submitted: bool,
    other: &Artifact,
    child: &Artifact,
    echo: &Artifact,
) -> anyhow::Result<Duration> {
    let others: Vec<Flooder> = (0..count)
        .map(|_| Flooder::start(runner, other, child))
        .collect::<anyhow::Result<_>>()?;
    // They need time to start.
    std::thread::sleep(Duration::from_millis(200));
    let mut times = Vec::with_capacity(TASKS);
    for _ in 0..TASKS {
        let began = Instant::now();
        let task = Task::new(echo).input(&SMALL[..]);
        let report = match submitted {
            true => runner.blocking_submit(task)?.blocking_report()?,
            false => runner.blocking_run(task)?,
        };
        times.push(began.elapsed().as_secs_f64());
        ensure!(report.outcome.is_completed(), "{}", report.outcome);
    }
    others.into_iter().try_for_each(Flooder::end)?;
    let p99 = Sorted::new(times).quantile(0.99);
    Ok(Duration::from_secs_f64(p99))
}

/// A task that does not end by itself, and the thread that reads its output.
struct Flooder {
    handle: TaskHandle,
    reader: std::thread::JoinHandle<()>,
}

impl Flooder {
    fn start(runner: &Runner, task: &Artifact, child: &Artifact) -> anyhow::Result<Self> {
        let mut limits = Limits::default();
        limits.max_output = Some(u64::MAX);
        let task = Task::new(task)
            .limits(limits)
            .grace(Duration::ZERO)
            .allow_task(TaskGrant::new("c", child))
            .stdout(Stdio::Stream)
            .stderr(Stdio::Null);
        let mut handle = runner.blocking_submit(task)?;
        let mut stream = handle.take_stdout().context("no stream")?;
        let reader = std::thread::spawn(move || while stream.blocking_next_chunk().is_some() {});
        Ok(Flooder { handle, reader })
    }

    fn end(mut self) -> anyhow::Result<()> {
        self.handle.kill();
        let outcome = self.handle.blocking_report()?.outcome;
        ensure!(
            outcome == wrun::Outcome::Cancelled,
            "a task that floods ended by itself: {outcome}"
        );
        ensure!(self.reader.join().is_ok(), "a reader panicked");
        Ok(())
    }
}
