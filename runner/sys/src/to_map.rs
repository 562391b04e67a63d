//! Memory to map and unmap, for measuring what that costs.

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::os::fd::OwnedFd;
use std::ptr;

/// A memory file.
pub struct ToMap {
    file: OwnedFd,
    len: usize,
}

impl ToMap {
    /// Makes one with its pages reserved.
    ///
    /// # Errors
    ///
    /// No memory or descriptor is left.
    pub fn new(len: u64) -> io::Result<Self> {
        let file = memfd_create("wrun-floor", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, len)?;
        fallocate(&file, FallocateFlags::empty(), 0, len)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        Ok(ToMap { file, len })
    }

    /// Maps all of it, and unmaps it.
    ///
    /// # Errors
    ///
    /// The errors of the calls.
    #[expect(unsafe_code, reason = "the bare calls are what is measured")]
    pub fn map(&self) -> io::Result<()> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses, to which nothing refers;
        // it is unmapped as it was mapped.
        unsafe {
            let at = mmap(
                ptr::null_mut(),
                self.len,
                prot,
                MapFlags::SHARED,
                &self.file,
                0,
            )?;
            munmap(at, self.len)?;
        }
        Ok(())
    }
}
