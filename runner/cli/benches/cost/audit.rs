//! Checks what `SPEC.md` promises and says which of it holds.

use crate::guest;
use crate::measure::Bench;
use crate::promise::{Check, Promise};
use crate::spec::{self, Files, Finding, Findings, Found, Verdict};
use crate::suite::{Suite, Went};
use anyhow::Context;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

/// Promises that are being checked.
pub(crate) struct Audit {
    promises: Vec<&'static Promise>,
    files: Files,
    /// Whether they get what is found.
    update: bool,
    quick: bool,
    machine: Machine,
    before: Findings,
    now: Findings,
}

/// Where and when.
struct Machine {
    date: String,
    name: String,
    busy: bool,
}

impl Audit {
    /// Has the benchmark measure the rows of the promises that it was asked for, and
    /// no others.
    ///
    /// # Errors
    ///
    /// It was asked for what nobody promised; the findings so far cannot be read.
    pub(crate) fn begin(bench: &mut Bench, update: bool) -> anyhow::Result<Self> {
        let promises = spec::chosen(&bench.wanted)?;
        let rows = promises.iter().filter_map(|promise| match promise.check {
            Check::Row { name, .. } => Some(name),
            Check::Test { .. } => None,
        });
        bench.only = Some(rows.collect());
        let root = guest("..").canonicalize()?;
        let files = Files::below(&root);
        let before = Findings::read(&files.findings)?;
        Ok(Audit {
            promises,
            before,
            files,
            update,
            quick: bench.quick,
            machine: Machine::this()?,
            now: Findings::default(),
        })
    }

    /// Takes what the rows say.
    pub(crate) fn rows(&mut self, bench: &Bench) -> anyhow::Result<()> {
        for promise in self.promises.clone() {
            let name = promise.check.name();
            if let Some(row) = bench.rows.iter().find(|row| row.name == name) {
                let ratio = row.ratio();
                let found = Found::Ratio {
                    median: ratio.median(),
                    p10: ratio.quantile(0.1),
                    p90: ratio.quantile(0.9),
                };
                self.note(promise, found);
            }
        }
        self.keep()
    }

    /// Runs the tests, one after the other.
    pub(crate) fn tests(&mut self) -> anyhow::Result<()> {
        let tests: Vec<_> = self
            .promises
            .iter()
            .filter_map(|promise| match promise.check {
                Check::Test { name, thorough, .. } => Some((*promise, name, thorough)),
                Check::Row { .. } => None,
            })
            .collect();
        if tests.is_empty() {
            return Ok(());
        }
        let suite = Suite::build()?;
        for (promise, name, thorough) in tests {
            eprintln!("{name} ...");
            let began = Instant::now();
            let went = suite.run(name, thorough.filter(|_| !self.quick))?;
            let time = began.elapsed().as_secs();
            match went {
                Went::Passed(said) => {
                    println!("{name} passes, {time} s");
                    for line in &said {
                        println!("    {line}");
                    }
                    self.note(promise, Found::Test { passed: true, said });
                }
                Went::Failed(said) => {
                    println!("{name} FAILS, {time} s");
                    for line in said {
                        println!("    {line}");
                    }
                    let said = Vec::new();
                    self.note(
                        promise,
                        Found::Test {
                            passed: false,
                            said,
                        },
                    );
                }
                Went::Skipped(why) => println!("{name} was skipped: {why}"),
            }
        }
        self.keep()
    }

    /// Says which hold, and ends with 1 where one does not that is said to.
    pub(crate) fn end(self) -> ExitCode {
        println!();
        let (mut hold, mut edge, mut miss) = (0, 0, 0);
        let mut unknown = Vec::new();
        for promise in &self.promises {
            let name = promise.check.name();
            let finding = self.now.0.get(promise.id);
            let verdict = self.now.verdict(promise);
            let (Some(finding), Some(verdict)) = (finding, verdict) else {
                unknown.push(promise.id);
                println!("{:<4} {:<20} {name}", promise.id, "not measured");
                continue;
            };
            match verdict {
                Verdict::Holds => hold += 1,
                Verdict::HoldsAtItsEdge | Verdict::MissesAtItsEdge => edge += 1,
                Verdict::Misses => miss += 1,
            }
            let bound = match promise.check {
                Check::Row { bound, .. } => bound.to_string(),
                Check::Test { bound, .. } => bound.to_owned(),
            };
            println!(
                "{:<4} {:<20} {:<24} {:<24} {name}",
                promise.id,
                verdict.words(),
                finding.found,
                bound
            );
        }
        println!(
            "\n{} promises: {hold} hold, {edge} at their edge, {miss} miss, {} not measured.",
            self.promises.len(),
            unknown.len()
        );
        if self.machine.busy {
            println!("The machine was busy when this began.");
        }
        if self.update {
            println!("Written to {}.", self.files.page.display());
        }
        let broken = self.before.broken(&self.now);
        if broken.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!("SPEC.md said that they hold: {}.", broken.join(", "));
        ExitCode::FAILURE
    }

    fn note(&mut self, promise: &Promise, found: Found) {
        let finding = Finding {
            date: self.machine.date.clone(),
            machine: self.machine.name.clone(),
            busy: self.machine.busy,
            quick: self.quick,
            found,
        };
        self.now.0.insert(promise.id.to_owned(), finding);
    }

    /// Writes what there is so far: a long run that is ended has not been for nothing.
    fn keep(&self) -> anyhow::Result<()> {
        if !self.update {
            return Ok(());
        }
        let mut all = Findings(self.before.0.clone());
        all.0.extend(self.now.0.clone());
        self.files.write(&all)
    }
}

impl Machine {
    fn this() -> anyhow::Result<Self> {
        let read = |path: &str| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
        };
        let processors = std::thread::available_parallelism()?.get();
        let model = read("/proc/cpuinfo")?
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1))
            .unwrap_or("unknown")
            .trim()
            .to_owned();
        let kernel = read("/proc/sys/kernel/osrelease")?;
        let kernel: Vec<_> = kernel.trim().splitn(3, '.').take(2).collect();
        let load = read("/proc/loadavg")?;
        let load: f64 = load.split(' ').next().context("no load")?.parse()?;
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let busy = load > processors as f64;
        if busy {
            eprintln!(
                "The machine is busy: {load} want to run on {processors} processors, building \
                 this among them. Figures will be worse than they are at rest; what rounds in \
                 turns leave of that is in their spread."
            );
        }
        let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Ok(Machine {
            date: now.split('T').next().unwrap_or_default().to_owned(),
            name: format!(
                "{processors} processors, {model}, Linux {}",
                kernel.join(".")
            ),
            busy,
        })
    }
}
