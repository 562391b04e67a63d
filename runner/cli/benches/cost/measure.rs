//! Rounds, interleaved, so that other load on the machine affects both sides.

use crate::promise::{self, Bound};
use crate::spec::Verdict;
use std::time::{Duration, Instant};
use wrun_compare::measure::Sorted;

/// The options of the benchmark, and the rows so far.
#[derive(Default)]
pub(crate) struct Bench {
    pub(crate) quick: bool,
    /// Parts of the names of rows; empty for all rows.
    pub(crate) wanted: Vec<String>,
    /// The whole names of the only rows to measure.
    pub(crate) only: Option<Vec<&'static str>>,
    pub(crate) rows: Vec<Row>,
}

/// One row of the table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What wrun is compared with.
    pub(crate) floor_name: &'static str,
    /// The target in `SPEC.md`.
    pub(crate) bound: Option<Bound>,
    pub(crate) unit: Unit,
    /// The time or size of one operation of wrun and of the floor, one pair for each round.
    pub(crate) rounds: Vec<(f64, f64)>,
}

/// The unit of the numbers of a row.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Seconds,
    Kib,
}

/// One side of a row: does some operations and says how long one took.
pub(crate) type Side<'a> = &'a mut dyn FnMut() -> anyhow::Result<Duration>;

impl Bench {
    /// Whether rows whose names begin like this are to be measured.
    pub(crate) fn wants(&self, group: &str) -> bool {
        if let Some(only) = &self.only {
            return only.iter().any(|name| name.starts_with(group));
        }
        self.wants_row(group) || self.wanted.iter().any(|wanted| wanted.starts_with(group))
    }

    fn wants_row(&self, name: &str) -> bool {
        if let Some(only) = &self.only {
            return only.contains(&name);
        }
        self.wanted.is_empty()
            || self
                .wanted
                .iter()
                .any(|wanted| name.contains(wanted.as_str()))
    }

    /// Measures a row: each side once to warm up, then in turns.
    pub(crate) fn row(
        &mut self,
        name: &'static str,
        floor_name: &'static str,
        rounds: usize,
        wrun: Side<'_>,
        floor: Side<'_>,
    ) -> anyhow::Result<()> {
        if !self.wants_row(name) {
            return Ok(());
        }
        eprintln!("{name} ...");
        let rounds = self.rounds(rounds);
        let mut pairs = Vec::with_capacity(rounds);
        for _ in 0..rounds.div_ceil(10) {
            wrun()?;
            floor()?;
        }
        for round in 0..rounds {
            // The second finds the caches as the first left them.
            let pair = if round % 2 == 0 {
                let wrun = wrun()?;
                (wrun, floor()?)
            } else {
                let floor = floor()?;
                (wrun()?, floor)
            };
            pairs.push((pair.0.as_secs_f64(), pair.1.as_secs_f64()));
        }
        self.rows.push(Row {
            name,
            floor_name,
            bound: promise::bound_of(name),
            unit: Unit::Seconds,
            rounds: pairs,
        });
        Ok(())
    }

    /// Measures how much of an allowance of this many KiB is used.
    pub(crate) fn amount(
        &mut self,
        name: &'static str,
        floor_name: &'static str,
        allowed: u32,
        rounds: usize,
        kib: &mut dyn FnMut() -> anyhow::Result<f64>,
    ) -> anyhow::Result<()> {
        if !self.wants_row(name) {
            return Ok(());
        }
        eprintln!("{name} ...");
        let pair = |_| Ok((kib()?, f64::from(allowed)));
        let pairs: anyhow::Result<_> = (0..self.rounds(rounds)).map(pair).collect();
        self.rows.push(Row {
            name,
            floor_name,
            bound: promise::bound_of(name),
            unit: Unit::Kib,
            rounds: pairs?,
        });
        Ok(())
    }

    fn rounds(&self, rounds: usize) -> usize {
        if self.quick {
            (rounds / 5).max(3)
        } else {
            rounds
        }
    }
}

/// The time of one of `count` operations done one after the other.
pub(crate) fn each(
    count: u32,
    mut operation: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    for _ in 0..count {
        operation()?;
    }
    Ok(began.elapsed() / count)
}

impl Row {
    pub(crate) fn wrun(&self) -> Sorted {
        Sorted::new(self.rounds.iter().map(|round| round.0))
    }

    pub(crate) fn floor(&self) -> Sorted {
        Sorted::new(self.rounds.iter().map(|round| round.1))
    }

    /// wrun over its floor, of each round.
    pub(crate) fn ratio(&self) -> Sorted {
        Sorted::new(
            self.rounds
                .iter()
                .map(|(wrun, floor)| self.over(*wrun, *floor)),
        )
    }

    /// The ratio of the times that a tenth of the rounds of each side stay below: an estimate of
    /// the ratio without other load on the machine.
    pub(crate) fn quiet(&self) -> f64 {
        self.over(self.wrun().quantile(0.1), self.floor().quantile(0.1))
    }

    /// Time over time, or rate over rate where more is better.
    fn over(&self, wrun: f64, floor: f64) -> f64 {
        match self.bound {
            Some(Bound::AtLeast(_)) => floor / wrun,
            Some(Bound::AtMost(_)) | None => wrun / floor,
        }
    }

    /// Whether the target is met; `None` for a row without one.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        let ratio = self.ratio();
        let (p10, p90) = (ratio.quantile(0.1), ratio.quantile(0.9));
        Some(Verdict::of(self.bound?, ratio.median(), p10, p90))
    }
}
