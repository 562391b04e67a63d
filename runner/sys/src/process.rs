//! The identity of this process, at the price of one load: whether it is still the same
//! one, or a fork of it, in which the other threads are missing.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use rustix::process::getpid;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A process of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

/// Where the number of this process is kept: on a page that is all zero in a fork.
struct Page(NonNull<AtomicU32>);

// SAFETY: the page is never unmapped, and its content is atomic.
#[expect(unsafe_code, reason = "a page that all threads read")]
unsafe impl Send for Page {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a page that all threads read")]
unsafe impl Sync for Page {}

/// `None` if the kernel has no such pages.
static PAGE: OnceLock<Option<Page>> = OnceLock::new();

impl Process {
    /// The calling process.
    #[expect(unsafe_code, reason = "reading a page that was mapped by hand")]
    pub fn current() -> Self {
        let Some(page) = PAGE.get_or_init(new_page) else {
            return Process(number());
        };
        // SAFETY: the page is mapped forever, for reading and writing, and large and aligned
        // enough; all zeroes are a valid value, and every access is atomic.
        let kept = unsafe { page.0.as_ref() };
        match kept.load(Ordering::Relaxed) {
            0 => {
                let number = number();
                kept.store(number, Ordering::Relaxed);
                Process(number)
            }
            number => Process(number),
        }
    }

    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// Whether it is the calling process.
    pub fn is_current(self) -> bool {
        self == Process::current()
    }
}

fn number() -> u32 {
    getpid().as_raw_nonzero().get().cast_unsigned()
}

#[expect(unsafe_code, reason = "a mapping of our own")]
fn new_page() -> Option<Page> {
    let len = rustix::param::page_size();
    // SAFETY: a new mapping at an address that the kernel chooses, which no other code
    // knows.
    let page = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }
    .ok()?;
    // SAFETY: the advice concerns this mapping, and what a fork sees of it.
    let wiped = unsafe { madvise(page, len, Advice::LinuxWipeOnFork) };
    if wiped.is_err() {
        // SAFETY: it was just mapped, and no other code has its address.
        let _ = unsafe { rustix::mm::munmap(page, len) };
        return None;
    }
    NonNull::new(page.cast()).map(Page)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt;

    #[test]
    fn a_fork_is_another_process() {
        let before = Process::current();
        assert!(before.is_current());
        match attempt::fork().expect("a fork") {
            None => {
                let other = !before.is_current() && Process::current().is_current();
                crate::exit_now(i32::from(!other));
            }
            Some(child) => {
                let ended =
                    rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
                let (_, status) = ended.expect("waited for").expect("ended");
                assert_eq!(status.exit_status(), Some(0));
            }
        }
        assert!(before.is_current());
    }
}
