//! wrun beside what else one could take: the same work, in turns, in one go. What is not
//! installed (`runner/cli/benches/peers.sh` does it) is left out, and the tables say so.
//!
//! ```text
//! cargo bench -p wrun-cli --bench peers -- [--quick] [--json FILE] [--markdown FILE] [ROW]...
//! cargo bench -p wrun-cli --bench peers -- --render docs/peers.json --markdown docs/peers.md
//! ```
//!
//! A `ROW` is a part of a row's id. `--render` measures nothing: it makes the tables, and
//! with `--json` the words in the JSON, of the numbers in a JSON file again.

#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark starts what it measures"
)]

mod bare;
mod described;
mod embedded;
mod installed;
mod program;
mod protocol;
mod rounds;
mod shell;
mod table;
mod works;

use anyhow::Context;
use rounds::{Amount, Contender};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use table::{Machine, Measured, Row};

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
            other => anyhow::bail!("no such option: {other}"),
        }
    }
    let mut measured = match &options.render {
        Some(path) => {
            let json = std::fs::read(path);
            let json = json.with_context(|| format!("cannot read {}", path.display()))?;
            serde_json::from_slice(&json)?
        }
        None => measure(&options)?,
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

/// A file as cargo's user names it: from the top of the repository, where cargo changes to
/// the package. That it can be written is better known before all is measured.
fn named(file: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(file);
    let folder = path.parent().unwrap_or(&path);
    anyhow::ensure!(folder.is_dir(), "{} is no folder", folder.display());
    Ok(path)
}

fn write(path: &Path, what: String) -> anyhow::Result<()> {
    std::fs::write(path, what).with_context(|| format!("cannot write {}", path.display()))
}

/// Says of each row what `described.rs` says today.
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

fn measure(options: &Options) -> anyhow::Result<Measured> {
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
    let load_before = load()?;

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
        // Nobody is always the one behind somebody.
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
        date: date(),
        commit: commit(),
        machine: Machine {
            processor: processor()?,
            processors,
            kernel: kernel(),
            load: (load_before, load()?),
        },
        rounds: amount.rounds,
        batch_ms: u64::try_from(amount.batch.as_millis())?,
        in_flight: amount.in_flight,
        versions: installed::versions()?,
        rows: contenders.into_iter().map(Contender::row).collect(),
        skipped,
    })
}

fn date() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let (day, time) = now.split_once('T').unwrap_or((&now, ""));
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

fn processor() -> anyhow::Result<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.and_then(|rest| rest.split_once(": "));
    Ok(model.map_or("unknown", |it| it.1).to_owned())
}

fn kernel() -> String {
    let names = rustix::system::uname();
    let release = names.release().to_string_lossy();
    // The part that says what it is, without a distribution's build.
    let version = release.split(['-', '+']).next().unwrap_or_default();
    format!("{} {version}", names.sysname().to_string_lossy())
}

fn load() -> anyhow::Result<f64> {
    let averages = std::fs::read_to_string("/proc/loadavg")?;
    let minute = averages.split(' ').next().context("no load average")?;
    Ok(minute.parse()?)
}
