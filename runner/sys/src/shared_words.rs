//! Memory that other threads and other processes change at any time: accessed by atomic
//! words only, never as plain bytes.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A mapping of the beginning of a memory file, shared with its other holders.
#[derive(Debug)]
pub struct SharedWords {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; it is unmapped once, when this
// is dropped.
#[expect(unsafe_code, reason = "a mapping of our own")]
unsafe impl Send for SharedWords {}
// SAFETY: `&SharedWords` gives out nothing but atomics.
#[expect(unsafe_code, reason = "a mapping of our own")]
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `len` bytes of `file`. They must exist and remain (reserved, sealed
    /// against shrinking); otherwise an access ends the process.
    ///
    /// # Errors
    ///
    /// No address space is left, or the file is not open for writing.
    #[expect(unsafe_code, reason = "a mapping of our own")]
    pub fn map(file: impl AsFd, len: usize) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(SharedWords { start, len })
    }

    /// The word at `offset`; `None` beyond the end, or if the offset is not aligned.
    #[expect(unsafe_code, reason = "a word of the mapping")]
    pub fn u32(&self, offset: usize) -> Option<&AtomicU32> {
        let at = self.word(offset, size_of::<u32>())?.cast();
        // SAFETY: `from_ptr` requires a pointer that is aligned, valid as long as the
        // reference, and meanwhile used by atomics only: `word` checked the first two, and no
        // code of this process accesses this mapping otherwise. Other processes change it in
        // any way; that is what atomics are for.
        Some(unsafe { AtomicU32::from_ptr(at) })
    }

    /// The same for a word of 64 bits.
    #[expect(unsafe_code, reason = "a word of the mapping")]
    pub fn u64(&self, offset: usize) -> Option<&AtomicU64> {
        let at = self.word(offset, size_of::<u64>())?.cast();
        // SAFETY: as for `u32`.
        Some(unsafe { AtomicU64::from_ptr(at) })
    }

    fn word(&self, offset: usize, size: usize) -> Option<*mut u8> {
        let inside = offset.checked_add(size)? <= self.len;
        // The mapping begins at a page.
        (inside && offset.is_multiple_of(size)).then(|| self.start.as_ptr().wrapping_add(offset))
    }
}

impl Drop for SharedWords {
    #[expect(unsafe_code, reason = "unmapping")]
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and every reference into it borrows this
        // value.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::mmap_anonymous;
    use std::sync::atomic::Ordering::Relaxed;

    /// Without a file, because Miri has no memory files.
    #[expect(unsafe_code, reason = "a mapping of our own")]
    fn anonymous(len: usize) -> SharedWords {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, prot, MapFlags::PRIVATE) };
        let start = NonNull::new(start.expect("maps").cast()).expect("an address");
        SharedWords { start, len }
    }

    #[test]
    fn words_are_aligned_and_inside() {
        let len = 4096;
        let words = anonymous(len);
        let far = [
            usize::MAX,
            usize::MAX - 3,
            usize::MAX - 7,
            usize::MAX / 2 + 1,
        ];
        for offset in (0..16).chain(len - 16..len + 16).chain(far) {
            let right = |size| {
                offset.is_multiple_of(size) && offset.checked_add(size).is_some_and(|it| it <= len)
            };
            assert_eq!(words.u32(offset).is_some(), right(4), "{offset}");
            assert_eq!(words.u64(offset).is_some(), right(8), "{offset}");
        }
        words
            .u64(len - 8)
            .expect("the last")
            .store(u64::MAX, Relaxed);
        assert_eq!(
            words.u32(len - 4).expect("half of it").load(Relaxed),
            u32::MAX
        );
    }

    #[test]
    fn threads_have_the_same_words() {
        let words = anonymous(4096);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        words.u32(8).expect("a word").fetch_add(1, Relaxed);
                    }
                });
            }
        });
        assert_eq!(words.u32(8).expect("a word").load(Relaxed), 100);
    }
}
