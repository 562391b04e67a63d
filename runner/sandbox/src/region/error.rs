//! Why something cannot be done with a region.

use std::io;

/// Why something cannot be done with a [`Region`](super::Region).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// Beyond the end of the region; or a region of no bytes, or of more than there
    /// can be.
    #[error("the range is beyond the end of the region")]
    OutOfBounds,
    /// An offset that is not a multiple of what is there.
    #[error("the offset is not aligned")]
    Misaligned,
    /// It is mapped; or somebody else has a part of it, or has kept it and stands in
    /// the way.
    #[error("the region is in use")]
    Busy,
    /// Its kind does not allow it.
    #[error("the region is of the wrong kind")]
    WrongKind,
    /// There may be no more regions, or no more bytes in regions: of the task, or of
    /// the runner (`Builder::region_memory`).
    #[error("a limit on regions was reached")]
    Limit,
    /// The operating system refuses.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// What came from elsewhere is no region.
    #[error("not a region: {0}")]
    Foreign(&'static str),
}

impl RegionError {
    /// The system's error number, or that of what it comes to.
    #[doc(hidden)]
    pub fn errno(&self) -> i32 {
        match self {
            RegionError::System { error, .. } => error.raw_os_error().unwrap_or(libc::EIO),
            RegionError::Limit => libc::ENOSPC,
            _ => libc::EINVAL,
        }
    }

    /// Whether it is for want of memory, descriptors or address space.
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
