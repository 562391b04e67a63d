//! Files that are looked at until they change.
//!
//! By their times, sizes and numbers: that works on every file system, in containers and over
//! the network, where notifications do not come.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// How often files are looked at.
const EVERY: Duration = Duration::from_millis(500);

/// How often a file that is gone is looked for before that is taken for its new state.
const GONE: u32 = 10;

/// What tells one state of a file from another; none where it is not there.
type Look = Option<(i64, i64, u64, u64)>;

/// Files, as they were when they were last looked at.
pub(crate) struct Watch {
    files: Vec<PathBuf>,
    known: Vec<Look>,
}

impl Watch {
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        let known = look(&files);
        Watch { files, known }
    }

    /// Waits until one of them has changed and all stay as they are.
    pub(crate) async fn changed(&mut self) {
        loop {
            let mut now = self.look().await;
            if now == self.known {
                continue;
            }
            // What is still being written, or not there for a moment, is waited for.
            let mut still = 0;
            loop {
                let next = self.look().await;
                let mut both = next.iter().zip(&self.known);
                let is_gone = both.any(|(next, known)| next.is_none() && known.is_some());
                still = if next == now { still + 1 } else { 0 };
                if still >= if is_gone { GONE } else { 1 } {
                    break;
                }
                now = next;
            }
            self.known = now;
            return;
        }
    }

    /// Looks at these files from now on; at those that it knows, for changes since it last did.
    pub(crate) fn follow(&mut self, files: Vec<PathBuf>) {
        if files == self.files {
            return;
        }
        let known = files.iter().map(|file| {
            let at = self.files.iter().position(|known| known == file);
            match at.and_then(|at| self.known.get(at)) {
                Some(known) => *known,
                None => look(std::slice::from_ref(file)).pop().flatten(),
            }
        });
        self.known = known.collect();
        self.files = files;
    }

    async fn look(&self) -> Vec<Look> {
        tokio::time::sleep(EVERY).await;
        let files = self.files.clone();
        let looked = tokio::task::spawn_blocking(move || look(&files)).await;
        looked.unwrap_or_else(|_| self.known.clone())
    }
}

fn look(files: &[PathBuf]) -> Vec<Look> {
    let files = files.iter().map(|file| {
        let found = std::fs::metadata(file).ok()?;
        Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
    });
    files.collect()
}
