//! The cost of each mode, measure by measure.

mod compute;
mod memory;
mod messages;
mod start;
mod tasks;
mod usage;

use super::bench::{Bench, Left};
use super::comparison::{Step, Watch};
use super::environment;
use super::results::{CostRow, Measure, Policy, Results};
use super::rounds::{self, NOISY, Row};
use crate::measure::Floor;
use bytes::Bytes;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;
use wrun::{
    Error, ErrorKind, Mode,
    measure::{Allocation, Bare, BareError},
};

/// A measure, and its part of the time.
type Part = (Measure, u32);

/// The measures, in their order.
const GROUPS: [&[Part]; 6] = [
    &[(Measure::Compile, 2), (Measure::Load, 1)],
    &[(Measure::Cold, 3)],
    &[(Measure::Warm, 6)],
    &[(Measure::Throughput, 5), (Measure::Latency, 4)],
    &[(Measure::RoundTrip, 3), (Measure::Bandwidth, 8)],
    &[
        (Measure::Resident, 1),
        (Measure::Proportional, 0),
        (Measure::Private, 0),
        (Measure::Descriptors, 1),
        (Measure::Compute, 3),
        (Measure::Cpu, 3),
        (Measure::Faults, 0),
        (Measure::Switches, 0),
    ],
];

/// Adds the wanted measures to `results`.
pub(super) fn measure(
    bench: &mut Bench<'_>,
    results: &mut Results,
    left: &mut Left,
    run: Duration,
    deterministic: bool,
    watch: Watch<'_>,
) -> Result<(), Error> {
    let is_http = bench.ready(Policy::Instance)?.is_http();
    let wanted = |(measure, _): &&Part| {
        bench.comparison.measures.contains(measure) && (is_http || *measure != Measure::Latency)
    };
    let parts: Vec<Part> = GROUPS
        .iter()
        .flat_map(|group| group.iter().filter(wanted))
        .copied()
        .collect();
    let all: u32 = parts.iter().map(|(_, weight)| *weight).sum::<u32>().max(1);
    left.expect(all);
    let mut before = 0;
    for (measure, weight) in parts {
        let mut tell = |step: Step<'_>| {
            let done = (before * 1000 + weight * step.done.min(1000)) / all;
            watch(Step { done, ..step })
        };
        let mut job = Job {
            bench,
            notes: Vec::new(),
            run,
            deterministic,
            time: left.take(weight),
            watch: &mut tell,
        };
        let rows = match measure {
            Measure::Compile => start::compile(&mut job),
            Measure::Load => start::load(&mut job),
            Measure::Cold => start::cold(&mut job),
            Measure::Warm => tasks::warm(&mut job),
            Measure::Throughput => tasks::throughput(&mut job),
            Measure::Latency => tasks::latency(&mut job),
            Measure::RoundTrip => messages::round_trips(&mut job),
            Measure::Bandwidth => messages::bandwidth(&mut job),
            Measure::Resident | Measure::Proportional | Measure::Private => {
                memory::memory(&mut job, measure)
            }
            Measure::Descriptors => memory::descriptors(&mut job),
            Measure::Compute => compute::compute(&mut job),
            Measure::Cpu | Measure::Faults | Measure::Switches => usage::usage(&mut job, measure),
        };
        let notes = job.notes;
        for note in notes {
            if !results.notes.contains(&note) {
                results.notes.push(note);
            }
        }
        match rows? {
            ControlFlow::Continue(rows) => results.cost.extend(rows),
            ControlFlow::Break(rows) => {
                results.cost.extend(rows);
                results.complete = false;
                break;
            }
        }
        before += weight;
    }
    results.cost.sort_by_key(|row| {
        (
            row.measure,
            row.transport,
            row.at,
            row.policy,
            row.mode == Mode::Process,
        )
    });
    noise(results);
    Ok(())
}

/// Notes that the machine was busy or noisy.
fn noise(results: &mut Results) {
    let processors = f64::from(results.environment.processors);
    let before = results.environment.load;
    if before > processors {
        results.notes.push(format!(
            "the machine was busy when this began: the load average was {before:.1} on {processors} \
             processors"
        ));
    }
    let floors = results.cost.iter().filter_map(|row| row.floor.as_ref());
    let floors: Vec<f64> = floors
        .filter(|floor| floor.value.len() > 2)
        .filter_map(|floor| floor.value.spread)
        .collect();
    let noisy = floors.iter().filter(|spread| **spread > NOISY).count();
    if noisy * 4 > floors.len() {
        results.notes.push(format!(
            "the machine was noisy: of {} floors, {noisy} have a spread of more than half of \
             their median (load {:.1} at the end); rely on ratios more than on times, and \
             measure again when it is quiet",
            floors.len(),
            environment::load()
        ));
    }
}

/// The context of one measure.
struct Job<'a, 'b> {
    bench: &'a mut Bench<'b>,
    notes: Vec<String>,
    /// How long the task takes in thread mode, about.
    run: Duration,
    deterministic: bool,
    time: Duration,
    watch: Watch<'a>,
}

type Rows = Result<ControlFlow<Vec<CostRow>, Vec<CostRow>>, Error>;

impl Job<'_, '_> {
    /// Measures rows in turns.
    fn rounds(&mut self, rows: Vec<Row<'_>>) -> Rows {
        let comparison = self.bench.comparison;
        let measured = rounds::measure(comparison, rows, self.time, &mut self.notes, self.watch);
        Ok(measured)
    }

    /// How many runs of the task fit a part of the time.
    fn fit(&self, part: Duration, most: u32) -> u32 {
        let run = self.run.max(Duration::from_micros(1));
        let fit = part.as_nanos() / run.as_nanos().max(1);
        u32::try_from(fit).unwrap_or(most).clamp(1, most)
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The task without wrun, in this process; `None` if it needs wrun.
    fn bare(&mut self) -> Result<Option<InProcess>, Error> {
        self.bare_with(Policy::Instance)
    }

    /// The same with the code of process mode, which checks nothing.
    fn unchecked(&mut self) -> Result<Option<Rc<InProcess>>, Error> {
        Ok(self.bare_with(Policy::Fork)?.map(Rc::new))
    }

    fn bare_with(&mut self, code_of: Policy) -> Result<Option<InProcess>, Error> {
        let comparison = self.bench.comparison;
        if self.needs_wrun() {
            return Ok(None);
        }
        let ready = self.bench.ready(code_of)?;
        let (_, output) = ready.done(ready.task(comparison))?;
        let expected = self.deterministic.then_some(output);
        let code = wrun::measure::code(&ready.runner, &ready.artifact)?;
        let made = [Allocation::Pool { slots: 64 }, Allocation::OnDemand]
            .into_iter()
            .filter(|allocation| code.meta.fits_a_pool() || *allocation == Allocation::OnDemand)
            .map(|allocation| {
                let engine =
                    wrun::measure::runtime(code.meta.kind(), allocation).map_err(|error| {
                        BareError::Wasmtime(wasmtime::Error::msg(error.to_string()))
                    })?;
                let bare = InProcess {
                    bare: Bare::new(&engine, &code)?,
                    runtime: runtime()?,
                    spec: ready.spec(comparison),
                    input: ready.input(comparison),
                };
                let output = bare.run()?;
                match expected.as_ref().is_none_or(|expected| *expected == output) {
                    true => Ok(bare),
                    false => Err(BareError::Differs),
                }
            });
        let mut why = None;
        for bare in made {
            match bare {
                Ok(bare) => return Ok(Some(bare)),
                Err(error) => why = Some(error),
            }
        }
        self.no_floor(why.map_or_else(String::new, |why: BareError| why.to_string()));
        Ok(None)
    }

    /// Notes that the task has no floor, in a line.
    fn no_floor(&mut self, why: String) {
        let line = why.lines().next().unwrap_or_default();
        let line: String = line.chars().take(200).collect();
        self.note(format!("the task has no floor: {line}"));
    }

    /// Whether the task has grants that only wrun provides.
    fn needs_wrun(&mut self) -> bool {
        let comparison = self.bench.comparison;
        let needs = !comparison.tcp.is_empty()
            || !comparison.http.is_empty()
            || !comparison.tasks.is_empty();
        if needs {
            self.no_floor("it is granted addresses or tasks".into());
        }
        needs
    }

    /// A program that runs the task without wrun; `None` if it needs wrun.
    fn floor(&mut self) -> Result<Option<Floor>, Error> {
        if self.needs_wrun() {
            return Ok(None);
        }
        let Some(mut floor) = self.idle_floor() else {
            return Ok(None);
        };
        let ready = self.bench.ready(Policy::Fork)?;
        let code = wrun::measure::code(&ready.runner, &ready.artifact)?;
        let comparison = self.bench.comparison;
        let spec = ready.spec(comparison);
        let program = self.bench.program.clone();
        let expected = match self.deterministic {
            true => Some(ready.done(ready.task(comparison))?.1),
            false => None,
        };
        let loaded = floor.load(&code, &spec, &ready.input(comparison), Some(&program));
        match loaded {
            Ok(output) if expected.is_none_or(|expected| expected == output) => Ok(Some(floor)),
            Ok(_) => {
                self.no_floor(BareError::Differs.to_string());
                Ok(None)
            }
            Err(error) => {
                self.no_floor(error.to_string());
                Ok(None)
            }
        }
    }

    /// The same program, with no task.
    fn idle_floor(&mut self) -> Option<Floor> {
        match Floor::start(&self.bench.program) {
            Ok(floor) => Some(floor),
            Err(error) => {
                self.note(format!("floors of processes were not measured: {error}"));
                None
            }
        }
    }
}

/// A task without wrun, on a thread of this process.
struct InProcess {
    bare: Bare,
    runtime: tokio::runtime::Runtime,
    spec: wrun::measure::Spec,
    input: Bytes,
}

impl InProcess {
    fn run(&self) -> Result<Bytes, BareError> {
        let run = self.bare.run(&self.spec, &self.input);
        self.runtime.block_on(run).map_err(BareError::Wasmtime)
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, BareError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| BareError::Wasmtime(wasmtime::Error::msg(error.to_string())))
}

fn nanos(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

/// An error of a floor or of the system.
fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::System, error.to_string())
}
