//! Where tasks wait for each other.

use crate::region::{RegionError, Shared};
use crate::words::SharedU32;

/// A point that tasks pass together, again and again, in a shared region of theirs.
///
/// Whoever passes it sees what all others wrote to shared regions before.
#[derive(Clone, Copy, Debug)]
pub struct Barrier<'region> {
    /// How many are there.
    arrived: SharedU32<'region>,
    /// How often it was passed.
    round: SharedU32<'region>,
    tasks: u32,
}

impl<'region> Barrier<'region> {
    /// Bytes that it has of the region.
    pub const LEN: u64 = 8;

    /// For `tasks` tasks, at `offset` of a region, a multiple of 4, where there were
    /// zeros at first. All of them name the same place and number.
    ///
    /// # Errors
    ///
    /// [`RegionError::Misaligned`], [`RegionError::OutOfBounds`].
    pub fn new(region: &'region Shared, offset: u64, tasks: u32) -> Result<Self, RegionError> {
        Ok(Barrier {
            arrived: region.u32(offset)?,
            round: region.u32(offset.checked_add(4).ok_or(RegionError::OutOfBounds)?)?,
            tasks,
        })
    }

    /// Waits until all are here. True for one of them, the last. If one of them ends
    /// instead of coming here, the others wait until their own end.
    pub fn wait(&self) -> bool {
        let round = self.round.load();
        if self.arrived.fetch_add(1) + 1 >= self.tasks {
            // Nobody comes again before the round is over.
            self.arrived.store(0);
            self.round.fetch_add(1);
            self.round.notify_all();
            return true;
        }
        while self.round.load() == round {
            self.round.wait(round);
        }
        false
    }
}
