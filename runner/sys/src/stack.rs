//! The size of threads' stacks, in a process that may be a fork of one with threads.
//!
//! A fork has none of the other threads, and the C library gives their stacks, with their
//! thread-local data, to new threads. But parking_lot, which tokio may use, keeps its
//! waiting threads in lists that go through that memory: in a fork the lists still contain
//! the threads that waited in the other process. A new thread on the stack of one of them
//! breaks the list, and another thread is never woken. Invariant: a thread of this size
//! never gets the stack of a thread of an earlier process.

use crate::process::Process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Rust's default for a thread.
const DEFAULT: usize = 2 << 20;
/// Forks of forks that are distinguished; later ones share the largest size.
const MOST: u64 = 15;

/// The number of the last calling process, and in the lower 32 bits how many processes
/// called before. Not a lock: in a fork it could be locked forever.
static LAST: AtomicU64 = AtomicU64::new(0);

/// In bytes. The C library reuses a stack for one of the same size or smaller, so in each
/// fork of a process that called this, the size is larger than it was there.
pub fn stack_size() -> usize {
    static OWN: OnceLock<usize> = OnceLock::new();
    let own = *OWN.get_or_init(|| {
        let wanted = std::env::var("RUST_MIN_STACK").ok();
        let wanted = wanted.and_then(|it| it.parse::<usize>().ok());
        wanted.unwrap_or(DEFAULT).clamp(DEFAULT, 1 << 30)
    });
    let number = u64::from(Process::current().number());
    let next = |last: u64| {
        let before = match last >> 32 {
            0 => 0,
            same if same == number => last & MOST,
            _ => ((last & MOST) + 1).min(MOST),
        };
        number << 32 | before
    };
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
        Some(next(last))
    });
    let before = next(last.unwrap_or_else(|last| last)) & MOST;
    own.saturating_mul(1 + usize::try_from(before).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt;

    #[test]
    fn a_fork_has_larger_stacks() {
        let here = stack_size();
        assert_eq!(here, stack_size());
        match attempt::fork().expect("a fork") {
            None => {
                let larger = stack_size() == 2 * here && stack_size() == 2 * here;
                crate::exit_now(i32::from(!larger));
            }
            Some(child) => {
                let ended =
                    rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
                let (_, status) = ended.expect("waited for").expect("ended");
                assert_eq!(status.exit_status(), Some(0));
            }
        }
        assert_eq!(here, stack_size());
    }
}
