//! The size of threads' stacks, in a process that may be a fork of one with threads.
//!
//! A fork has none of the other threads, and the C library gives their stacks, with what was
//! local to them, to new threads. But parking_lot, which tokio may use, keeps its waiting
//! threads in lists that go through those places: in a fork they still hold the threads that
//! waited in the other process. A new thread in the place of one of them breaks the list, and
//! another one is never woken. Invariant: a thread of this size gets no stack of a thread that
//! a process before this one had.

use crate::process::Process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// What Rust gives a thread.
const DEFAULT: usize = 2 << 20;
/// Forks of forks that are told apart; later ones share the largest size.
const MOST: u64 = 15;

/// The number of the process that asked last, and in the lower 32 bits how many asked before.
/// No lock: a fork would have it locked for ever.
static LAST: AtomicU64 = AtomicU64::new(0);

/// Bytes: the C library reuses a stack for one that is as large or smaller, so in each fork of
/// a process that called this, it is larger than it was there.
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
