//! `wrun serve` under load, beside servers that do the same without wrun: the least that HTTP
//! costs (hyper alone), `wasmtime serve`, and Node's `cluster`. `docs/benchmarks.md` describes
//! the rows.
//!
//! ```text
//! cargo bench -p wrun-cli --bench serve -- [--quick] [--json FILE] [hello|transfer|idle]...
//! ```
//!
//! A target that is missed is reported and is not a failure: the machine may be busy. A wrong
//! answer is.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark starts what it measures"
)]

mod bare;
mod client;
mod hello;
mod idle;
mod load;
#[path = "../named.rs"]
mod named;
mod report;
mod server;
mod tasks;
mod transfer;

use anyhow::Context;
use named::named;
use report::Results;
use std::path::PathBuf;
use std::time::Duration;

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Amount {
    pub(crate) rounds: usize,
    /// Of each turn under load.
    pub(crate) turn: Duration,
    /// Bytes that go up and down.
    pub(crate) bytes: u64,
    /// Connections that only wait.
    pub(crate) idle: usize,
}

impl Amount {
    const FULL: Amount = Amount {
        rounds: 7,
        turn: Duration::from_secs(3),
        bytes: 1 << 30,
        idle: 10_000,
    };
    const QUICK: Amount = Amount {
        rounds: 3,
        turn: Duration::from_secs(1),
        bytes: 128 << 20,
        idle: 10_000,
    };
}

fn main() -> anyhow::Result<()> {
    wrun::worker_hook();
    let mut amount = Amount::FULL;
    let (mut json, mut wanted) = (None, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            bare::ROLE => return bare::serve(),
            client::ROLE => return client::act(&args.collect::<Vec<_>>()),
            // From cargo.
            "--bench" => {}
            "--quick" => amount = Amount::QUICK,
            "--json" => json = Some(named(&args.next().context("--json FILE")?)?),
            part @ ("hello" | "transfer" | "idle") => wanted.push(part.to_owned()),
            other => anyhow::bail!("unknown option {other:?}: expected hello, transfer or idle"),
        }
    }
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|it| it == part);
    let load = load::Load::find()?;
    let mut results = Results::new(amount, &load);
    let mut measure = || -> anyhow::Result<()> {
        if wants("hello") {
            hello::measure(amount, &load, &mut results)?;
        }
        if wants("transfer") {
            transfer::measure(amount, &mut results)?;
        }
        if wants("idle") {
            idle::measure(amount, &load, &mut results)?;
        }
        Ok(())
    };
    let measured = measure();
    // Also after a failure: what came before it took minutes.
    results.end();
    print!("{results}");
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&results)?;
        std::fs::write(&path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    measured
}

/// A file below `guest-tasks`.
fn guest(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-tasks")).join(path)
}

/// The `wrun` program that this benchmark was built with.
fn wrun_program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_wrun"))
}
