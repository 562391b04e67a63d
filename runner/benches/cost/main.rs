//! What wrun costs over the least that the same work can cost. Each row is a
//! ratio to a floor that is measured in the same run, round by round; a time
//! alone says more about the machine than about wrun. `docs/benchmarks.md` says
//! what each row and each floor is.
//!
//! ```text
//! cargo bench -p wrun --bench cost -- [--quick] [--json FILE] [ROW]...
//! ```
//!
//! A `ROW` is a part of a row's name. A row that misses its target is reported,
//! not failed: a busy machine is no regression.

mod bare;
mod broadcast;
mod command;
mod fork;
mod measure;
mod node;
mod pipe;
mod port;
mod process;
mod region;
mod report;
mod share;
mod stream;
mod thread;

use anyhow::Context;
use measure::Bench;
use std::path::PathBuf;

fn main() -> anyhow::Result<()> {
    wrun::worker_hook();
    let mut bench = Bench::default();
    let mut json = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            pipe::FLOOD_ARG => return pipe::pour(args.next().context("no count")?.parse()?),
            pipe::PEER_ARG => return pipe::answer(),
            fork::FORK_ARG => {
                let code = args.next().context("no code")?;
                return fork::serve(code.as_ref());
            }
            // From cargo.
            "--bench" => {}
            "--quick" => bench.quick = true,
            "--json" => json = Some(PathBuf::from(args.next().context("--json FILE")?)),
            row if !row.starts_with('-') => bench.wanted.push(row.to_owned()),
            other => anyhow::bail!("no such option: {other}"),
        }
    }
    thread::measure(&mut bench)?;
    process::measure(&mut bench)?;
    port::measure(&mut bench)?;
    broadcast::measure(&mut bench)?;
    share::measure(&mut bench)?;
    region::measure(&mut bench)?;
    command::measure(&mut bench)?;
    stream::measure(&mut bench)?;
    report::print(&bench.rows);
    if let Some(path) = json {
        std::fs::write(&path, report::json(&bench.rows).to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A file below `guest-tasks`.
fn guest(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-tasks")).join(path)
}

/// The `wrun` program that this benchmark was built with.
fn wrun_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_wrun"))
}

/// What the small tasks get and return.
const SMALL: [u8; 64] = [b'w'; 64];
