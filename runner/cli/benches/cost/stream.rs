//! Bytes through a task: stdin to stdout of the whole command.

use crate::measure::Bench;
use crate::{guest, wrun_command};
use anyhow::{Context, ensure};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const CHUNK: usize = 64 << 10;

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let total = if bench.quick { 128 << 20 } else { 1 << 30 };
    let scratch = tempfile::tempdir()?;
    let wrun = |mode: &str| {
        let mut command = wrun_command();
        command
            .env("WRUN_CACHE_DIR", scratch.path())
            .args(["--mode", mode])
            .arg(guest("cat/cat.wasm"));
        command
    };
    for (name, mode) in [
        ("stream 1 GiB, thread", "thread"),
        ("stream 1 GiB, process", "process"),
    ] {
        bench.row(
            name,
            "`cat`",
            5,
            &mut || stream(wrun(mode), total),
            &mut || stream(Command::new("cat"), total),
        )?;
    }
    Ok(())
}

fn stream(mut command: Command, total: usize) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut to = child.stdin.take().context("no stdin")?;
    let mut from = child.stdout.take().context("no stdout")?;
    let copied = std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let bytes = vec![b'w'; CHUNK];
            for _ in 0..total / CHUNK {
                to.write_all(&bytes)?;
            }
            std::io::Result::Ok(())
        });
        let mut bytes = vec![0; CHUNK];
        let mut copied = 0;
        loop {
            match from.read(&mut bytes)? {
                0 => break,
                len => copied += len,
            }
        }
        writer
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        anyhow::Ok(copied)
    })?;
    ensure!(child.wait()?.success() && copied == total, "{copied} bytes");
    Ok(began.elapsed())
}
