//! Errors of operations on regions.

use std::io;

/// Why an operation on a [`Region`](super::Region) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// Beyond the end of the region; or a region without bytes, or with more than the
    /// maximum.
    #[error("the range is beyond the end of the region")]
    OutOfBounds,
    /// The offset is not a multiple of the size of the word.
    #[error("the offset is not aligned")]
    Misaligned,
    /// It is mapped; or another holder has a part of it, or has kept it and obstructs the
    /// operation.
    #[error("the region is in use")]
    Busy,
    /// Its kind does not allow it.
    #[error("the region is of the wrong kind")]
    WrongKind,
    /// A limit on the number or the bytes of regions was reached: of the task, or of the
    /// runner (`Builder::region_memory`).
    #[error("a limit on regions was reached")]
    Limit,
    /// The operating system refuses.
    #[error("{what}: {error}")]
    System {
        /// The operation.
        what: &'static str,
        /// The system's error.
        error: io::Error,
    },
    /// The received descriptor is not a region.
    #[error("not a region: {0}")]
    Foreign(&'static str),
}

impl RegionError {
    /// The system's error number, or a corresponding one.
    #[doc(hidden)]
    pub fn errno(&self) -> i32 {
        match self {
            RegionError::System { error, .. } => error.raw_os_error().unwrap_or(libc::EIO),
            RegionError::Limit => libc::ENOSPC,
            _ => libc::EINVAL,
        }
    }

    /// Whether memory, descriptors or address space are short.
    #[doc(hidden)]
    pub fn is_limit(&self) -> bool {
        match self {
            RegionError::Limit => true,
            RegionError::System { error, .. } => matches!(
                error.raw_os_error(),
                Some(
                    libc::ENOMEM
                        | libc::ENOSPC
                        | libc::EDQUOT
                        | libc::EFBIG
                        | libc::EMFILE
                        | libc::ENFILE
                        | libc::EAGAIN
                )
            ),
            _ => false,
        }
    }
}

pub(super) fn system(what: &'static str) -> impl Fn(rustix::io::Errno) -> RegionError {
    move |errno| RegionError::System {
        what,
        error: errno.into(),
    }
}
