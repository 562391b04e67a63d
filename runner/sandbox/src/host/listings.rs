//! The directories that a guest is reading, as they were when it began.

use std::collections::BTreeMap;

/// Directories that a guest of WASI 0.1 is reading, by its descriptors.
#[derive(Default)]
pub(crate) struct Listings(pub(crate) BTreeMap<i32, Listing>);

/// The entries of a directory.
#[derive(Default)]
pub(crate) struct Listing {
    /// The names, concatenated.
    pub(crate) names: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// The inode number of the directory, if it is needed.
    pub(crate) number: u64,
    /// Bytes that were counted for it.
    pub(crate) counted: usize,
}

#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// As in the file's own attributes for guests; 0 if it is not needed.
    pub(crate) inode: u64,
    /// Where its name ends; it begins where the previous one ends.
    pub(crate) end: u32,
    pub(crate) kind: Kind,
}

/// The type of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Unknown,
    BlockDevice,
    CharacterDevice,
    Directory,
    Regular,
    Link,
}
