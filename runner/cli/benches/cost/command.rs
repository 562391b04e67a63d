//! The whole command, from the shell's point of view, beside `wasmtime run`.

use crate::measure::{Bench, each};
use crate::{guest, wrun_command, wrun_program};
use anyhow::{Context, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

struct Guest {
    /// Of the rows with `wasmtime run` as their floor.
    names: [&'static str; 3],
    /// Of the one with thread mode as its floor.
    over_thread: &'static str,
    path: &'static str,
    args: &'static [&'static str],
    input: Option<&'static str>,
}

const GUESTS: [Guest; 2] = [
    Guest {
        names: [
            "command hello, thread",
            "command hello, thread, precompiled",
            "command hello, process",
        ],
        over_thread: "command hello, process over thread",
        path: "hello-command/hello-command.wat",
        args: &[],
        input: None,
    },
    Guest {
        names: [
            "command csv-stats, thread",
            "command csv-stats, thread, precompiled",
            "command csv-stats, process",
        ],
        over_thread: "command csv-stats, process over thread",
        path: "csv-stats/csv-stats.wasm",
        args: &["region", "amount"],
        input: Some("inputs/sales.csv"),
    },
];

pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    for guest in &GUESTS {
        if bench.wants(guest.over_thread) {
            measure_modes(bench, guest, scratch.path())?;
        }
    }
    let mut names = GUESTS.iter().flat_map(|guest| guest.names);
    if !names.any(|name| bench.wants(name)) {
        return Ok(());
    }
    let Some(wasmtime) = wasmtime() else {
        eprintln!(
            "command: skipped: wasmtime not found: run runner/cli/benches/peers.sh, or set \
             WASMTIME_BIN"
        );
        return Ok(());
    };
    for guest in &GUESTS {
        measure_guest(bench, guest, &wasmtime, scratch.path())?;
    }
    Ok(())
}

/// The whole command in one mode and in the other.
fn measure_modes(bench: &mut Bench, task: &Guest, scratch: &Path) -> anyhow::Result<()> {
    let time = |mode: &str| {
        let mut command = wrun(task, mode, scratch);
        each(1, || succeed(&mut command, task.input))
    };
    bench.row(
        task.over_thread,
        "wrun --mode thread",
        100,
        &mut || time("process"),
        &mut || time("thread"),
    )
}

fn wrun(task: &Guest, mode: &str, scratch: &Path) -> Command {
    let mut command = wrun_command();
    command
        .env("WRUN_CACHE_DIR", scratch)
        .args(["--mode", mode])
        .arg(guest(task.path))
        .args(task.args);
    command
}

fn measure_guest(
    bench: &mut Bench,
    task: &Guest,
    wasmtime: &Path,
    scratch: &Path,
) -> anyhow::Result<()> {
    let module = guest(task.path);
    let compiled = scratch.join("task.cwasm");
    let status = Command::new(wasmtime)
        .arg("compile")
        .arg(&module)
        .arg("-o")
        .arg(&compiled)
        .status()?;
    ensure!(status.success(), "wasmtime cannot compile {}", task.path);
    let wrun = |mode: &str| wrun(task, mode, scratch);
    // Its compilation cache is on unless a configuration file says otherwise.
    let run = || {
        let mut command = Command::new(wasmtime);
        command.arg("run").arg(&module).args(task.args);
        command
    };
    let run_compiled = || {
        let mut command = Command::new(wasmtime);
        command
            .args(["run", "--allow-precompiled"])
            .arg(&compiled)
            .args(task.args);
        command
    };
    let [thread, precompiled, process] = task.names;
    let time = |command: Command| {
        let mut command = command;
        each(1, || succeed(&mut command, task.input))
    };
    let time_floor = time;
    bench.row(
        thread,
        "wasmtime run, warm cache",
        100,
        &mut || time(wrun("thread")),
        &mut || time_floor(run()),
    )?;
    bench.row(
        precompiled,
        "wasmtime run --allow-precompiled",
        100,
        &mut || time(wrun("thread")),
        &mut || time_floor(run_compiled()),
    )?;
    bench.row(
        process,
        "wasmtime run, warm cache",
        100,
        &mut || time(wrun("process")),
        &mut || time_floor(run()),
    )
}

fn succeed(command: &mut Command, input: Option<&str>) -> anyhow::Result<()> {
    let stdin = match input {
        Some(input) => Stdio::from(File::open(guest(input))?),
        None => Stdio::null(),
    };
    let status = command.stdin(stdin).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// The command to compare with: what `WASMTIME_BIN` names, or what `peers.sh`
/// installed.
pub(crate) fn wasmtime() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("WASMTIME_BIN") {
        return Some(path.into());
    }
    let installed = wrun_program()
        .ancestors()
        .nth(2)
        .context("no target directory")
        .ok()?
        .join("peers/wasmtime");
    installed.is_file().then_some(installed)
}
