//! The time and memory that compiling one task may take: set by the embedder, or derived
//! from the size of the file.
//!
//! The numbers are several times what the largest modules measured take (wasmtime 48):
//! Yosys, 66 MiB, 78 s of processor time and 1.9 GiB; CPython, 18 MiB, 11 s and 0.4 GiB. On
//! a busy machine Yosys took 200 s. `docs/process-mode.md` has the table.

use std::time::Duration;

const MIB: u64 = 1 << 20;

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompileBudget {
    /// `None` if the size of the file decides.
    #[doc(hidden)]
    pub time: Option<Duration>,
    /// In bytes; `None` if the size of the file decides.
    #[doc(hidden)]
    pub memory: Option<u64>,
}

impl CompileBudget {
    /// Minimum and maximum of the time derived from the size of the file.
    const TIME: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(1800));
    const MEMORY: (u64, u64) = (2 << 30, 16 << 30);
    /// For each MiB of the file, rounded up.
    const SECONDS: u64 = 6;
    /// For each byte of the file.
    const BYTES: u64 = 64;

    /// How long compiling a file of this size in bytes may take.
    #[doc(hidden)]
    pub fn time(self, len: u64) -> Duration {
        self.time.unwrap_or_else(|| Self::default_time(len))
    }

    /// How much memory compiling a file of this size in bytes may take.
    #[doc(hidden)]
    pub fn memory(self, len: u64) -> u64 {
        self.memory.unwrap_or_else(|| Self::default_memory(len))
    }

    /// Whether a limit was set.
    #[doc(hidden)]
    pub fn is_set(self) -> bool {
        self.time.is_some() || self.memory.is_some()
    }

    #[doc(hidden)]
    pub fn default_time(len: u64) -> Duration {
        let seconds = len.div_ceil(MIB).saturating_mul(Self::SECONDS);
        let (least, most) = Self::TIME;
        Duration::from_secs(seconds).clamp(least, most)
    }

    #[doc(hidden)]
    pub fn default_memory(len: u64) -> u64 {
        let (least, most) = Self::MEMORY;
        len.saturating_mul(Self::BYTES).clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_grow_with_the_file_between_a_floor_and_a_cap() {
        let budget = CompileBudget::default();
        let seconds = |len| budget.time(len).as_secs();
        for (len, time, memory) in [
            (0, 60, 2 << 30),
            (10 * MIB, 60, 2 << 30),
            (10 * MIB + 1, 66, 2 << 30),
            (66 * MIB, 396, 66 * 64 * MIB),
            (256 * MIB, 1536, 16 << 30),
            (u64::MAX, 1800, 16 << 30),
        ] {
            assert_eq!((seconds(len), budget.memory(len)), (time, memory), "{len}");
        }
        assert!(!budget.is_set());
    }

    #[test]
    fn what_was_asked_for_holds_for_every_file() {
        let budget = CompileBudget {
            time: Some(Duration::from_secs(1)),
            memory: Some(5),
        };
        assert!(budget.is_set());
        for len in [0, u64::MAX] {
            assert_eq!(budget.time(len), Duration::from_secs(1));
            assert_eq!(budget.memory(len), 5);
        }
    }
}
