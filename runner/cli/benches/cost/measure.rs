//! Rounds, interleaved, so that what else the machine does hits both sides.

use crate::promise::{self, Bound};
use crate::spec::Verdict;
use std::time::{Duration, Instant};

/// What the rows are measured with, and the rows.
#[derive(Default)]
pub(crate) struct Bench {
    pub(crate) quick: bool,
    /// Parts of the names of rows; none means all.
    pub(crate) wanted: Vec<String>,
    /// The whole names of rows, where no others are to be measured.
    pub(crate) only: Option<Vec<&'static str>>,
    pub(crate) rows: Vec<Row>,
}

/// One row of the table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What wrun is compared with.
    pub(crate) floor_name: &'static str,
    /// What was promised of it.
    pub(crate) bound: Option<Bound>,
    pub(crate) unit: Unit,
    /// What an operation of wrun and of the floor takes, one pair a round.
    pub(crate) rounds: Vec<(f64, f64)>,
}

/// What a row's numbers are.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Seconds,
    Kib,
}

/// One side of a row: does some operations and says how long one took.
pub(crate) type Side<'a> = &'a mut dyn FnMut() -> anyhow::Result<Duration>;

impl Bench {
    /// Whether rows whose names begin like this were asked for.
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
            // Who goes second finds the caches as the first one left them.
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
        kib: &mut dyn FnMut() -> anyhow::Result<u32>,
    ) -> anyhow::Result<()> {
        if !self.wants_row(name) {
            return Ok(());
        }
        eprintln!("{name} ...");
        let pair = |_| Ok((f64::from(kib()?), f64::from(allowed)));
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

/// Numbers in order, to be asked for their quantiles.
pub(crate) struct Sorted(Vec<f64>);

impl Sorted {
    pub(crate) fn new(numbers: impl Iterator<Item = f64>) -> Self {
        let mut numbers: Vec<f64> = numbers.collect();
        numbers.sort_by(f64::total_cmp);
        Sorted(numbers)
    }

    /// The number that `part` of all are below.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index of a short list"
        )]
        let at = (last as f64 * part).round() as usize;
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }
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

    /// The ratio of what each side needs when nothing disturbs it: of the times
    /// that a tenth of the rounds stay below. What is left of a ratio on a
    /// machine that others use too.
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

    /// Whether what was promised holds; nothing where nobody promised anything.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        let ratio = self.ratio();
        let (p10, p90) = (ratio.quantile(0.1), ratio.quantile(0.9));
        Some(Verdict::of(self.bound?, ratio.median(), p10, p90))
    }
}
