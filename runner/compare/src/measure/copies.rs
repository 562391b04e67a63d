//! The least that handing bytes over costs where they are copied.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// The time of copying this many bytes, `chunk` bytes at a time, in turns to four places, whose
/// pages are there before.
pub fn copies(bytes: u64, chunk: usize) -> Duration {
    let from = vec![7_u8; chunk];
    // Zeroes would be pages that are not there yet.
    let mut to = vec![vec![1_u8; chunk]; 4];
    let count = usize::try_from(bytes)
        .unwrap_or(usize::MAX)
        .div_ceil(chunk.max(1));
    let began = Instant::now();
    for round in 0..count {
        if let Some(to) = to.get_mut(round % 4) {
            to.copy_from_slice(black_box(&from));
            black_box(to);
        }
    }
    began.elapsed()
}
