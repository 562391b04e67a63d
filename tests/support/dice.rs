//! Chance that is the same on every run.

use std::time::Duration;

/// Numbers that look random and are the same each time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    pub(crate) fn pause(&mut self, millis: u64) {
        std::thread::sleep(Duration::from_micros(self.below(millis * 1000)));
    }
}
