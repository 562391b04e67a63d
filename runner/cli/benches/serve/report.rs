//! What was measured, for people and for programs.

use crate::Amount;
use crate::load::{CONNECTIONS, Load, Turn};
use crate::server::{self, Used, WASMTIME_FLAGS};
use serde::Serialize;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::process::Command;
use wrun_compare::Unit;
use wrun_compare::measure::{Sorted, environment};

#[derive(Serialize)]
pub(crate) struct Results {
    date: String,
    processor: String,
    processors: usize,
    kernel: String,
    /// The load average before and after.
    load_average: (f64, f64),
    /// Name and version of what is compared.
    versions: Vec<(String, String)>,
    load: String,
    connections: usize,
    rounds: usize,
    turn_ms: u128,
    pub(crate) hello: Vec<Hello>,
    tasks: Option<TaskRate>,
    pub(crate) transfer: Vec<Transfer>,
    pub(crate) idle: Vec<Idle>,
    ratios: Vec<Ratio>,
    skipped: Vec<(String, String)>,
}

/// Medians of the turns.
#[derive(Serialize)]
pub(crate) struct Hello {
    name: String,
    requests_per_second: f64,
    p50_ns: f64,
    p99_ns: f64,
    memory_bytes: f64,
    workers: usize,
    worker_bytes: f64,
}

#[derive(Serialize)]
struct TaskRate {
    name: String,
    tasks_per_second: f64,
}

#[derive(Serialize)]
pub(crate) struct Transfer {
    name: String,
    bytes: u64,
    bytes_per_second: f64,
    peak_bytes: f64,
    peak_bytes_64_mib: f64,
}

#[derive(Serialize)]
pub(crate) struct Idle {
    name: String,
    connections: usize,
    resident_bytes: f64,
    resident_bytes_each: f64,
    p99_ns_without: f64,
    p99_ns_with: f64,
    requests_per_second_without: f64,
    requests_per_second_with: f64,
}

/// A target.
#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Serialize)]
struct Ratio {
    name: String,
    ratio: f64,
    p10: f64,
    p90: f64,
    wanted: Option<String>,
    met: Option<bool>,
}

impl Hello {
    pub(crate) fn new(name: &str, turns: &[Turn], used: Used) -> Self {
        Hello {
            name: name.to_owned(),
            requests_per_second: median(turns, |turn| turn.rate),
            p50_ns: median(turns, |turn| turn.p50 * 1e9),
            p99_ns: median(turns, |turn| turn.p99 * 1e9),
            memory_bytes: used.all,
            workers: used.workers,
            worker_bytes: used.worker,
        }
    }
}

impl Transfer {
    pub(crate) fn new(
        name: &str,
        bytes: u64,
        rates: &[f64],
        peaks: &[f64],
        small_peaks: &[f64],
    ) -> Self {
        Transfer {
            name: name.to_owned(),
            bytes,
            bytes_per_second: median(rates, |it| *it),
            peak_bytes: median(peaks, |it| *it),
            peak_bytes_64_mib: median(small_peaks, |it| *it),
        }
    }
}

impl Idle {
    pub(crate) fn new(
        name: &str,
        connections: usize,
        empty: f64,
        resident: &[f64],
        without: &[Turn],
        with: &[Turn],
    ) -> Self {
        let resident_bytes = median(resident, |it| *it);
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let resident_bytes_each = (resident_bytes - empty) / connections as f64;
        Idle {
            name: name.to_owned(),
            connections,
            resident_bytes,
            resident_bytes_each,
            p99_ns_without: median(without, |turn| turn.p99 * 1e9),
            p99_ns_with: median(with, |turn| turn.p99 * 1e9),
            requests_per_second_without: median(without, |turn| turn.rate),
            requests_per_second_with: median(with, |turn| turn.rate),
        }
    }
}

fn median<T>(all: &[T], of: impl Fn(&T) -> f64) -> f64 {
    Sorted::new(all.iter().map(of)).median()
}

impl Results {
    pub(crate) fn new(amount: Amount, load: &Load) -> Self {
        let here = environment();
        Results {
            date: here.date,
            processor: here.cpu,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            // Without the build of a distribution.
            kernel: here
                .kernel
                .split(['-', '+'])
                .next()
                .unwrap_or("")
                .to_owned(),
            load_average: (here.load, here.load),
            versions: versions(),
            load: load.name(),
            connections: CONNECTIONS,
            rounds: amount.rounds,
            turn_ms: amount.turn.as_millis(),
            hello: Vec::new(),
            tasks: None,
            transfer: Vec::new(),
            idle: Vec::new(),
            ratios: Vec::new(),
            skipped: Vec::new(),
        }
    }

    pub(crate) fn end(&mut self) {
        self.load_average.1 = environment().load;
    }

    pub(crate) fn skip(&mut self, name: &str, why: &anyhow::Error) {
        eprintln!("{name}: skipped: {why:#}");
        self.skipped.push((name.to_owned(), format!("{why:#}")));
    }

    pub(crate) fn tasks(&mut self, name: &str, rates: &[f64]) {
        self.tasks = Some(TaskRate {
            name: name.to_owned(),
            tasks_per_second: median(rates, |it| *it),
        });
    }

    /// The ratio of each round, and what it should be.
    pub(crate) fn ratio(
        &mut self,
        name: &str,
        ratios: impl Iterator<Item = f64>,
        wanted: Option<Wanted>,
    ) {
        let ratios = Sorted::new(ratios);
        let ratio = ratios.median();
        let (text, met) = match wanted {
            Some(Wanted::AtLeast(least)) => (Some(format!(">= {least}")), Some(ratio >= least)),
            Some(Wanted::AtMost(most)) => (Some(format!("<= {most}")), Some(ratio <= most)),
            None => (None, None),
        };
        self.ratios.push(Ratio {
            name: name.to_owned(),
            ratio,
            p10: ratios.quantile(0.1),
            p90: ratios.quantile(0.9),
            wanted: text,
            met,
        });
    }
}

/// Names and versions of what was compared.
fn versions() -> Vec<(String, String)> {
    let says = |program: &Path, word: usize| {
        let output = Command::new(program).arg("--version").output().ok()?;
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(line.split_whitespace().nth(word)?.to_owned())
    };
    let lock = include_str!("../../../../Cargo.lock");
    let locked = |name: &str| {
        let rest = lock
            .split_once(&format!("name = \"{name}\"\nversion = \""))?
            .1;
        Some(rest.split('"').next()?.to_owned())
    };
    let wasmtime = server::wasmtime().ok().and_then(|it| says(&it, 1));
    let flags = WASMTIME_FLAGS.join(" ");
    [
        ("hyper", locked("hyper")),
        ("wasmtime within wrun", locked("wasmtime")),
        ("wasmtime serve", wasmtime.map(|it| format!("{it} {flags}"))),
        ("Node", says(Path::new("node"), 0)),
    ]
    .into_iter()
    .filter_map(|(name, version)| Some((name.to_owned(), version?)))
    .collect()
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, time) = (Unit::Bytes, Unit::Nanoseconds);
        if !self.hello.is_empty() {
            writeln!(
                f,
                "hello: {} connections that stay, {}, medians of {} rounds of {} ms",
                self.connections, self.load, self.rounds, self.turn_ms
            )?;
            let mut table = Table::new([
                "server",
                "requests/s",
                "p50",
                "p99",
                "memory",
                "workers",
                "each",
            ]);
            for row in &self.hello {
                table.row([
                    row.name.clone(),
                    format!("{:.0}", row.requests_per_second),
                    time.show(row.p50_ns),
                    time.show(row.p99_ns),
                    bytes.show(row.memory_bytes),
                    row.workers.to_string(),
                    match row.workers {
                        0 => String::new(),
                        _ => bytes.show(row.worker_bytes),
                    },
                ]);
            }
            writeln!(f, "{table}")?;
        }
        if let Some(tasks) = &self.tasks {
            writeln!(f, "{}: {:.0}/s\n", tasks.name, tasks.tasks_per_second)?;
        }
        if let Some(first) = self.transfer.first() {
            #[expect(clippy::cast_precision_loss, reason = "for people")]
            let size = bytes.show(first.bytes as f64);
            writeln!(f, "transfer: {size} up and down on one connection")?;
            let mut table = Table::new([
                "server",
                "each way, per second",
                "peak memory",
                "with 64 MiB",
            ]);
            for row in &self.transfer {
                table.row([
                    row.name.clone(),
                    bytes.show(row.bytes_per_second),
                    bytes.show(row.peak_bytes),
                    bytes.show(row.peak_bytes_64_mib),
                ]);
            }
            writeln!(f, "{table}")?;
        }
        if let Some(first) = self.idle.first() {
            writeln!(f, "idle: {} connections that wait", first.connections)?;
            let mut table = Table::new([
                "server",
                "memory",
                "each",
                "p99 without",
                "with",
                "requests/s without",
                "with",
            ]);
            for row in &self.idle {
                table.row([
                    row.name.clone(),
                    bytes.show(row.resident_bytes),
                    bytes.show(row.resident_bytes_each),
                    time.show(row.p99_ns_without),
                    time.show(row.p99_ns_with),
                    format!("{:.0}", row.requests_per_second_without),
                    format!("{:.0}", row.requests_per_second_with),
                ]);
            }
            writeln!(f, "{table}")?;
        }
        let mut table = Table::new(["ratio", "median", "p10..p90", "target", ""]);
        for row in &self.ratios {
            let verdict = row.met.map(|met| if met { "met" } else { "missed" });
            table.row([
                row.name.clone(),
                format!("{:.2}", row.ratio),
                format!("{:.2}..{:.2}", row.p10, row.p90),
                row.wanted.clone().unwrap_or_default(),
                verdict.unwrap_or_default().to_owned(),
            ]);
        }
        writeln!(f, "{table}")?;
        for (name, version) in &self.versions {
            writeln!(f, "{name} {version}")?;
        }
        for (name, why) in &self.skipped {
            writeln!(f, "skipped: {name}: {why}")?;
        }
        writeln!(
            f,
            "{} processors ({}), {}, load {:.1} to {:.1}",
            self.processors, self.processor, self.kernel, self.load_average.0, self.load_average.1
        )
    }
}

/// Columns: the first to the left, the others to the right.
struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    fn new(head: [&str; N]) -> Self {
        Table {
            rows: vec![head.map(str::to_owned)],
        }
    }

    fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        });
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                match column {
                    0 => write!(line, "{cell:<width$}")?,
                    _ => write!(line, "  {cell:>width$}")?,
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
