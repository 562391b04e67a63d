//! Rounds: every row in turn, so that other load on the machine affects all of them.

use crate::described::Described;
use crate::installed::Way;
use crate::program::{Program, memory_of, processor_time_of};
use crate::protocol::{Peer as _, one_by_one};
use crate::table::{Row, Spread, Work};
use crate::works::{self, TIMED};
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use wrun_compare::measure::Sorted;

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Amount {
    pub(crate) rounds: usize,
    pub(crate) batch: Duration,
    pub(crate) in_flight: usize,
}

/// Tasks that wait when memory is measured first, and more of them the second time.
const HELD: usize = 4;
const MORE: usize = 16;
/// Time for what was started to become idle.
const SETTLE: Duration = Duration::from_millis(400);
/// Enough to reach each worker of a pool twice.
const CALLS: usize = 8;

/// A row while it is measured.
pub(crate) struct Contender {
    pub(crate) described: &'static Described,
    way: Way,
    /// Where it keeps compiled code.
    cache: PathBuf,
    running: Option<Program>,
    /// The expected outputs, for shells.
    expected: [Vec<u8>; 3],
    first: Vec<f64>,
    again: Vec<f64>,
    waiting_bytes: Option<f64>,
    works: [Samples; 3],
}

#[derive(Default)]
struct Samples {
    medians: Vec<f64>,
    all: Vec<f64>,
    rates: Vec<f64>,
    /// Processor time of a task, round by round.
    processor_times: Vec<f64>,
}

impl Contender {
    pub(crate) fn new(
        described: &'static Described,
        way: Way,
        scratch: &Path,
    ) -> anyhow::Result<Self> {
        let cache = scratch.join("caches").join(described.id);
        std::fs::create_dir_all(&cache)?;
        let way = match way {
            Way::Shell(shell) => Way::Shell(shell.with_cache(&cache)),
            program => program,
        };
        Ok(Contender {
            described,
            way,
            cache,
            running: None,
            expected: Default::default(),
            first: Vec::new(),
            again: Vec::new(),
            waiting_bytes: None,
            works: Default::default(),
        })
    }

    /// The memory of one more task or worker that waits, while nothing else of ours runs.
    pub(crate) fn wait(&mut self) -> anyhow::Result<()> {
        // Both find the compiled code in the cache.
        self.memory_with(1)?;
        let few = self.memory_with(HELD)?;
        let many = self.memory_with(HELD + MORE)?;
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let each = (many - few) / MORE as f64;
        self.waiting_bytes = Some(each.max(0.0).round());
        Ok(())
    }

    fn memory_with(&self, count: usize) -> anyhow::Result<f64> {
        match &self.way {
            Way::Shell(shell) => {
                shell.run(&works::input("small"))?;
                let held = shell.hold(count)?;
                std::thread::sleep(SETTLE);
                let memory = memory_of(std::process::id())?;
                drop(held);
                Ok(memory)
            }
            Way::Program(how) => {
                let mut program = Program::start(how, &self.cache, Stdio::inherit())?;
                program.ask("first small")?;
                program.ask(&format!("hold {count}"))?;
                std::thread::sleep(SETTLE);
                memory_of(program.id())
            }
        }
    }

    /// Starts it for all rounds, and checks its outputs and whether its tasks are fresh.
    pub(crate) fn warm(&mut self) -> anyhow::Result<()> {
        if let Way::Program(how) = &self.way {
            self.running = Some(Program::start(how, &self.cache, Stdio::inherit())?);
        }
        for (index, name) in TIMED.into_iter().enumerate() {
            let output = self.output(name)?;
            works::check(name, &output)?;
            self.expected[index] = output;
        }
        let mut fresh = true;
        for _ in 0..CALLS {
            fresh &= self.output("count")? == b"1";
        }
        ensure!(
            fresh == self.described.fresh,
            "tasks {} data of earlier tasks, expected the opposite",
            if fresh { "do not find" } else { "find" }
        );
        Ok(())
    }

    fn output(&mut self, name: &str) -> anyhow::Result<Vec<u8>> {
        match &self.way {
            Way::Shell(shell) => shell.run(&works::input(name)),
            Way::Program(_) => {
                let program = self.running.as_mut().context("not started")?;
                works::bytes(&program.ask(&format!("first {name}"))?)
            }
        }
    }

    /// The time from the start of the program to its first result: with nothing cached, and
    /// with what another start cached.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let empty = tempfile::tempdir()?;
        let first = self.first_result(empty.path())?;
        self.first.push(first);
        if self.described.caches {
            let again = self.first_result(empty.path())?;
            self.again.push(again);
        }
        Ok(())
    }

    fn first_result(&self, cache: &Path) -> anyhow::Result<f64> {
        let input = works::input("small");
        let began = Instant::now();
        let (output, took) = match &self.way {
            Way::Shell(shell) => {
                let output = shell.with_cache(cache).run(&input)?;
                (output, began.elapsed())
            }
            Way::Program(how) => {
                // It is ended while some of its workers still start, and these report an error.
                let mut program = Program::start(how, cache, Stdio::null())?;
                let output = program.ask("first small")?;
                let took = began.elapsed();
                (works::bytes(&output)?, took)
            }
        };
        ensure!(output == input, "a wrong first result");
        Ok(took.as_secs_f64() * 1e9)
    }

    /// One batch of tasks one by one, and one of several at a time.
    pub(crate) fn batch(&mut self, work: usize, amount: Amount) -> anyhow::Result<()> {
        let name = TIMED[work];
        let time = amount.batch.as_millis();
        let before = self.processor_time()?;
        let (times, count, took) = match &self.way {
            Way::Shell(shell) => {
                let (input, expected) = (works::input(name), &self.expected[work]);
                let times = one_by_one(shell, &input, expected, amount.batch)?;
                let (count, took) = shell.many(&input, expected, amount.batch, amount.in_flight)?;
                (times, count, took.as_secs_f64())
            }
            Way::Program(_) => {
                let program = self.running.as_mut().context("not started")?;
                let times = program.ask(&format!("latency {name} {time}"))?;
                let times: Result<Vec<u64>, _> = times.split_whitespace().map(str::parse).collect();
                let order = format!("throughput {name} {time} {}", amount.in_flight);
                let many = program.ask(&order)?;
                let (count, took) = many.split_once(' ').context("no count")?;
                (times?, count.parse()?, took.parse::<f64>()? / 1e9)
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let times: Vec<f64> = times.into_iter().map(|it| it as f64).collect();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let rate = count as f64 / took;
        let processor_time = self.processor_time()? - before;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let tasks = times.len() as f64 + count as f64;
        let samples = &mut self.works[work];
        samples.processor_times.push(processor_time / tasks);
        samples
            .medians
            .push(Sorted::new(times.iter().copied()).median());
        samples.all.extend(times);
        samples.rates.push(rate);
        Ok(())
    }

    /// What all of its processes have used until now, in nanoseconds.
    fn processor_time(&self) -> anyhow::Result<f64> {
        match &self.way {
            Way::Shell(_) => {
                let used = wrun::measure::sys::children_usage();
                Ok((used.user_cpu + used.system_cpu).as_secs_f64() * 1e9)
            }
            Way::Program(_) => {
                let program = self.running.as_ref().context("not started")?;
                processor_time_of(program.id())
            }
        }
    }

    /// The row of the table; [`described`](crate::described) adds the text.
    pub(crate) fn row(self) -> Row {
        let [small, compute, large] = self.works.map(Samples::work);
        Row {
            id: self.described.id.to_owned(),
            name: String::new(),
            state: String::new(),
            walls: String::new(),
            crash: String::new(),
            endless: String::new(),
            fresh: self.described.fresh,
            first_ns: spread(&self.first),
            again_ns: self.described.caches.then(|| spread(&self.again)),
            waiting_bytes: self.waiting_bytes,
            small,
            compute,
            large,
        }
    }
}

impl Samples {
    fn work(self) -> Work {
        let all = Sorted::new(self.all);
        let tasks = all.numbers().len();
        Work {
            p50_ns: spread(&self.medians),
            p99_ns: (tasks >= 100).then(|| all.quantile(0.99)),
            tasks,
            per_second: spread(&self.rates),
            processor_ns: spread(&self.processor_times),
        }
    }
}

fn spread(numbers: &[f64]) -> Spread {
    let sorted = Sorted::new(numbers.iter().copied());
    // To a tenth of a nanosecond, or of a task per second.
    let at = |part| (sorted.quantile(part) * 10.0).round() / 10.0;
    Spread {
        p10: at(0.1),
        median: at(0.5),
        p90: at(0.9),
    }
}
