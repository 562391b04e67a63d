//! What wrun costs over the least that the same work can cost. Each row is a
//! ratio to a floor that is measured in the same run, round by round; a time
//! alone says more about the machine than about wrun. `docs/benchmarks.md` says
//! what each row and each floor is.
//!
//! ```text
//! cargo bench -p wrun-cli --bench cost -- [--quick] [--json FILE] [ROW]...
//! cargo bench -p wrun-cli --bench cost -- --spec [--no-tests] [--quick] [PROMISE]...
//! cargo bench -p wrun-cli --bench cost -- --spec-update ...
//! ```
//!
//! A `ROW` is a part of a row's name. A row that misses its target is reported,
//! not failed: a busy machine is no regression.
//!
//! `--spec` measures the rows of which something is promised (`promise.rs`), runs the
//! tests that keep the other promises, and says which hold. It ends with 1 where one
//! clearly misses that `SPEC.md` says holds, with 2 where it could not go on. A
//! `PROMISE` is its id, or a part of the name of its row or test. `--spec-update` does
//! the same and writes what it found to `SPEC.md`.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark starts what it measures"
)]

mod audit;
mod bare;
mod broadcast;
mod command;
mod flood;
mod fork;
mod measure;
mod node;
mod pipe;
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
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    wrun::worker_hook();
    benchmark().unwrap_or_else(|error| {
        eprintln!("cost: {error:#}");
        // 1 is for promises that are not kept.
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
            pipe::PEER_ARG => {
                pipe::answer()?;
                return Ok(ExitCode::SUCCESS);
            }
            fork::FORK_ARG => {
                let code = args.next().context("no code")?;
                fork::serve(code.as_ref())?;
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
            other => anyhow::bail!("no such option: {other}"),
        }
    }
    ensure!(spec || tests, "--no-tests is for --spec");
    let audit = match spec {
        true => Some(Audit::begin(&mut bench, update)?),
        false => None,
    };
    thread::measure(&mut bench)?;
    process::measure(&mut bench)?;
    port::measure(&mut bench)?;
    broadcast::measure(&mut bench)?;
    flood::measure(&mut bench)?;
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

/// A file as cargo's user names it: from the top of the repository, where cargo changes to
/// the package. That it can be written is better known before all is measured.
fn named(file: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(file);
    let folder = path.parent().unwrap_or(&path);
    ensure!(folder.is_dir(), "{} is no folder", folder.display());
    Ok(path)
}

/// A file below `guest-tasks`.
fn guest(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tasks")).join(path)
}

/// The `wrun` program that this benchmark was built with.
fn wrun_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_wrun"))
}

/// What the small tasks get and return.
const SMALL: [u8; 64] = [b'w'; 64];
