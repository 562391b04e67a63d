//! A distribution of times in constant memory: buckets whose width is 1/16 of their value.

use std::time::Duration;

/// Buckets for each power of two.
const PARTS: u64 = 16;

/// A distribution of times, in constant memory.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: Duration,
    longest: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            buckets: vec![0; 65 * PARTS as usize],
            count: 0,
            sum: Duration::ZERO,
            longest: Duration::ZERO,
        }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket(nanos)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(time);
        self.longest = self.longest.max(time);
    }

    /// How many times it has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// The longest.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The time that this part of all (0 to 1) does not exceed, at most 1/16 too long.
    pub fn quantile(&self, part: f64) -> Duration {
        let rank = (part * self.count as f64).ceil() as u64;
        let mut below = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank.max(1) {
                return Duration::from_nanos(end(at)).min(self.longest);
            }
        }
        self.longest
    }
}

fn bucket(nanos: u64) -> usize {
    let power = nanos.max(1).ilog2();
    let part = match power {
        0..4 => return nanos as usize,
        power => (nanos >> (power - 4)) - PARTS,
    };
    (u64::from(power) * PARTS + part) as usize
}

/// The largest number of a bucket.
fn end(bucket: usize) -> u64 {
    let (power, part) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
    match power {
        0 => part,
        power => (u128::from(PARTS + part + 1) << power.saturating_sub(4))
            .saturating_sub(1)
            .min(u128::from(u64::MAX)) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_narrow() {
        for nanos in (0..70).chain([1 << 20, (1 << 20) + 12_345, 987_654_321, u64::MAX]) {
            let end = end(bucket(nanos));
            assert!(end >= nanos && end - nanos <= nanos / 16, "{nanos} {end}");
        }
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|at| histogram.add(Duration::from_micros(at)));
        let median = histogram.quantile(0.5).as_micros();
        assert!((500..=532).contains(&median), "{median}");
        assert_eq!(histogram.quantile(1.0), Duration::from_millis(1));
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }
}
