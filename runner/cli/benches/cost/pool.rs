//! A pool of worker processes as one writes it by hand: a pipe to and from each, which takes the next
//! input when it has answered, and a sandbox for each input in bare wasmtime.

use crate::SMALL;
use crate::bare::{self, Bare, Memory};
use anyhow::{Context, ensure};
use bytes::Bytes;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The argument that makes this program a worker.
pub(crate) const WORKER_ARG: &str = "__pool-worker";

pub(crate) struct Pool(Vec<Worker>);

struct Worker {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Pool {
    pub(crate) fn start(workers: usize) -> anyhow::Result<Self> {
        let mut pool = Pool(Vec::new());
        for _ in 0..workers {
            let mut child = Command::new(std::env::current_exe()?)
                .arg(WORKER_ARG)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let to = child.stdin.take().context("no stdin")?;
            let from = child.stdout.take().context("no stdout")?;
            pool.0.push(Worker { child, to, from });
        }
        Ok(pool)
    }

    /// The time of each input, where there are this many.
    pub(crate) fn run(&mut self, count: u32) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let next = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let driving: Vec<_> = (self.0.iter_mut())
                .map(|worker| {
                    let next = &next;
                    scope.spawn(move || {
                        while next.fetch_add(1, Ordering::Relaxed) < count {
                            worker.call(&SMALL)?;
                        }
                        anyhow::Ok(())
                    })
                })
                .collect();
            for one in driving {
                let Ok(driven) = one.join() else {
                    anyhow::bail!("a thread has panicked");
                };
                driven?;
            }
            Ok(())
        })?;
        Ok(began.elapsed() / count)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for Worker { child, .. } in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Worker {
    fn call(&mut self, input: &[u8]) -> anyhow::Result<()> {
        let mut message = u32::try_from(input.len())?.to_le_bytes().to_vec();
        message.extend(input);
        self.to.write_all(&message)?;
        let output = received(&mut self.from)?.context("a worker has ended")?;
        ensure!(output == input, "another output");
        Ok(())
    }
}

/// The worker: answers each input until there are no more.
pub(crate) fn work() -> anyhow::Result<()> {
    let bare = Bare::new("echo/echo.wat", Memory::PoolAsWrun, false)?;
    let runtime = bare::runtime()?;
    // Without a buffer, which would be a copy more.
    let open = |number: u8, for_writing: bool| {
        std::fs::OpenOptions::new()
            .read(!for_writing)
            .write(for_writing)
            .open(format!("/proc/self/fd/{number}"))
    };
    let (mut from, mut to) = (open(0, false)?, open(1, true)?);
    while let Some(input) = received(&mut from)? {
        let output = runtime.block_on(bare.run(&Bytes::from(input)))?;
        let mut message = u32::try_from(output.len())?.to_le_bytes().to_vec();
        message.extend(&output);
        to.write_all(&message)?;
    }
    Ok(())
}

/// A message with its length before it; `None` at the end.
fn received(from: &mut impl Read) -> anyhow::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    if from.read(&mut len[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut len[1..])?;
    let mut bytes = vec![0; u32::from_le_bytes(len) as usize];
    from.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}
