//! `wrun map` over lines, here and on the fleet, each command with its default: a job for each
//! processor.

use crate::cost::{Cost, Counted, cost};
use crate::server::Server;
use crate::{guest, wrun_program};
use anyhow::{Context, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

const WORKERS: [&str; 2] = ["one", "two"];
/// Tasks before those that are measured: modules are compiled, and processes started.
const WARM: u32 = 100;

pub(crate) fn here_in_processes(server: &Server, tasks: u32) -> anyhow::Result<Cost> {
    here(server, "process", tasks)
}

pub(crate) fn here_in_threads(server: &Server, tasks: u32) -> anyhow::Result<Cost> {
    here(server, "thread", tasks)
}

pub(crate) fn on_fleet_in_processes(server: &Server, tasks: u32) -> anyhow::Result<Cost> {
    on_fleet(server, "process", tasks)
}

pub(crate) fn on_fleet_in_threads(server: &Server, tasks: u32) -> anyhow::Result<Cost> {
    on_fleet(server, "thread", tasks)
}

fn here(server: &Server, mode: &str, tasks: u32) -> anyhow::Result<Cost> {
    let batch = Batch::new(server.folder.path(), tasks)?;
    let options = ["--mode", mode];
    let counted = Counted {
        server: server.pid(),
        workers: Vec::new(),
    };
    cost(tasks, &counted, || batch.run(&options))
}

fn on_fleet(server: &Server, mode: &str, tasks: u32) -> anyhow::Result<Cost> {
    let folder = server.folder.path();
    let workers = server.workers(mode, &WORKERS)?;
    let url = server.url();
    let options = ["--on", &url];
    Batch::new(folder, WARM)?.run(&options)?;
    let batch = Batch::new(folder, tasks)?;
    let counted = Counted {
        server: server.pid(),
        workers: workers.pids(),
    };
    cost(tasks, &counted, || batch.run(&options))
}

/// Lines of 64 bytes, each another.
struct Batch<'a> {
    folder: &'a Path,
    tasks: u32,
}

impl<'a> Batch<'a> {
    fn new(folder: &'a Path, tasks: u32) -> anyhow::Result<Self> {
        let mut lines = String::new();
        for number in 0..tasks {
            writeln!(lines, "{}", line(number))?;
        }
        std::fs::write(folder.join("lines"), lines)?;
        Ok(Batch { folder, tasks })
    }

    /// Runs a task that returns its input for each line.
    fn run(&self, options: &[&str]) -> anyhow::Result<()> {
        let output = self.folder.join("records");
        let mut command = Command::new(wrun_program());
        command
            .args(["map", "--no-progress"])
            .args(options)
            .arg("--lines")
            .arg(self.folder.join("lines"))
            .arg("--output")
            .arg(&output)
            .arg(guest("echo/echo.wat"));
        let ended = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.status.success(), "{command:?}: {said}");
        let records = std::fs::read_to_string(&output)?;
        std::fs::remove_file(output)?;
        let mut numbers = 0..self.tasks;
        for record in records.lines() {
            let record: Value = serde_json::from_str(record)?;
            let number = numbers.next().context("too many records")?;
            ensure!(record["output"] == line(number).as_str(), "{record}");
        }
        ensure!(numbers.is_empty(), "records are missing: {numbers:?}");
        Ok(())
    }
}

fn line(number: u32) -> String {
    format!("{number:064}")
}
