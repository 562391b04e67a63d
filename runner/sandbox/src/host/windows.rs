//! The windows of a guest's memory over which regions are mapped.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Addresses where a window of one task ever began or ended. Each can split a mapping of
/// its memory, permanently if the kernel does not merge the parts; and a process, with all
/// its tasks, can have some 65,000 mappings.
const MAX_EDGES: usize = 512;
/// Maximum over all tasks of this process. A process that cannot split its memory any
/// further cannot allocate any more either, and ends.
const MAX_EDGES_OF_ALL: usize = 16 << 10;

/// Their current number.
static EDGES_OF_ALL: AtomicUsize = AtomicUsize::new(0);

/// Why a window was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoWindow {
    /// A region is mapped over a part of it.
    Overlaps,
    /// The memory of the task, or of the process, was split too often.
    TooMany,
}

/// The windows of a guest.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    /// Windows with a region: where they begin, where they end.
    live: BTreeMap<usize, usize>,
    /// The edges of all windows so far.
    edges: BTreeSet<usize>,
}

impl Windows {
    /// Adds a window, if a region may be mapped over it.
    pub(crate) fn add(&mut self, window: &Range<usize>) -> Result<(), NoWindow> {
        // They do not overlap each other: only the last one that begins before this one's end
        // can reach into it.
        let before = self.live.range(..window.end).next_back();
        if before.is_some_and(|(_, end)| *end > window.start) {
            return Err(NoWindow::Overlaps);
        }
        let edges = [window.start, window.end];
        let new = edges.iter().filter(|edge| !self.edges.contains(edge));
        let new = new.count();
        let sum = |all: usize| all.checked_add(new).filter(|all| *all <= MAX_EDGES_OF_ALL);
        if self.edges.len() + new > MAX_EDGES
            || EDGES_OF_ALL.fetch_update(Relaxed, Relaxed, sum).is_err()
        {
            return Err(NoWindow::TooMany);
        }
        self.edges.extend(edges);
        self.live.insert(window.start, window.end);
        Ok(())
    }

    pub(crate) fn remove(&mut self, window: &Range<usize>) {
        self.live.remove(&window.start);
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        EDGES_OF_ALL.fetch_sub(self.edges.len(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap_and_divide_memory_only_so_often() {
        let mut windows = Windows::default();
        windows.add(&(10..20)).expect("the first");
        for overlapping in [10..20, 5..11, 19..30, 5..30, 12..13] {
            let refused = windows.add(&overlapping);
            assert_eq!(
                refused.expect_err("overlaps"),
                NoWindow::Overlaps,
                "{overlapping:?}"
            );
        }
        windows.add(&(20..30)).expect("beside it");
        windows.add(&(5..10)).expect("before it");
        windows.remove(&(10..20));
        windows.add(&(11..19)).expect("where nothing is any more");
        let mut count = 0;
        while windows
            .add(&(count * 100 + 1000..count * 100 + 1050))
            .is_ok()
        {
            count += 1;
        }
        assert_eq!(windows.edges.len(), MAX_EDGES);
        windows.remove(&(1000..1050));
        windows.add(&(1000..1050)).expect("a place that is known");
    }
}
