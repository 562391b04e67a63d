//! Many numbers as a few, without hiding how far apart they lie.

use crate::sorted::Sorted;
use serde::{Deserialize, Serialize};

/// What repeated measuring found. All numbers have the unit of the row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// The smallest.
    pub min: f64,
    /// A tenth is not above this.
    pub p10: f64,
    /// The median.
    pub p50: f64,
    /// A tenth is not below this.
    pub p90: f64,
    /// A hundredth is not below this; the largest where there are fewer than a
    /// hundred.
    pub p99: f64,
    /// The largest.
    pub max: f64,
    /// How many lie outside of Tukey's fences: further than one and a half times the
    /// distance of the quartiles from the nearer quartile.
    pub outliers: u32,
    /// How far the middle eight tenths lie apart, as a part of the median; none where
    /// there are fewer than two numbers, or the median is 0.
    #[serde(default)]
    pub spread: Option<f64>,
    /// All of them, in the order in which they were measured.
    pub values: Vec<f64>,
}

impl Summary {
    /// Sums up numbers; those that are not finite are left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values
            .into_iter()
            .filter(|value| value.is_finite())
            .collect();
        let sorted = Sorted::new(values.iter().copied());
        let at = |part| sorted.quantile(part);
        let (low, high) = (at(0.25), at(0.75));
        let reach = 1.5 * (high - low);
        let fences = low - reach..=high + reach;
        let outliers = values
            .iter()
            .filter(|value| !fences.contains(value))
            .count();
        let (p10, p50, p90) = (at(0.1), at(0.5), at(0.9));
        let spread = (p90 - p10) / p50;
        Summary {
            min: at(0.0),
            p10,
            p50,
            p90,
            p99: at(0.99),
            max: at(1.0),
            outliers: u32::try_from(outliers).unwrap_or(u32::MAX),
            spread: (values.len() > 1 && spread.is_finite()).then_some(spread),
            values,
        }
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no number.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether the quantiles say more than the median does.
    pub(super) fn is_repeated(&self) -> bool {
        self.values.len() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_few() {
        let summary = Summary::of((1..=101).rev().map(f64::from));
        let quantiles = (
            summary.min,
            summary.p10,
            summary.p50,
            summary.p90,
            summary.p99,
        );
        assert_eq!(quantiles, (1.0, 11.0, 51.0, 91.0, 100.0));
        assert_eq!(
            (summary.max, summary.outliers, summary.len()),
            (101.0, 0, 101)
        );
        assert_eq!(summary.spread, Some(80.0 / 51.0));
        assert_eq!(summary.values[0], 101.0, "in the order of measuring");
    }

    #[test]
    fn outliers_are_counted_on_both_sides() {
        let mut values = vec![10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0];
        values.extend([100.0, -100.0]);
        assert_eq!(Summary::of(values).outliers, 2);
    }

    #[test]
    fn nothing_and_one() {
        let nothing = Summary::of([]);
        assert!(nothing.is_empty() && nothing.spread.is_none());
        let one = Summary::of([7.0, f64::NAN]);
        assert_eq!(
            (one.p10, one.p99, one.len(), one.outliers),
            (7.0, 7.0, 1, 0)
        );
        // One number has no spread; the same number twice has none, which is another thing.
        assert_eq!(one.spread, None);
        assert_eq!(Summary::of([7.0, 7.0]).spread, Some(0.0));
        assert_eq!(Summary::of([0.0, 0.0]).spread, None);
        let json = serde_json::to_value(&one).expect("JSON");
        assert!(json["spread"].is_null() && json.get("spread").is_some());
    }
}
