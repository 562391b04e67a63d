//! wrun and its alternatives: the same work, in turns, in one run. What is not installed
//! (`runner/cli/benches/peers.sh` installs it) is omitted, and the tables say so.
//!
//! ```text
//! cargo bench -p wrun-cli --bench peers -- [--quick] [--json FILE] [--markdown FILE] [ROW]...
//! cargo bench -p wrun-cli --bench peers -- --render docs/peers.json --markdown docs/peers.md
//! ```
//!
//! A `ROW` is a part of a row's id. `--render` measures nothing: from the numbers in a JSON file
//! it makes the tables again, and with `--json` the text in the JSON.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark starts what it measures"
)]

mod bare;
mod described;
mod embedded;
mod installed;
#[path = "../named.rs"]
mod named;
mod program;
mod protocol;
mod rounds;
mod shell;
mod table;
mod works;

use anyhow::Context;
use named::named;
use rounds::{Amount, Contender};
use std::path::{Path, PathBuf};
use std::time::Duration;
use table::{Machine, Measured, Row};
use wrun_compare::measure;

/// The argument that makes this program one of the peers.
const PEER_ARG: &str = "__peer";

#[derive(Default)]
struct Options {
    quick: bool,
    json: Option<PathBuf>,
    markdown: Option<PathBuf>,
    render: Option<PathBuf>,
    wanted: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    wrun::worker_hook();
    let mut options = Options::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut file = || named(&args.next().context("a file is missing")?);
        match arg.as_str() {
            PEER_ARG => {
                let id = args.next().context("no row")?;
                return serve(&id, args.next().context("no folder")?.as_ref());
            }
            // From cargo.
            "--bench" => {}
            "--quick" => options.quick = true,
            "--json" => options.json = Some(file()?),
            "--markdown" => options.markdown = Some(file()?),
            "--render" => options.render = Some(file()?),
            row if !row.starts_with('-') => options.wanted.push(row.to_owned()),
            other => anyhow::bail!("unknown option {other:?}"),
        }
    }
    let mut measured = match &options.render {
        Some(path) => {
            let json = std::fs::read(path);
            let json = json.with_context(|| format!("cannot read {}", path.display()))?;
            serde_json::from_slice(&json)?
        }
        None => measured(&options)?,
    };
    describe(&mut measured.rows);
    let page = table::markdown(&measured);
    match &options.markdown {
        Some(path) => write(path, page)?,
        None => print!("{page}"),
    }
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&measured)?;
        write(path, json + "\n")?;
    }
    Ok(())
}

fn write(path: &Path, what: String) -> anyhow::Result<()> {
    std::fs::write(path, what).with_context(|| format!("cannot write {}", path.display()))
}

/// Gives each row the text that `described.rs` has now.
fn describe(rows: &mut [Row]) {
    for row in rows {
        if let Some(words) = described::described(&row.id) {
            row.name = words.name.to_owned();
            row.state = words.state.to_owned();
            row.walls = words.walls.to_owned();
            row.crash = words.crash.to_owned();
            row.endless = words.endless.to_owned();
            row.fresh = words.fresh;
        }
    }
}

/// This program as a peer of itself.
fn serve(id: &str, folder: &Path) -> anyhow::Result<()> {
    match id {
        "bare-wasmtime" => protocol::serve(&bare::Bare::new(folder, false)?, folder),
        "bare-wasmtime-epochs" => protocol::serve(&bare::Bare::new(folder, true)?, folder),
        _ => protocol::serve(&embedded::Embedded::new(id, folder)?, folder),
    }
}

fn measured(options: &Options) -> anyhow::Result<Measured> {
    let processors = std::thread::available_parallelism()?.get();
    let amount = Amount {
        rounds: if options.quick { 3 } else { 10 },
        batch: Duration::from_millis(if options.quick { 50 } else { 150 }),
        in_flight: 4 * processors,
    };
    let scratch = tempfile::tempdir()?;
    let folder = scratch.path().join("folder");
    std::fs::create_dir(&folder)?;
    works::prepare(&folder)?;
    let here = measure::environment();

    let mut skipped = Vec::new();
    let mut contenders = Vec::new();
    let wanted = |id: &str| {
        options.wanted.is_empty() || options.wanted.iter().any(|it| id.contains(it.as_str()))
    };
    for row in described::PEERS.iter().filter(|row| wanted(row.id)) {
        match installed::way(row, &folder) {
            Ok(way) => contenders.push(Contender::new(row, way, scratch.path())?),
            Err(error) => skipped.push((row.name.to_owned(), error.to_string())),
        }
    }
    let of = |contender: &Contender| contender.described.name;
    for contender in &mut contenders {
        eprintln!("memory: {} ...", of(contender));
        contender.wait().with_context(|| of(contender))?;
    }
    for contender in &mut contenders {
        contender.warm().with_context(|| of(contender))?;
    }
    for round in 0..amount.rounds {
        eprintln!("round {} of {} ...", round + 1, amount.rounds);
        // In another order each time.
        let shift = round * 5 % contenders.len().max(1);
        contenders.rotate_left(shift);
        for contender in &mut contenders {
            contender.start().with_context(|| of(contender))?;
        }
        for work in 0..works::TIMED.len() {
            for contender in &mut contenders {
                contender
                    .batch(work, amount)
                    .with_context(|| of(contender))?;
            }
        }
        contenders.rotate_right(shift);
    }

    Ok(Measured {
        date: date(&measure::environment().date),
        commit: commit(),
        machine: Machine {
            processor: here.cpu,
            processors,
            // Without the build of a distribution.
            kernel: here
                .kernel
                .split(['-', '+'])
                .next()
                .unwrap_or_default()
                .to_owned(),
            load: (here.load, measure::environment().load),
        },
        rounds: amount.rounds,
        batch_ms: u64::try_from(amount.batch.as_millis())?,
        in_flight: amount.in_flight,
        versions: installed::versions()?,
        rows: contenders.into_iter().map(Contender::row).collect(),
        skipped,
    })
}

/// A date of RFC 3339 without its seconds.
fn date(of: &str) -> String {
    let (day, time) = of.split_once('T').unwrap_or((of, ""));
    format!("{day} {} UTC", time.get(..5).unwrap_or_default())
}

fn commit() -> String {
    let output = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty"])
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}
