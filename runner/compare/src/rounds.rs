//! Rows measured in turns, each with its floor: other load on the machine affects all of
//! them.

use super::comparison::{Comparison, Step, Watch};
use super::results::{CostRow, Floor, Measure, Policy, Transport};
use super::summary::Summary;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use wrun::{Error, Mode, measure::deadline, time_suspended};

/// Rounds that are measured even if they take longer than they should.
const FEWEST: u32 = 3;
/// Maximum of values kept for one row; more would add nothing.
const MOST_VALUES: usize = 2_000;
/// A floor or a row is noisy if its middle eight tenths are further apart than this part of
/// the median.
pub(super) const NOISY: f64 = 0.5;

/// Measures once: one number or several, in the unit of the row.
pub(super) type Side<'a> = Box<dyn FnMut() -> Result<Vec<f64>, Error> + 'a>;

/// A row to measure.
pub(super) struct Row<'a> {
    pub(super) measure: Measure,
    pub(super) mode: Mode,
    pub(super) policy: Option<Policy>,
    pub(super) at: Option<u64>,
    pub(super) transport: Option<Transport>,
    pub(super) side: Side<'a>,
    pub(super) floor: Option<(String, Side<'a>)>,
}

impl<'a> Row<'a> {
    /// For a policy, without a floor yet.
    pub(super) fn of(measure: Measure, policy: Policy, side: Side<'a>) -> Self {
        Row {
            measure,
            mode: policy.mode(),
            policy: Some(policy),
            at: None,
            transport: None,
            side,
            floor: None,
        }
    }

    pub(super) fn at(mut self, at: u64) -> Self {
        self.at = Some(at);
        self
    }

    pub(super) fn floor(mut self, name: &str, side: Side<'a>) -> Self {
        self.floor = Some((name.to_owned(), side));
        self
    }
}

/// A row and its measurements.
struct Measured<'a> {
    row: Row<'a>,
    values: Vec<f64>,
    floors: Vec<f64>,
    ratios: Vec<f64>,
    failed: Option<String>,
    floor_failed: Option<String>,
}

/// Measures rows in turns: `rounds` times, or as often as fits the time.
///
/// A row that fails is noted. [`ControlFlow::Break`] with the rows so far when the watcher ends
/// it.
pub(super) fn measure(
    comparison: &Comparison,
    rows: Vec<Row<'_>>,
    time: Duration,
    notes: &mut Vec<String>,
    watch: Watch<'_>,
) -> ControlFlow<Vec<CostRow>, Vec<CostRow>> {
    let began = Instant::now();
    let suspended = time_suspended();
    let passed = || {
        let suspended = time_suspended().saturating_sub(suspended);
        began.elapsed().saturating_sub(suspended)
    };
    let mut measured: Vec<_> = rows
        .into_iter()
        .map(|row| Measured {
            row,
            values: Vec::new(),
            floors: Vec::new(),
            ratios: Vec::new(),
            failed: None,
            floor_failed: None,
        })
        .collect();
    let mut stopped = false;
    let many = measured.len().max(1);
    'rounds: for round in 0..comparison.rounds {
        let spent = passed();
        if spent >= time * 2 && round > 0 || spent >= time && round >= FEWEST {
            break;
        }
        for turn in 0..many {
            let Some(it) = measured.get_mut((turn + round as usize) % many) else {
                continue;
            };
            let parts = u32::try_from(turn * 1000 / many).unwrap_or(1000);
            let by_rounds = (round * 1000 + parts) / comparison.rounds;
            let by_time = passed().as_millis() * 1000 / time.as_millis().max(1);
            let step = Step {
                what: it.row.measure.name(),
                done: by_rounds
                    .max(u32::try_from(by_time).unwrap_or(1000))
                    .min(1000),
            };
            if watch(step).is_break() {
                stopped = true;
                break 'rounds;
            }
            it.turn(round, comparison.hooks.floors.unwrap_or(1.0));
        }
    }
    let rows = measured
        .into_iter()
        .filter_map(|measured| measured.finish(comparison, notes))
        .collect();
    match stopped {
        true => ControlFlow::Break(rows),
        false => ControlFlow::Continue(rows),
    }
}

impl Measured<'_> {
    fn turn(&mut self, round: u32, factor: f64) {
        if self.failed.is_some() || self.values.len() >= MOST_VALUES {
            return;
        }
        loop {
            let before = deadline::times();
            let before_turn = [&self.values, &self.floors, &self.ratios].map(Vec::len);
            self.turn_once(round, factor);
            if deadline::times() == before {
                return;
            }
            // All was suspended meanwhile (Ctrl-Z): these numbers are wrong.
            let numbers = [&mut self.values, &mut self.floors, &mut self.ratios];
            for (numbers, len) in numbers.into_iter().zip(before_turn) {
                numbers.truncate(len);
            }
            self.failed = None;
        }
    }

    fn turn_once(&mut self, round: u32, factor: f64) {
        // The second finds the caches as the first left them.
        let floor_first = round % 2 == 1;
        let mut floor = floor_first.then(|| self.floor_once(factor)).flatten();
        let values = match (self.row.side)() {
            Ok(values) => values,
            Err(error) => {
                self.failed = Some(error.to_string());
                return;
            }
        };
        if !floor_first {
            floor = self.floor_once(factor);
        }
        let value = Summary::of(values.iter().copied()).p50;
        self.values.extend(values);
        if let Some(floor) = floor {
            self.ratios.push(match self.row.measure.unit().is_rate() {
                // Also where both are 0: neither has page faults, for example.
                _ if floor == value => 1.0,
                true => floor / value,
                false => value / floor,
            });
        }
    }

    /// The median of one round of the floor.
    fn floor_once(&mut self, factor: f64) -> Option<f64> {
        let (_, side) = self.row.floor.as_mut()?;
        match side() {
            Ok(values) => {
                let values: Vec<f64> = values.iter().map(|value| value * factor).collect();
                let median = Summary::of(values.iter().copied()).p50;
                self.floors.extend(values);
                Some(median)
            }
            Err(error) => {
                // A row without a floor is better than no row.
                self.floor_failed = Some(error.to_string());
                self.row.floor = None;
                None
            }
        }
    }

    fn finish(self, comparison: &Comparison, notes: &mut Vec<String>) -> Option<CostRow> {
        let Measured {
            row,
            values,
            floors,
            ratios,
            failed,
            floor_failed,
        } = self;
        let policy = row.policy.map_or(row.mode.name(), Policy::name);
        let mut note = |what: &str, why: Option<String>| {
            let why = why.map(|why| format!("{}, {policy}: {what}{why}", row.measure.name()));
            notes.extend(why);
        };
        note("", failed);
        note("its floor was not measured: ", floor_failed);
        if values.is_empty() {
            return None;
        }
        let floor = row
            .floor
            .filter(|_| !floors.is_empty())
            .map(|(name, _)| Floor {
                name,
                value: Summary::of(floors),
                ratio: Summary::of(ratios),
            });
        let value = Summary::of(values);
        let doubts = doubts(&value, floor.as_ref());
        Some(CostRow {
            measure: row.measure,
            mode: row.mode,
            policy: row.policy,
            at: row.at,
            transport: row.transport,
            value,
            floor,
            doubts,
            command: comparison.command_for(Some(row.measure.name())),
        })
    }
}

/// Reasons not to rely on a number.
fn doubts(value: &Summary, floor: Option<&Floor>) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(floor) = floor {
        let ratio = &floor.ratio;
        // Only by chance can a row cost less than its floor.
        if ratio.len() >= FEWEST as usize
            && ratio.p50 * (1.0 + ratio.spread.unwrap_or(0.0).max(0.1)) < 1.0
        {
            doubts.push(format!(
                "it beats its floor, {}, by more than the spread ({:.2} times): one of the two \
                 is measured wrongly",
                floor.name, ratio.p50
            ));
        }
        if let Some(spread) = noise(&floor.value) {
            doubts.push(format!(
                "its floor is noisy: the middle eight tenths lie {:.0} % of the median apart",
                spread * 100.0
            ));
        }
    }
    if let Some(spread) = noise(value) {
        doubts.push(format!(
            "noisy: the middle eight tenths lie {:.0} % of the median apart",
            spread * 100.0
        ));
    }
    doubts
}

/// The spread of a noisy number.
fn noise(value: &Summary) -> Option<f64> {
    value
        .spread
        .filter(|spread| value.len() > 2 && *spread > NOISY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(values: &'a mut Vec<f64>, floor: Option<f64>) -> Row<'a> {
        let side: Side<'a> =
            Box::new(|| values.pop().map(|it| vec![it]).ok_or_else(Error::shut_down));
        let row = Row::of(Measure::Warm, Policy::Instance, side);
        match floor {
            Some(floor) => row.floor("the floor", Box::new(move || Ok(vec![floor]))),
            None => row,
        }
    }

    fn measured(rows: Vec<Row<'_>>, rounds: u32) -> (Vec<CostRow>, Vec<String>) {
        let comparison = Comparison::new("a.wasm").rounds(rounds);
        let mut notes = Vec::new();
        let time = Duration::from_secs(60);
        let go_on = &mut |_: Step<'_>| ControlFlow::Continue(());
        match measure(&comparison, rows, time, &mut notes, go_on) {
            ControlFlow::Continue(rows) | ControlFlow::Break(rows) => (rows, notes),
        }
    }

    #[test]
    fn ratios_are_of_each_round() {
        let mut values = vec![40.0, 20.0, 30.0];
        let (rows, notes) = measured(vec![row(&mut values, Some(10.0))], 3);
        let floor = rows[0].floor.as_ref().expect("it has a floor");
        assert_eq!(rows[0].value.values, [30.0, 20.0, 40.0]);
        assert_eq!(floor.ratio.values, [3.0, 2.0, 4.0]);
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn a_floor_of_zero_is_a_floor() {
        // Bare wasmtime may make no context switch.
        let mut values = vec![2.0; 3];
        let (rows, _) = measured(vec![row(&mut values, Some(0.0))], 3);
        let floor = rows[0].floor.as_ref().expect("it has a floor");
        assert_eq!((floor.value.p50, floor.value.len()), (0.0, 3));
        assert!(floor.ratio.is_empty(), "{:?}", floor.ratio);
        assert!(rows[0].doubts.is_empty(), "{:?}", rows[0].doubts);
        let mut values = vec![0.0; 3];
        let (rows, _) = measured(vec![row(&mut values, Some(0.0))], 3);
        let floor = rows[0].floor.as_ref().expect("it has a floor");
        assert_eq!(floor.ratio.values, [1.0; 3]);
    }

    #[test]
    fn a_floor_that_fails_is_noted() {
        let mut values = vec![1.0; 3];
        let mut row = row(&mut values, None);
        row = row.floor("the floor", Box::new(|| Err(Error::shut_down())));
        let (rows, notes) = measured(vec![row], 3);
        assert!(rows[0].floor.is_none() && rows[0].value.len() == 3);
        let begin = "warm, instance: its floor was not measured: ";
        assert!(notes.len() == 1 && notes[0].starts_with(begin), "{notes:?}");
    }

    #[test]
    fn nothing_beats_its_floor() {
        for (value, doubted) in [(5.0, true), (9.9, false), (10.0, false), (20.0, false)] {
            let mut values = vec![value; 5];
            let (rows, _) = measured(vec![row(&mut values, Some(10.0))], 5);
            let beats = rows[0]
                .doubts
                .iter()
                .any(|doubt| doubt.contains("beats its floor"));
            assert_eq!(beats, doubted, "{value}: {:?}", rows[0].doubts);
        }
    }

    #[test]
    fn what_lies_far_apart_is_noisy() {
        let mut values = vec![1.0, 2.0, 10.0, 30.0, 5.0];
        let (rows, _) = measured(vec![row(&mut values, None)], 5);
        assert!(
            rows[0].doubts[0].starts_with("noisy"),
            "{:?}",
            rows[0].doubts
        );
    }

    #[test]
    fn what_fails_keeps_what_there_was() {
        let mut values = vec![1.0, 1.0];
        let (rows, notes) = measured(vec![row(&mut values, None)], 5);
        assert_eq!(rows[0].value.len(), 2);
        assert!(notes[0].starts_with("warm, instance: "), "{notes:?}");
        let (rows, notes) = measured(vec![row(&mut Vec::new(), None)], 5);
        assert_eq!((rows.len(), notes.len()), (0, 1));
    }

    #[test]
    fn the_watcher_ends_it() {
        let comparison = Comparison::new("a.wasm");
        let mut values = vec![1.0; 9];
        let mut turns = 0;
        let mut watch = |_: Step<'_>| {
            turns += 1;
            match turns {
                3 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        let rows = vec![row(&mut values, None)];
        let time = Duration::from_secs(60);
        let ended = measure(&comparison, rows, time, &mut Vec::new(), &mut watch);
        assert!(matches!(ended, ControlFlow::Break(rows) if rows[0].value.len() == 2));
    }
}
