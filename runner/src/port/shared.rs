//! Data that goes to many: received once, and sent to each without being copied for it.
//!
//! Within a process that is the bytes themselves. Between processes, what is too large
//! for a packet lies in one memory file, as a rule the sender's own, of which each
//! receiver gets a descriptor. Nobody can change such a file: it is sealed, and whoever
//! takes one checks that.

use super::sealed::in_memory;
use bytes::Bytes;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

/// The data of one message.
#[derive(Debug)]
pub(crate) struct Shared {
    len: usize,
    /// Bytes that were copied to receive it.
    copied: usize,
    /// None where only the file was received.
    bytes: Option<Bytes>,
    file: OnceLock<OwnedFd>,
}

impl Shared {
    /// Of which `copied` were copied just now.
    pub(super) fn bytes(bytes: Bytes, copied: usize) -> Self {
        Shared {
            len: bytes.len(),
            copied,
            bytes: Some(bytes),
            file: OnceLock::new(),
        }
    }

    /// A sealed file of this many bytes.
    pub(super) fn in_file(file: OwnedFd, len: usize) -> Self {
        Shared {
            len,
            copied: 0,
            bytes: None,
            file: OnceLock::from(file),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that were copied to receive it.
    pub(crate) fn copied(&self) -> usize {
        self.copied
    }

    /// The data, where it is not in a file alone.
    pub(super) fn as_bytes(&self) -> Option<&Bytes> {
        self.bytes.as_ref()
    }

    /// A sealed file with the data, made for the first who needs it; none where the system
    /// has no memory or no descriptors for it.
    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        if self.file.get().is_none() {
            let made = in_memory(self.bytes.as_ref()?).ok()?;
            // Somebody else's would be as good.
            let _ = self.file.set(made);
        }
        self.file.get().map(AsFd::as_fd)
    }
}
