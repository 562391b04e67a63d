//! What this process has: descriptors, mappings, threads, children, temporary files.

use super::{children, runner, still_works, within};
use std::path::Path;
use std::time::Duration;
use wrun::Mode;

/// Freed memory and threads that the C library keeps for reuse.
const MAPPINGS_SLACK: usize = 40;

/// What this process has.
#[derive(Debug)]
pub(crate) struct Census {
    descriptors: usize,
    mappings: usize,
    pub(crate) threads: usize,
    pub(crate) children: usize,
    temporary_files: usize,
}

impl Census {
    pub(crate) fn take() -> Self {
        let count = |path: &Path| std::fs::read_dir(path).unwrap().count();
        Census {
            // One is the listing's own.
            descriptors: count(Path::new("/proc/self/fd")) - 1,
            mappings: mappings(),
            threads: count(Path::new("/proc/self/task")),
            children: children().len(),
            temporary_files: count(&std::env::temp_dir()),
        }
    }

    /// Takes part in nothing that a runner starts once and for all.
    pub(crate) fn after_a_first_runner(mode: Mode) -> Self {
        let runner = runner(mode);
        still_works(&runner);
        drop(runner);
        Census::take()
    }

    fn is_within(&self, before: &Census) -> bool {
        self.descriptors <= before.descriptors
            && self.mappings <= before.mappings + MAPPINGS_SLACK
            && self.threads <= before.threads
            && self.children <= before.children
            && self.temporary_files <= before.temporary_files
    }
}

pub(crate) fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().count()
}

/// A field of `/proc/self/status` in KiB.
pub(crate) fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Nothing is more than it was, at the latest after a while: the operating
/// system takes its time to end threads.
#[track_caller]
pub(crate) fn assert_nothing_left(before: &Census, what: &str) {
    let nothing = within(Duration::from_secs(10), || Census::take().is_within(before));
    let now = Census::take();
    assert!(
        nothing,
        "{what} left something behind:\nbefore {before:?}\nafter  {now:?}"
    );
}
