//! What a fresh process for each request is held against: tasks without HTTP, each in a fresh
//! process, as many at the same time as the server runs (SPEC.md's process throughput).

use crate::{guest, wrun_program};
use anyhow::ensure;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use wrun::{Artifact, Mode, ProcessOptions, Runner, Task};

pub(crate) struct Tasks {
    runtime: Runtime,
    runner: Arc<Runner>,
    echo: Artifact,
    at_once: usize,
}

const SMALL: [u8; 64] = [b'w'; 64];
const WARM: Duration = Duration::from_millis(500);

impl Tasks {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let at_once = 4 * std::thread::available_parallelism()?.get();
        let runner = Runner::builder()
            .mode(Mode::Process)
            .process(ProcessOptions::default().worker(wrun_program()))
            .max_running(at_once)
            .build()?;
        let echo = runner.blocking_load(guest("echo/echo.wat"))?;
        Ok(Tasks {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?,
            runner: Arc::new(runner),
            echo,
            at_once,
        })
    }

    /// Tasks a second.
    pub(crate) fn rate(&self, time: Duration) -> anyhow::Result<f64> {
        self.runtime.block_on(self.run(WARM))?;
        let (tasks, took) = self.runtime.block_on(self.run(time))?;
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let tasks = tasks as f64;
        Ok(tasks / took.as_secs_f64())
    }

    async fn run(&self, time: Duration) -> anyhow::Result<(u64, Duration)> {
        let began = Instant::now();
        let done = Arc::new(AtomicU64::new(0));
        let running: Vec<_> = (0..self.at_once)
            .map(|_| {
                let (runner, echo) = (self.runner.clone(), self.echo.clone());
                let done = done.clone();
                tokio::spawn(async move {
                    while began.elapsed() < time {
                        let report = runner.run(Task::new(&echo).input(&SMALL[..])).await?;
                        ensure!(report.stdout.len() == SMALL.len(), "{}", report.outcome);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        for one in running {
            one.await??;
        }
        Ok((done.load(Ordering::Relaxed), began.elapsed()))
    }
}
