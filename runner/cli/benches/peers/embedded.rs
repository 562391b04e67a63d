//! wrun as a library, with its defaults except for the option that the row names.

use crate::protocol::Peer;
use anyhow::{Context, ensure};
use std::any::Any;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, ReadBuf};
use wrun::{
    Artifact, Builder, Cache, Input, Jail, Mode, Preemption, ProcessOptions, Runner, Task,
    TaskHandle,
};

pub(crate) struct Embedded {
    builder: Builder,
    runner: Runner,
    work: Artifact,
    command: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Embedded {
    pub(crate) fn new(id: &str, folder: &Path) -> anyhow::Result<Self> {
        let builder = Runner::builder().cache(Cache::User);
        let builder = match id {
            "wrun-thread" => builder.mode(Mode::Thread),
            "wrun-thread-signal" => builder.mode(Mode::Thread).preemption(Preemption::Signal),
            "wrun-process" => builder.mode(Mode::Process),
            "wrun-process-reused" => builder
                .mode(Mode::Process)
                .process(ProcessOptions::default().reuse(u32::MAX)),
            "wrun-process-no-jail" => builder
                .mode(Mode::Process)
                .process(ProcessOptions::default().jail(Jail::Off)),
            _ => anyhow::bail!("unknown row {id:?}"),
        };
        let runner = builder.clone().build()?;
        let work = runner.blocking_load(folder.join("work.wasm"))?;
        Ok(Embedded {
            builder,
            runner,
            work,
            command: folder.join("work-command.wasm"),
            runtime: tokio::runtime::Builder::new_current_thread().build()?,
        })
    }
}

impl Peer for Embedded {
    fn run(&self, input: &[u8]) -> anyhow::Result<Vec<u8>> {
        let report = self
            .runner
            .blocking_run(Task::new(&self.work).input(input))?;
        ensure!(report.outcome.is_completed(), "{}", report.outcome);
        Ok(report.stdout.to_vec())
    }

    /// As an embedder submits many tasks: some run at any time.
    fn many(
        &self,
        input: &[u8],
        expected: &[u8],
        time: Duration,
        in_flight: usize,
    ) -> anyhow::Result<(u64, Duration)> {
        self.runtime.block_on(async {
            let mut waiting: VecDeque<TaskHandle> = VecDeque::new();
            let mut ended = 0;
            let began = Instant::now();
            loop {
                let more = began.elapsed() < time;
                if more && waiting.len() < in_flight {
                    let task = Task::new(&self.work).input(input);
                    waiting.push_back(self.runner.submit(task).await?);
                } else if let Some(mut handle) = waiting.pop_front() {
                    ensure!(
                        handle.report().await?.stdout == expected,
                        "a task has another output than the first"
                    );
                    ended += 1;
                } else {
                    return Ok((ended, began.elapsed()));
                }
            }
        })
    }

    /// Tasks that wait for their input.
    fn hold(&self, count: usize) -> anyhow::Result<Box<dyn Any>> {
        let runner = self.builder.clone().max_running(count).build()?;
        let command = runner.blocking_load(&self.command).context("no command")?;
        let mut held = Vec::new();
        for _ in 0..count {
            let task = Task::new(&command).input(Input::reader(Silent));
            held.push(runner.blocking_submit(task)?);
        }
        Ok(Box::new((held, runner)))
    }
}

/// Neither delivers nor ends.
struct Silent;

impl AsyncRead for Silent {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }
}
