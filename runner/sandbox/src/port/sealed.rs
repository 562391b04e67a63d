//! Data in memory files that nobody can change: what a packet has no room for.

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

    /// Writes what follows.
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

    /// From now on nobody can change it.
    pub fn seal(self) -> io::Result<OwnedFd> {
        fcntl_add_seals(&self.file, SEALS)?;
        Ok(self.file)
    }
}

/// Data in a memory file that nobody can change.
pub fn in_memory(data: &[u8]) -> io::Result<OwnedFd> {
    let mut file = Unsealed::new()?;
    file.write(data)?;
    file.seal()
}

/// Whether it is a memory file of this many bytes that nobody can change.
pub fn is_sealed(file: &OwnedFd, len: u64) -> bool {
    fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && u64::try_from(stat.st_size) == Ok(len)
    }) && fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS))
}

/// What a memory file has, which must be sealed: reading it neither waits nor comes
/// to another end than was said.
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
