//! The least that bytes from another process cost: a pipe that it writes to.

use anyhow::{Context, ensure};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The argument that makes this program write this many chunks to its stdout.
pub(crate) const FLOOD_ARG: &str = "__pipe-flood";

/// Bytes of a write.
pub(crate) const CHUNK: usize = 64 << 10;

/// The time to start a process and read this many chunks from it.
pub(crate) fn flood(count: usize) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .args([FLOOD_ARG, &count.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut from = child.stdout.take().context("no stdout")?;
    let mut bytes = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match from.read(&mut bytes)? {
            0 => break,
            len => total += len,
        }
    }
    ensure!(
        child.wait()?.success() && total == count * CHUNK,
        "{total} bytes"
    );
    Ok(began.elapsed())
}

/// The other process: writes this many chunks.
pub(crate) fn pour(count: usize) -> anyhow::Result<()> {
    let mut to = std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/fd/1")?;
    let bytes = vec![b'w'; CHUNK];
    for _ in 0..count {
        to.write_all(&bytes)?;
    }
    Ok(())
}
