//! Data in sealed memory files: for data that does not fit a packet.

use bytes::Bytes;
use rustix::fs::{
    FileType, MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create,
};
use rustix::io::{Errno, pread, pwrite};
use std::io;
use std::os::fd::OwnedFd;

const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::GROW)
    .union(SealFlags::SHRINK);

/// A memory file that is still written.
pub struct Unsealed {
    file: OwnedFd,
    written: u64,
}

impl Unsealed {
    pub fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("wrun-message", flags)?;
        Ok(Unsealed { file, written: 0 })
    }

    /// Appends data.
    pub fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            match pwrite(&self.file, data, self.written) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(some) => {
                    self.written += some as u64;
                    data = &data[some..];
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Makes it permanently unchangeable.
    pub fn seal(self) -> io::Result<OwnedFd> {
        fcntl_add_seals(&self.file, SEALS)?;
        Ok(self.file)
    }
}

/// Data in a sealed memory file.
pub fn in_memory(data: &[u8]) -> io::Result<OwnedFd> {
    let mut file = Unsealed::new()?;
    file.write(data)?;
    file.seal()
}

/// Whether it is a memory file of this many bytes that cannot be changed.
pub fn is_sealed(file: &OwnedFd, len: u64) -> bool {
    fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && u64::try_from(stat.st_size) == Ok(len)
    }) && fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS))
}

/// The content of a memory file, which must be sealed: reading it neither blocks nor ends
/// early.
pub fn contents(file: OwnedFd, len: usize) -> Option<Bytes> {
    if !is_sealed(&file, len as u64) {
        return None;
    }
    let mut data = vec![0; len];
    let mut read = 0;
    while read < len {
        match pread(&file, &mut data[read..], read as u64) {
            Ok(0) => return None,
            Ok(some) => read += some,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    Some(data.into())
}
