//! The least that two processes need to say something to each other: a pair of
//! pipes, one write and one read on each side.

use crate::SMALL;
use anyhow::{Context, ensure};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// The argument that makes this program the other side.
pub(crate) const PEER_ARG: &str = "__pipe-peer";

pub(crate) struct Peer {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Peer {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(PEER_ARG)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().context("no stdin")?;
        let from = child.stdout.take().context("no stdout")?;
        Ok(Peer { child, to, from })
    }

    pub(crate) fn round_trip(&mut self) -> anyhow::Result<()> {
        let mut answer = [0; SMALL.len()];
        self.to.write_all(&SMALL)?;
        self.from.read_exact(&mut answer)?;
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other side.
pub(crate) fn answer() -> anyhow::Result<()> {
    let mut bytes = [0; SMALL.len()];
    // Not std's locked and line-buffered streams: nothing but the two calls.
    let mut from = std::fs::File::open("/proc/self/fd/0")?;
    let mut to = std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/fd/1")?;
    while from.read_exact(&mut bytes).is_ok() {
        to.write_all(&bytes)?;
    }
    Ok(())
}

/// The argument that makes this program write this many chunks to its stdout.
pub(crate) const FLOOD_ARG: &str = "__pipe-flood";

/// What is written at a time.
pub(crate) const CHUNK: usize = 64 << 10;

/// The time that this many chunks take from a process to this one.
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

/// The process that they come from.
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
