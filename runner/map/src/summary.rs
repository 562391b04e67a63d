//! What a batch was like, in constant memory: outcomes by kind, times, extremes.

use crate::histogram::Histogram;
use crate::record::Record;
use std::collections::BTreeMap;
use std::time::Duration;

/// How many of the slowest and largest inputs are kept.
const EXTREMES: usize = 5;

/// What a batch was like, in constant memory: outcomes by kind, times, extremes.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Summary {
    /// How many inputs ended, by the kind of their outcomes.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// How many new attempts were made.
    pub retries: u64,
    /// Bytes of output of completed tasks.
    pub output: u64,
    /// How long tasks took, without waiting in the queue.
    pub times: Histogram,
    /// The slowest inputs with their times, the slowest first.
    pub slowest: Vec<(Duration, String)>,
    /// The largest inputs with their lengths in bytes, the largest first.
    pub largest: Vec<(u64, String)>,
}

impl Summary {
    pub(crate) fn add(&mut self, record: &Record) {
        *self.outcomes.entry(record.kind()).or_default() += 1;
        self.retries += u64::from(record.attempts.saturating_sub(1));
        self.output += record.output().map_or(0, |output| output.len() as u64);
        if let Some(stats) = record.stats() {
            let time = stats.start + stats.run;
            self.times.add(time);
            keep(&mut self.slowest, time, &record.name);
        }
        if let Some(bytes) = record.input_bytes {
            keep(&mut self.largest, bytes, &record.name);
        }
    }

    /// How many inputs ended.
    pub fn ended(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// How many of them did not complete.
    pub fn failed(&self) -> u64 {
        self.ended() - self.outcomes.get("completed").unwrap_or(&0)
    }
}

fn keep<T: Ord + Copy>(extremes: &mut Vec<(T, String)>, value: T, name: &str) {
    if extremes.len() == EXTREMES && extremes.last().is_some_and(|(least, _)| *least >= value) {
        return;
    }
    let at = extremes.partition_point(|(other, _)| *other >= value);
    extremes.insert(at, (value, name.to_owned()));
    extremes.truncate(EXTREMES);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_kept() {
        let mut extremes = Vec::new();
        for value in [3, 9, 1, 9, 4, 7, 2, 8] {
            keep(&mut extremes, value, &value.to_string());
        }
        let values: Vec<_> = extremes.iter().map(|(value, _)| *value).collect();
        assert_eq!(values, [9, 9, 8, 7, 4]);
    }
}
