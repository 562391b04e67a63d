//! The position of a number on a chart.

use crate::{Unit, number::tick};

/// Maximum that is drawn: its sums and squares are still finite.
const FAR: f64 = 1e100;

/// A line from a smallest to a largest number, linear or logarithmic.
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    start: f64,
    end: f64,
}

impl Axis {
    /// An axis with room for all numbers, logarithmic if they are all above zero and `log`,
    /// between two positions in the chart. Values that are not numbers are left out.
    pub(super) fn over(numbers: &[f64], log: bool, start: f64, end: f64) -> Self {
        let numbers = || numbers.iter().copied().filter(|n| n.is_finite()).map(near);
        let low = numbers().fold(f64::INFINITY, f64::min);
        let high = numbers().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let log = log && low > 0.0;
        let (low, high) = if log {
            (low / 1.15, high * 1.15)
        } else {
            let room = 0.06 * (high - low);
            let room = if room > 0.0 {
                room
            } else {
                (high.abs() * 0.1).max(1.0)
            };
            (
                if low >= 0.0 {
                    (low - room).max(0.0)
                } else {
                    low - room
                },
                high + room,
            )
        };
        Axis {
            low,
            high,
            log,
            start,
            end,
        }
    }

    /// Whether a logarithmic one is better: its numbers are above zero, and the largest is
    /// many times the smallest.
    pub(super) fn wants_log(numbers: &[f64]) -> bool {
        let numbers = || numbers.iter().copied().filter(|n| n.is_finite());
        let low = numbers().fold(f64::INFINITY, f64::min);
        low > 0.0 && numbers().fold(0.0, f64::max) / low > 6.0
    }

    /// Whether it is logarithmic.
    pub(super) fn is_log(&self) -> bool {
        self.log
    }

    /// The position of a number, never outside of the axis.
    pub(super) fn at(&self, number: f64) -> f64 {
        let number = near(number);
        let part = if self.log {
            (number / self.low).ln() / (self.high / self.low).ln()
        } else {
            (number - self.low) / (self.high - self.low)
        };
        let part = if part.is_nan() {
            0.0
        } else {
            part.clamp(0.0, 1.0)
        };
        self.start + part * (self.end - self.start)
    }

    /// Round numbers along it with their names, at most `most`.
    pub(super) fn ticks(&self, unit: Unit, most: usize) -> Vec<(f64, String)> {
        let mut steps = if self.log {
            self.powers(unit)
        } else {
            self.even(unit, most)
        };
        if self.log && steps.len() < 2 {
            steps = self.even(unit, most);
        }
        let every = steps.len().div_ceil(most.max(1)).max(1);
        let shown = steps.into_iter().step_by(every);
        let mut ticks: Vec<(f64, String)> = shown.map(|n| (self.at(n), tick(n, unit))).collect();
        ticks.dedup_by(|a, b| a.1 == b.1);
        ticks
    }

    /// The powers within it, of ten, or of two for bytes, at most some dozens.
    fn powers(&self, unit: Unit) -> Vec<f64> {
        let base: f64 = match unit {
            Unit::Bytes | Unit::BytesPerSecond if self.high / self.low > 4096.0 => 32.0,
            Unit::Bytes | Unit::BytesPerSecond => 4.0,
            _ => 10.0,
        };
        let first = self.low.log(base).ceil();
        let last = self.high.log(base).floor();
        let mut powers = Vec::new();
        let mut exponent = first;
        while exponent <= last && powers.len() < 200 {
            powers.push(base.powf(exponent));
            exponent += 1.0;
        }
        let decades = (self.high / self.low).log10();
        if base == 10.0 && decades < 2.2 {
            let between: &[f64] = if decades < 1.2 { &[2.0, 5.0] } else { &[3.0] };
            let more: Vec<f64> = std::iter::once(10f64.powf(first - 1.0))
                .chain(powers.iter().copied())
                .flat_map(|power| between.iter().map(move |times| times * power))
                .filter(|n| (self.low..=self.high).contains(n))
                .collect();
            powers.extend(more);
            powers.sort_by(f64::total_cmp);
        }
        powers
    }

    /// Steps of one, two or five times a power of ten, or of two for bytes.
    fn even(&self, unit: Unit, most: usize) -> Vec<f64> {
        let most = u32::try_from(most.clamp(2, 12)).unwrap_or(12);
        let least = (self.high - self.low) / f64::from(most);
        let step = match unit {
            Unit::Bytes | Unit::BytesPerSecond => 2f64.powf(least.log2().ceil()),
            _ => {
                let power = 10f64.powf(least.log10().floor());
                let times = [1.0, 2.0, 5.0].into_iter().find(|t| t * power >= least);
                times.unwrap_or(10.0) * power
            }
        };
        let mut steps = Vec::new();
        let mut number = (self.low / step).ceil() * step;
        while number <= self.high && steps.len() < 24 {
            steps.push(number);
            let next = number + step;
            if next <= number {
                break;
            }
            number = next;
        }
        steps
    }
}

/// A number that can be drawn.
fn near(number: f64) -> f64 {
    number.clamp(-FAR, FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_in_order_and_inside() {
        for log in [false, true] {
            let axis = Axis::over(&[10.0, 100.0, 1000.0], log, 0.0, 300.0);
            let places = [10.0, 100.0, 1000.0, f64::MAX].map(|n| axis.at(n));
            assert!(places.is_sorted(), "{places:?}");
            assert!(places.iter().all(|at| (0.0..=300.0).contains(at)));
            assert_eq!(axis.is_log(), log);
        }
    }

    #[test]
    fn nothing_one_number_and_extremes_have_axes() {
        let sets: [&[f64]; 8] = [
            &[],
            &[f64::NAN],
            &[0.0],
            &[7.0],
            &[-3.0, 5.0],
            &[f64::MIN_POSITIVE, f64::MAX],
            &[f64::MIN, f64::MAX],
            &[1e9, 1e9 + 1e-9],
        ];
        for numbers in sets {
            for log in [false, true] {
                let axis = Axis::over(numbers, log, 10.0, 200.0);
                for unit in [Unit::Nanoseconds, Unit::Bytes] {
                    let ticks = axis.ticks(unit, 5);
                    assert!(ticks.len() <= 6, "{numbers:?}: {ticks:?}");
                    assert!(ticks.iter().all(|(at, _)| (10.0..=200.0).contains(at)));
                }
                for number in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1.0] {
                    assert!((10.0..=200.0).contains(&axis.at(number)), "{numbers:?}");
                }
            }
        }
    }

    #[test]
    fn ticks_are_round() {
        let names = |axis: &Axis, unit| -> Vec<String> {
            axis.ticks(unit, 6)
                .into_iter()
                .map(|tick| tick.1.replace('\u{a0}', " "))
                .collect()
        };
        let axis = Axis::over(&[9e3, 2e6], true, 0.0, 1.0);
        assert_eq!(names(&axis, Unit::Nanoseconds), ["10 µs", "100 µs", "1 ms"]);
        let axis = Axis::over(&[0.0, 1700.0], false, 0.0, 1.0);
        assert_eq!(
            names(&axis, Unit::PerSecond),
            ["0/s", "500/s", "1,000/s", "1,500/s"]
        );
        let axis = Axis::over(&[64.0, 67_108_864.0], true, 0.0, 1.0);
        assert_eq!(
            names(&axis, Unit::Bytes),
            ["1 KiB", "32 KiB", "1 MiB", "32 MiB"]
        );
    }
}
