//! Servers as programs: how they are started, where they listen, what memory they have.

use crate::{bare, guest, wrun_program};
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};
use wrun_compare::measure::{Memory, Sorted, descendants};

/// How long a start, an end, and one answer may take.
const PATIENCE: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(10);

/// A server that runs. Dropped, it ends.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts a program, which says where it listens in its first lines.
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let (sender, said) = sync_channel(64);
        pass_on(child.stdout.take(), sender.clone());
        pass_on(child.stderr.take(), sender);
        let began = Instant::now();
        let mut all = String::new();
        let address = loop {
            let left = PATIENCE.saturating_sub(began.elapsed());
            match said.recv_timeout(left) {
                Ok(line) => {
                    if let Some(address) = address(&line) {
                        break address;
                    }
                    all += &line;
                    all.push('\n');
                }
                Err(_) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    bail!("{:?} does not listen: {all}", command.get_program());
                }
            }
        };
        Ok(Server { child, address })
    }

    /// Hyper alone.
    pub(crate) fn bare() -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(bare::ROLE);
        Server::start(command)
    }

    /// `wrun serve`.
    pub(crate) fn wrun(app: &str, options: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(wrun_program());
        command
            .args(["serve", "--addr", "127.0.0.1:0"])
            .args(options)
            .arg(guest(app));
        Server::start(command)
    }

    /// `wasmtime serve`, with the flags that make it fastest.
    pub(crate) fn wasmtime(app: &str) -> anyhow::Result<Self> {
        let program = wasmtime()?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--addr", "127.0.0.1:0"])
            .args(WASMTIME_FLAGS)
            .arg(guest(app));
        Server::start(command)
    }

    /// Node's `cluster`, with a worker for each processor.
    pub(crate) fn node(workers: usize) -> anyhow::Result<Self> {
        let there = Command::new("node").arg("--version").output();
        ensure!(there.is_ok(), "there is no node");
        let mut command = Command::new("node");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/serve/cluster.js");
        command.arg(script).arg(workers.to_string());
        Server::start(command)
    }

    /// Whether it answers a request rightly.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("hello\n"),
            "the answer is {answer:?}"
        );
        Ok(())
    }

    /// The memory that it has now.
    pub(crate) fn memory(&self) -> Used {
        let of = |pid: u32| {
            let memory = Memory::of(&pid.to_string());
            memory.map_or(0.0, |memory| memory.proportional)
        };
        let all = descendants(self.child.id());
        // What only starts others is not one.
        let workers = all.iter().filter(|pid| descendants(**pid).is_empty());
        let workers = Sorted::new(workers.map(|pid| of(*pid)).filter(|bytes| *bytes > 0.0));
        let rest = all.iter().map(|pid| of(*pid)).sum::<f64>();
        Used {
            all: of(self.child.id()) + rest,
            workers: workers.numbers().len(),
            worker: workers.median(),
        }
    }

    /// What it and all that it started have resident and alone, in bytes: quick to read.
    pub(crate) fn resident(&self) -> f64 {
        let own = std::iter::once(self.child.id());
        own.chain(descendants(self.child.id())).map(anonymous).sum()
    }

    /// What the program itself, without its workers, has resident, in bytes.
    pub(crate) fn resident_alone(&self) -> anyhow::Result<f64> {
        Ok(Memory::of(&self.child.id().to_string())?.resident)
    }
}

/// Memory of a server, in bytes, each shared page divided by the number of its users.
#[derive(Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) all: f64,
    /// Processes below it that have none below them.
    pub(crate) workers: usize,
    /// The median of these.
    pub(crate) worker: f64,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let began = Instant::now();
        while began.elapsed() < END {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes of a process that are no file's, from `statm`; none of one that has ended.
fn anonymous(pid: u32) -> f64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let mut pages = statm
        .split(' ')
        .skip(1)
        .map(|it| it.parse().unwrap_or(0.0_f64));
    let (resident, shared) = (
        pages.next().unwrap_or_default(),
        pages.next().unwrap_or_default(),
    );
    #[expect(clippy::cast_precision_loss, reason = "a page is small")]
    let page = rustix::param::page_size() as f64;
    (resident - shared).max(0.0) * page
}

/// Reads what a program prints to its end, and passes on the first lines.
fn pass_on(from: Option<impl Read + Send + 'static>, to: SyncSender<String>) {
    let Some(from) = from else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            let _ = to.try_send(line);
        }
    });
}

/// The address in a line such as `listening on http://127.0.0.1:8080/`.
fn address(line: &str) -> Option<SocketAddr> {
    let rest = line.split_once("http://")?.1;
    rest.split(['/', ' ']).next()?.parse().ok()
}

/// Of those that were tried, these make a difference: memory is kept and cleared by copying,
/// as wrun does it. Without concurrency support it answers a tenth of the requests.
pub(crate) const WASMTIME_FLAGS: [&str; 6] = [
    "-O",
    "pooling-memory-keep-resident=262144",
    "-O",
    "pooling-table-keep-resident=262144",
    "-O",
    "pooling-pagemap-scan=auto",
];

/// `WASMTIME_BIN`, or what `peers.sh` installed.
pub(crate) fn wasmtime() -> anyhow::Result<PathBuf> {
    let named = std::env::var_os("WASMTIME_BIN").map(PathBuf::from);
    let installed = wrun_program()
        .parent()
        .and_then(Path::parent)
        .map(|target| target.join("peers/wasmtime"));
    let program = named.or(installed).context("no target folder")?;
    ensure!(
        program.exists(),
        "there is no wasmtime: runner/cli/benches/peers.sh installs it"
    );
    Ok(program)
}
