//! Node as a floor: `child_process.fork`, from the call to the first message; and its ways to
//! hand over bytes: `postMessage` to a thread, where they are transferred, and `send` to a
//! process, which copies them. And piscina, a pool of its threads.

use crate::measure::{Bench, Side};
use anyhow::Context;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
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
    _script: Option<tempfile::TempPath>,
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
            _script: Some(script),
        })
    }

    /// A line, and the time that answers it.
    fn ask(&mut self) -> anyhow::Result<Duration> {
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
    bench.row(name, floor, 40, wrun, &mut || node.ask())
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
    bench.row(name, floor, rounds, wrun, &mut || node.ask())
}

/// Answers each line with the nanoseconds of a batch: this many tasks, twice as many in flight as
/// there are processors.
const BATCH: &str = r"
const [worker, wasm, line, count] = process.argv.slice(1);
const { Piscina } = require('piscina');
const fs = require('node:fs');
const threads = require('node:os').availableParallelism();
const pool = new Piscina({
  filename: worker,
  minThreads: threads,
  maxThreads: threads,
  concurrentTasksPerWorker: 1,
  env: { ...process.env, WORK_KIND: 'piscina' },
  workerData: { module: new WebAssembly.Module(fs.readFileSync(wasm)) },
});
const input = new TextEncoder().encode(line);
async function batch() {
  let left = Number(count);
  await Promise.all(Array.from({ length: 2 * threads }, async () => {
    while (left-- > 0) {
      const output = await pool.run(input);
      if (Buffer.compare(output, input) !== 0) throw new Error('a wrong output');
    }
  }));
}
require('node:readline').createInterface({ input: process.stdin }).on('line', async () => {
  const began = process.hrtime.bigint();
  await batch();
  console.log(String(process.hrtime.bigint() - began));
});
";

/// A pool of piscina that runs batches of one task.
pub(crate) struct Pool(Node);

impl Pool {
    /// What each task is given; the work puts it out.
    pub(crate) const LINE: &str =
        "echo of sixty-four bytes in all, as they are in the other rows..";

    /// With `work.wasm`, and the packages in `modules`.
    pub(crate) fn start(modules: &Path, wasm: &Path, count: u32) -> anyhow::Result<Self> {
        let worker = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/node/worker.js");
        let mut child = Command::new("node")
            .args(["-e", BATCH, worker])
            .arg(wasm)
            .args([Pool::LINE, &count.to_string()])
            .env("NODE_PATH", modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start node")?;
        let to = child.stdin.take().context("no stdin")?;
        let from = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Pool(Node {
            child,
            to,
            from,
            _script: None,
        }))
    }

    /// The time of a batch.
    pub(crate) fn run(&mut self) -> anyhow::Result<Duration> {
        self.0.ask()
    }
}
