//! A server of NATS, and workers, as programs.

use crate::wrun_program;
use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a program may take until it can be used, and to its end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let ended = |child: &mut Child| Ok(child.try_wait()?.is_some());
        if eventually(|| ended(&mut self.0)).is_err() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// A server of NATS with a store of its own.
pub(crate) struct Server {
    running: Running,
    port: u16,
    pub(crate) folder: TempDir,
}

impl Server {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("nats-server");
        command
            .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
            .arg(folder.path().join("store"));
        let running = started(command).context("nats-server has to be installed")?;
        eventually(|| Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
        Ok(Server {
            running,
            port,
            folder,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.0.id()
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn version(&self) -> anyhow::Result<String> {
        let output = Command::new("nats-server").arg("--version").output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Starts workers, and waits until each is there.
    pub(crate) fn workers(&self, mode: &str, names: &[&str]) -> anyhow::Result<Workers> {
        let start = |name: &&str| {
            let mut command = Command::new(wrun_program());
            command
                .args(["worker", "--nats", &self.url(), "--mode", mode])
                .args(["--name", name]);
            started(command)
        };
        let running = names.iter().map(start).collect::<Result<_, _>>()?;
        let workers = Workers(running);
        eventually(|| {
            let listed = self.fleet(&["--json", "workers"])?;
            Ok(names
                .iter()
                .all(|name| listed.contains(&format!("\"{name}"))))
        })?;
        Ok(workers)
    }

    /// What `wrun fleet` prints.
    pub(crate) fn fleet(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(wrun_program());
        command.args(["fleet", "--nats", &self.url()]).args(args);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Workers of a fleet. Dropped, they end.
pub(crate) struct Workers(Vec<Running>);

impl Workers {
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.0.iter().map(|running| running.0.id()).collect()
    }
}

fn started(mut command: Command) -> anyhow::Result<Running> {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    Ok(Running(child))
}

fn eventually(mut is_done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let began = Instant::now();
    while !is_done()? {
        ensure!(began.elapsed() < PATIENCE, "it takes too long");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
