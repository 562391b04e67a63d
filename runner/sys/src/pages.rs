//! The properties of pages that may be mapped into a guest's memory.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

/// Pages of a memory file that may be mapped into the memory of the guest that holds them,
/// or whose bytes may be copied there.
///
/// An implementation promises what `sys/overlay.rs` relies on: while the value lives, no
/// other writer changes pages that are not copied, the pages are reserved, and the file
/// does not shrink.
pub trait Pages: Debug {
    /// The file that has them.
    fn file(&self) -> BorrowedFd<'_>;

    /// Their offset in the file.
    fn offset(&self) -> u64;

    /// Their length in bytes: whole pages.
    fn len(&self) -> usize;

    /// Other processes may write to the pages, so their bytes are copied.
    fn is_copied(&self) -> bool;

    /// Other processes may have added seals to the file, or may do so at any time.
    fn is_known_elsewhere(&self) -> bool;

    /// Writes to the pages do not change the file.
    fn is_private(&self) -> bool;
}
