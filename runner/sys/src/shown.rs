//! Two numbers that one process publishes to others, which can read but not change them.

use super::shared_words::SharedWords;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Size of the file in bytes: less than any page.
const LEN: usize = 2 * size_of::<u64>();

/// The numbers, for the process that sets them.
#[derive(Debug)]
pub struct Shown {
    file: OwnedFd,
    words: SharedWords,
}

impl Shown {
    /// Both are 0.
    ///
    /// # Errors
    ///
    /// No memory or descriptor is left, or the kernel (before Linux 5.1) cannot forbid
    /// writing to others.
    pub fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("wrun-clock", flags)?;
        ftruncate(&file, LEN as u64)?;
        let words = SharedWords::map(&file, LEN)?;
        let fixed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, SealFlags::FUTURE_WRITE | fixed)?;
        Ok(Shown { file, words })
    }

    /// The file for other processes to map.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Sets both, the second first.
    pub fn store(&self, numbers: [u64; 2]) {
        for (index, number) in numbers.into_iter().enumerate().rev() {
            if let Some(word) = self.words.u64(index * size_of::<u64>()) {
                word.store(number, Ordering::Release);
            }
        }
    }
}

/// The numbers, for the readers. They stay mapped as long as the process lives.
#[derive(Debug)]
pub struct Seen(NonNull<AtomicU64>);

// SAFETY: the mapping is never unmapped, and its content is atomic.
#[expect(unsafe_code, reason = "a page that all threads read")]
unsafe impl Send for Seen {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a page that all threads read")]
unsafe impl Sync for Seen {}

impl Seen {
    /// Maps the numbers of another process.
    ///
    /// # Errors
    ///
    /// It is another kind of file, or no address space is left.
    #[expect(unsafe_code, reason = "a mapping of our own")]
    pub fn map(file: OwnedFd) -> io::Result<Self> {
        // Only memory files have seals; a file that cannot shrink keeps its bytes.
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let len = rustix::fs::fstat(&file)?.st_size;
        if !seals.contains(SealFlags::SHRINK) || usize::try_from(len) != Ok(LEN) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: a new mapping at an address that the kernel chooses, which no other code
        // knows.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                LEN,
                ProtFlags::READ,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Seen(start))
    }

    /// Both numbers, the first one first.
    #[expect(unsafe_code, reason = "reading a page that was mapped by hand")]
    pub fn load(&self) -> [u64; 2] {
        [0, 1].map(|index| {
            // SAFETY: the mapping has both words, begins at a page, and stays forever; the file
            // cannot shrink. All code of this process accesses it by such loads alone: relaxed
            // loads of a word's size are allowed on read-only memory.
            let number = unsafe { self.0.add(index).as_ref() }.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            number
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_seen_and_cannot_be_changed() {
        let shown = Shown::new().expect("a page");
        let file = shown.file().try_clone_to_owned().expect("a descriptor");
        let seen = Seen::map(file).expect("maps");
        assert_eq!(seen.load(), [0, 0]);
        shown.store([7, u64::MAX]);
        assert_eq!(seen.load(), [7, u64::MAX]);
        assert!(SharedWords::map(shown.file(), LEN).is_err());
        assert!(rustix::io::pwrite(shown.file(), &[1], 0).is_err());
        let other = memfd_create("other", MemfdFlags::CLOEXEC).expect("a file");
        assert!(Seen::map(other).is_err());
    }
}
