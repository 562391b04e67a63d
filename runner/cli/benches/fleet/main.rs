//! A batch through a fleet, beside the same batch on this machine, and beside what NATS itself
//! costs. `docs/benchmarks.md` describes the rows.
//!
//! ```text
//! cargo bench -p wrun-cli --bench fleet -- [--quick] [--json FILE] [--large]
//! ```
//!
//! Needs `nats-server`. A wrong answer is a failure; a slow one is not.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark starts what it measures"
)]

mod batch;
mod cost;
mod large;
#[path = "../named.rs"]
mod named;
mod nats;
mod server;

use anyhow::Context;
use cost::Cost;
use named::named;
use serde_json::{Value, json};
use server::Server;
use std::path::PathBuf;
use wrun_compare::measure::Sorted;

/// Tasks of a turn.
const TASKS: u32 = 10_000;
const FEW: u32 = 2_000;

/// What is measured in each round, in this order or from its end.
struct Row {
    name: &'static str,
    measure: fn(&Server, u32) -> anyhow::Result<Cost>,
    turns: Vec<Cost>,
}

impl Row {
    fn new(name: &'static str, measure: fn(&Server, u32) -> anyhow::Result<Cost>) -> Self {
        Row {
            name,
            measure,
            turns: Vec::new(),
        }
    }

    /// The median of a number of all turns.
    fn median(&self, number: impl Fn(&Cost) -> f64) -> f64 {
        Sorted::new(self.turns.iter().map(number)).median()
    }
}

fn main() -> anyhow::Result<()> {
    let (mut tasks, mut rounds) = (TASKS, 5);
    let (mut json, mut is_large) = (None, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // From cargo.
            "--bench" => {}
            "--quick" => (tasks, rounds) = (FEW, 3),
            "--large" => is_large = true,
            "--json" => json = Some(named(&args.next().context("--json FILE")?)?),
            other => anyhow::bail!("unknown option {other:?}"),
        }
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let server = Server::start()?;
    let mut rows = [
        Row::new("wrun map --mode process, here", batch::here_in_processes),
        Row::new("wrun map --on, processes", batch::on_fleet_in_processes),
        Row::new("wrun map --mode thread, here", batch::here_in_threads),
        Row::new("wrun map --on, threads", batch::on_fleet_in_threads),
        Row::new("NATS request and reply", nats::request_reply),
        Row::new("JetStream task and result", nats::task_result),
    ];
    for round in 0..rounds {
        let mut turn = |row: &mut Row| -> anyhow::Result<()> {
            eprintln!("round {}: {} ...", round + 1, row.name);
            row.turns.push((row.measure)(&server, tasks)?);
            Ok(())
        };
        match round % 2 {
            0 => rows.iter_mut().try_for_each(&mut turn)?,
            _ => rows.iter_mut().rev().try_for_each(&mut turn)?,
        }
    }
    println!(
        "{tasks} tasks of 64 bytes, {rounds} rounds, {}; medians, microseconds a task\n",
        server.version()?
    );
    println!("| | wall | cpu, submitter | cpu, server | cpu, workers |");
    println!("|---|--:|--:|--:|--:|");
    for row in &rows {
        println!(
            "| {} | {:.1} | {:.1} | {:.1} | {:.1} |",
            row.name,
            row.median(|cost| cost.wall),
            row.median(|cost| cost.submitter),
            row.median(|cost| cost.server),
            row.median(|cost| cost.workers),
        );
    }
    let large = match is_large {
        true => Some(large::measure(&server)?),
        false => None,
    };
    if let Some(large) = &large {
        println!("\n{large}");
    }
    if let Some(path) = json {
        write(&path, tasks, &rows)?;
    }
    Ok(())
}

fn write(path: &PathBuf, tasks: u32, rows: &[Row]) -> anyhow::Result<()> {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| json!({"name": row.name, "unit": "us a task", "turns": row.turns}))
        .collect();
    let text = serde_json::to_string_pretty(&json!({"tasks": tasks, "rows": rows}))?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// A file below `guest-tasks`.
fn guest(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tasks")).join(path)
}

/// The `wrun` program that this benchmark was built with.
fn wrun_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_wrun"))
}
