//! What pages are that may be laid into a guest's memory.

use std::fmt::Debug;
use std::os::fd::BorrowedFd;

/// Pages of a memory file that may be laid into the memory of the guest that holds them,
/// or whose bytes may be copied there.
///
/// The one that implements this promises what `sys/overlay.rs` relies on: as long as the value
/// lives, nobody else writes to pages that are not to be copied, the pages are reserved,
/// and the file does not shrink.
pub trait Pages: Debug {
    /// The file that has them.
    fn file(&self) -> BorrowedFd<'_>;

    /// Where they begin in it.
    fn offset(&self) -> u64;

    /// How many bytes they are: whole pages.
    fn len(&self) -> usize;

    /// Other processes may write to the pages: their bytes are copied.
    fn is_copied(&self) -> bool;

    /// Other processes can have added seals to the file, or can at any time.
    fn is_known_elsewhere(&self) -> bool;

    /// What is written there stays there.
    fn is_private(&self) -> bool;
}
