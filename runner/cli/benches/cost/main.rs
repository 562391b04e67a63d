//! The cost of wrun compared with the least that the same work can cost. Each row is a
//! ratio to a floor that is measured in the same run, round by round: a time alone says
//! more about the machine than about wrun. `docs/benchmarks.md` describes each row and
//! each floor.
//!
//! ```text
//! cargo bench -p wrun-cli --bench cost -- [--quick] [--json FILE] [ROW]...
//! cargo bench -p wrun-cli --bench cost -- --spec [--no-tests] [--quick] [PROMISE]...
//! cargo bench -p wrun-cli --bench cost -- --spec-update ...
//! ```
//!
//! A `ROW` is a part of a row's name. A row that misses its target is reported and is not
//! a failure: the machine may be busy.
//!
//! `--spec` measures the rows with a target (`promise.rs`), runs the tests that check the
//! other promises, and reports which hold. The exit code is 1 if a promise that holds
//! according to `SPEC.md` clearly misses its target, and 2 after an error. A `PROMISE` is
//! an id, or a part of the name of a row or test. `--spec-update` does the same and writes
//! the findings to `SPEC.md`.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark starts what it measures"
)]

mod audit;
mod bare;
mod batch;
mod broadcast;
mod command;
mod compute;
mod flood;
mod map;
mod measure;
#[path = "../named.rs"]
mod named;
mod node;
mod pipe;
mod pool;
mod port;
mod process;
mod promise;
mod region;
mod report;
mod share;
mod spec;
mod stream;
mod suite;
mod thread;

use anyhow::{Context, ensure};
use audit::Audit;
use measure::Bench;
use named::named;
use std::path::PathBuf;
use std::process::ExitCode;
use wrun_compare::measure::{Floor, FloorProgram};

fn main() -> ExitCode {
    wrun_compare::worker_hook();
    benchmark().unwrap_or_else(|error| {
        eprintln!("cost: {error:#}");
        // 1 means that a promise of SPEC.md is broken.
        ExitCode::from(2)
    })
}

fn benchmark() -> anyhow::Result<ExitCode> {
    let mut bench = Bench::default();
    let mut json = None;
    let (mut spec, mut tests, mut update) = (false, true, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            pipe::FLOOD_ARG => {
                pipe::pour(args.next().context("no count")?.parse()?)?;
                return Ok(ExitCode::SUCCESS);
            }
            pool::WORKER_ARG => {
                pool::work()?;
                return Ok(ExitCode::SUCCESS);
            }
            // From cargo.
            "--bench" => {}
            "--quick" => bench.quick = true,
            "--json" => json = Some(named(&args.next().context("--json FILE")?)?),
            "--spec" => spec = true,
            "--spec-update" => (spec, update) = (true, true),
            "--no-tests" => tests = false,
            row if !row.starts_with('-') => bench.wanted.push(row.to_owned()),
            other => anyhow::bail!("unknown option {other:?}"),
        }
    }
    ensure!(spec || tests, "--no-tests is for --spec");
    let audit = match spec {
        true => Some(Audit::begin(&mut bench, update)?),
        false => None,
    };
    thread::measure(&mut bench)?;
    compute::measure(&mut bench)?;
    process::measure(&mut bench)?;
    map::measure(&mut bench)?;
    batch::measure(&mut bench)?;
    port::measure(&mut bench)?;
    broadcast::measure(&mut bench)?;
    flood::measure(&mut bench)?;
    flood::measure_computing(&mut bench)?;
    share::measure(&mut bench)?;
    region::measure(&mut bench)?;
    command::measure(&mut bench)?;
    stream::measure(&mut bench)?;
    report::print(&bench.rows);
    if let Some(path) = json {
        std::fs::write(&path, report::json(&bench.rows).to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let Some(mut audit) = audit else {
        return Ok(ExitCode::SUCCESS);
    };
    audit.rows(&bench)?;
    if tests {
        audit.tests()?;
    }
    Ok(audit.end())
}

/// A file below `guest-tasks`.
fn guest(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tasks")).join(path)
}

/// The `wrun` program that this benchmark was built with.
fn wrun_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_wrun"))
}

/// The command as a user's shell starts it: without cargo's own `LD_LIBRARY_PATH`, with which no
/// worker is forked early.
fn wrun_command() -> std::process::Command {
    let mut command = std::process::Command::new(wrun_program());
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// The floor of processes: this program, which has no task loaded.
fn idle_floor() -> std::io::Result<Floor> {
    Floor::start(&FloorProgram::on_small_pages(std::env::current_exe()?))
}

/// The input and output of small tasks.
const SMALL: [u8; 64] = [b'w'; 64];
