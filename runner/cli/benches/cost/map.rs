//! `wrun map`, as a library: many small inputs, compared with what runs them with nothing around.

use crate::bare::{self, Bare, Memory};
use crate::measure::Bench;
use crate::pool::Pool;
use crate::thread::{loop_on_all, submit_many};
use crate::{SMALL, guest, wrun_program};
use anyhow::ensure;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use wrun::{Artifact, Mode, ProcessOptions, Runner, Start, Task};
use wrun_map::{
    Collector, Failures, Format, Identity, Journal, Local, Map, Now, Opening, Plan, Pumped, Reader,
    Source, Stream, next,
};

/// Inputs of a batch, in thread mode and in process mode.
const MANY: u32 = 20_000;
const FEW: u32 = 1_000;
/// Tasks that wait, as in the command.
const AHEAD: usize = 64;

/// Lines to run, a runner for them, and where the results go.
struct Stage {
    runner: Arc<Runner>,
    echo: Artifact,
    lines: PathBuf,
    count: u32,
    folder: TempDir,
    jobs: usize,
}

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    if !bench.wants("map lines") {
        return Ok(());
    }
    let jobs = std::thread::available_parallelism()?.get();
    let runtime = bare::runtime()?;
    let builder = Runner::builder().max_running(jobs).max_queued(AHEAD);
    let thread = Stage::new(builder.clone().mode(Mode::Thread).build()?, MANY, jobs)?;
    let bare = Bare::new("echo/echo.wat", Memory::PoolAsWrun, true)?;
    bench.row(
        "map lines, thread",
        "bare wasmtime, wrun's pool settings, on every core",
        20,
        &mut || thread.run(false),
        &mut || loop_on_all(jobs, &bare, runtime),
    )?;
    bench.row(
        "map lines, thread, journal",
        "the same without a journal",
        20,
        &mut || thread.run(true),
        &mut || thread.run(false),
    )?;
    drop(thread);
    let options = ProcessOptions::default().start(Start::Fork);
    let fork = builder.clone().process(options);
    let process = Stage::new(fork.build()?, FEW, jobs)?;
    bench.row(
        "map lines, process",
        "the same tasks through submit",
        15,
        &mut || process.run(false),
        &mut || runtime.block_on(submit_many(&process.runner, &process.echo, FEW)),
    )?;
    drop(process);
    let options = ProcessOptions::default().worker(wrun_program());
    let reusing = builder.process(options.reuse(u32::MAX));
    let reused = Stage::new(reusing.build()?, MANY, jobs)?;
    let mut pool = Pool::start(jobs)?;
    bench.row(
        "map lines, process, reuse",
        "a bare pool of processes, a pipe to each and a bare sandbox for each line",
        15,
        &mut || reused.run(false),
        &mut || pool.run(MANY),
    )
}

impl Stage {
    fn new(runner: Runner, count: u32, jobs: usize) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let lines = folder.path().join("lines");
        let line = String::from_utf8_lossy(&SMALL).replace('\n', " ") + "\n";
        std::fs::write(&lines, line.repeat(count as usize))?;
        Ok(Stage {
            echo: runner.blocking_load(guest("echo/echo.wat"))?,
            runner: Arc::new(runner),
            lines,
            count,
            folder,
            jobs,
        })
    }

    /// The time of one input of a batch, whose records are written to a file.
    fn run(&self, journalled: bool) -> anyhow::Result<Duration> {
        let [out, journal] = ["out", "journal"].map(|name| self.folder.path().join(name));
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{end}", journal.display()));
        }
        let began = Instant::now();
        let echo = self.echo.clone();
        let place = Local::new(self.runner.clone(), move || Task::new(&echo));
        let mut map = Map::new(place, Plan::new());
        map = map.in_flight(self.jobs).ahead(AHEAD);
        let failures = Arc::new(Failures::default());
        let format = Format::Records { stats: true };
        let mut collector = Collector::new(failures).stream(Stream::create(&out)?, format);
        if journalled {
            let journal = opened(&journal)?;
            map = map.journalled(journal.resume()?);
            collector = collector.journal(journal, false);
        }
        let source = Source::Lines(vec![self.lines.clone()]);
        let inputs = Pumped::start(|reading| source.open(Reader::default(), reading))?;
        let mut records = map.run(inputs);
        // As in the command: a thread writes.
        let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<_>>(2);
        let writing = std::thread::spawn(move || {
            for records in receiver {
                for mut record in records {
                    collector.take(&mut record, Now::default())?;
                }
            }
            collector.finish(true, Now::default())
        });
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build()?.block_on(async {
            let mut together = Vec::new();
            while let Some(record) = next(&mut records).await {
                together.push(*record?);
                if together.len() == 128 {
                    sender.send(std::mem::take(&mut together))?;
                }
            }
            sender.send(together)?;
            anyhow::Ok(())
        })?;
        drop(sender);
        let Ok(summary) = writing.join() else {
            anyhow::bail!("the thread that writes has panicked");
        };
        let completed = summary?.outcomes.get("completed").copied();
        ensure!(completed == Some(self.count.into()), "{completed:?}");
        Ok(began.elapsed() / self.count)
    }
}

fn opened(path: &Path) -> anyhow::Result<Journal> {
    let journal = Journal::open(path, &Identity::default(), Opening::default());
    Ok(journal?)
}
