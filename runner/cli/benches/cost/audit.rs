//! Checks the promises of `SPEC.md`.

use crate::guest;
use crate::measure::Bench;
use crate::promise::{Check, Promise};
use crate::spec::{self, Files, Finding, Findings, Found, Verdict};
use crate::suite::{Suite, Went};
use std::process::ExitCode;
use std::time::Instant;
use wrun_compare::measure;

/// Promises that are being checked.
pub(crate) struct Audit {
    promises: Vec<&'static Promise>,
    files: Files,
    /// Whether the results are written to the files.
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
    /// Selects the rows of the wanted promises, and no others.
    ///
    /// # Errors
    ///
    /// A wanted promise does not exist; the earlier findings cannot be read.
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
            machine: Machine::this(),
            now: Findings::default(),
        })
    }

    /// Takes the results of the rows.
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

    /// Prints which promises hold; the exit code is 1 if one that held before clearly misses.
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
        println!(
            "These held according to SPEC.md, and now miss: {}.",
            broken.join(", ")
        );
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

    /// Writes the results so far, in case a long run is interrupted.
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
    fn this() -> Self {
        let here = measure::environment();
        let (processors, load) = (here.processors, here.load);
        // Without the patch level and the build of a distribution.
        let kernel: Vec<_> = here.kernel.splitn(3, '.').take(2).collect();
        let busy = load > f64::from(processors);
        if busy {
            eprintln!(
                "The machine is busy: the load average is {load} on {processors} processors, the \
                 build of this benchmark included. Times and ratios will be worse than at rest."
            );
        }
        Machine {
            date: here.date.split('T').next().unwrap_or_default().to_owned(),
            name: format!(
                "{processors} processors, {}, {}",
                here.cpu,
                kernel.join(".")
            ),
            busy,
        }
    }
}
