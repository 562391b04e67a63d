//! Node as a floor: `child_process.fork`, from the call to the first message; and its ways to
//! hand over bytes: `postMessage` to a thread, where they are transferred, and `send` to a
//! process, which copies them.

use crate::measure::{Bench, Side};
use anyhow::Context;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Answers each line with the nanoseconds of one fork and its first message.
const PARENT: &str = r"
const { fork } = require('node:child_process');
const child = process.argv[1];
require('node:readline').createInterface({ input: process.stdin }).on('line', () => {
  const began = process.hrtime.bigint();
  const forked = fork(child);
  forked.once('message', () => {
    console.log(String(process.hrtime.bigint() - began));
    forked.kill('SIGKILL');
  });
  forked.send('w'.repeat(64));
});
";

const CHILD: &str = "process.on('message', (message) => process.send(message));\n";

struct Node {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    _script: tempfile::TempPath,
}

impl Node {
    fn start() -> anyhow::Result<Self> {
        Node::run(PARENT, &[], &[])
    }

    /// With a child's script between its arguments.
    fn run(program: &str, before: &[&str], after: &[&str]) -> anyhow::Result<Self> {
        let mut script = tempfile::Builder::new().suffix(".js").tempfile()?;
        script.write_all(CHILD.as_bytes())?;
        let script = script.into_temp_path();
        let mut child = Command::new("node")
            .args(["-e", program])
            .args(before)
            .arg(&*script)
            .args(after)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().context("no stdin")?;
        let from = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Node {
            child,
            to,
            from,
            _script: script,
        })
    }

    fn fork(&mut self) -> anyhow::Result<Duration> {
        writeln!(self.to)?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(Duration::from_nanos(line.trim().parse()?))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A row with Node as its floor; skipped without Node.
pub(crate) fn row(bench: &mut Bench, name: &'static str, wrun: Side<'_>) -> anyhow::Result<()> {
    let Ok(mut node) = Node::start() else {
        eprintln!("{name}: skipped: cannot start node");
        return Ok(());
    };
    let floor = "Node's child_process.fork, to the first message";
    bench.row(name, floor, 40, wrun, &mut || node.fork())
}

/// Answers each line with the nanoseconds of one round: this many bytes there and back.
const HAND_OVER: &str = r"
const { Worker } = require('node:worker_threads');
const { fork } = require('node:child_process');
const [way, child, size] = process.argv.slice(1);
let bytes = new ArrayBuffer(Number(size));
let began;
const there = (value) => {
  console.log(String(process.hrtime.bigint() - began));
  bytes = value;
};
let send;
if (way === 'thread') {
  const code = `const { parentPort } = require('node:worker_threads');
    parentPort.on('message', (bytes) => parentPort.postMessage(bytes, [bytes]));`;
  const worker = new Worker(code, { eval: true });
  worker.on('message', there);
  send = () => worker.postMessage(bytes, [bytes]);
} else {
  const forked = fork(child, { serialization: 'advanced' });
  forked.on('message', there);
  send = () => forked.send(bytes);
}
require('node:readline').createInterface({ input: process.stdin }).on('line', () => {
  began = process.hrtime.bigint();
  send();
});
";

/// A row of handing bytes over, with Node as its floor.
pub(crate) fn hand_over(
    bench: &mut Bench,
    name: &'static str,
    way: &str,
    size: u64,
    wrun: Side<'_>,
) -> anyhow::Result<()> {
    let (floor, rounds) = match way {
        "thread" => ("Node's postMessage, transferred", 40),
        _ => ("Node's process.send, advanced", 10),
    };
    if !bench.wants(name) {
        return Ok(());
    }
    let size = size.to_string();
    let Ok(mut node) = Node::run(HAND_OVER, &[way], &[&size]) else {
        eprintln!("{name}: skipped: cannot start node");
        return Ok(());
    };
    bench.row(name, floor, rounds, wrun, &mut || node.fork())
}
