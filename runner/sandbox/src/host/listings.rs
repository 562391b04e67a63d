//! The directories that a guest is reading, as they were when it began.

use std::collections::BTreeMap;

/// Directories that a guest of WASI 0.1 is reading, by its descriptors.
#[derive(Default)]
pub(crate) struct Listings(pub(crate) BTreeMap<i32, Listing>);

/// What was in a directory.
#[derive(Default)]
pub(crate) struct Listing {
    /// Names, one after the other.
    pub(crate) names: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// The directory's own, where somebody asks.
    pub(crate) number: u64,
    /// Bytes that were counted for it.
    pub(crate) counted: usize,
}

#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// As the file's own attributes tell it to guests; 0 where nobody asks.
    pub(crate) inode: u64,
    /// Where its name ends; it begins where the last one ends.
    pub(crate) end: u32,
    pub(crate) kind: Kind,
}

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Unknown,
    BlockDevice,
    CharacterDevice,
    Directory,
    Regular,
    Link,
}
