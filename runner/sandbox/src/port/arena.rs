//! The data of large messages: one memory file for each channel.
//!
//! Its descriptor travels with an end, not with each message: descriptors in flight are
//! counted by user, and a receiver that leaves large messages unread would use up those of
//! others. Message number `n` of a direction is in the slot `n` modulo the capacity: the
//! slot is free when the message may be sent, because its previous content has been
//! received.
//!
//! The other side is not trusted. Invariants: received data is copied once, before its slot
//! is released; no call blocks; nothing is mapped. A side that writes into a slot of the
//! other, truncates the file or sets it to append harms only this channel.

use super::{Message, Port};
use bytes::Bytes;
use rustix::fs::{FileType, MemfdFlags, OFlags, fcntl_get_seals, fcntl_getfl, fstat, memfd_create};
use rustix::io::{Errno, pread, pwrite};
use std::io;
use std::os::fd::OwnedFd;

/// Bytes of a slot.
const PLACE: u64 = Message::MAX_DATA as u64;
/// Slots of a direction.
const PLACES: u64 = Port::MAX_CAPACITY as u64;
/// Maximum size of the file of a channel.
pub const ARENA: u64 = 2 * PLACES * PLACE;

/// The file, as seen by one end.
pub(super) struct Arena {
    pub(super) file: OwnedFd,
    /// Which end: 0 or 1.
    pub(super) side: u8,
    capacity: u64,
}

impl Arena {
    /// For both ends of a channel.
    pub(super) fn pair(capacity: u8) -> io::Result<[Self; 2]> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let one = memfd_create("wrun-channel", flags)?;
        let other = one.try_clone()?;
        let mut sides = 0..;
        let mut end = |file| Arena {
            file,
            side: sides.next().unwrap_or(0),
            capacity: u64::from(capacity),
        };
        Ok([end(one), end(other)])
    }

    /// From a process that is not trusted: checks that it is a memory file, so that reading
    /// and writing does not block.
    pub(super) fn new(file: OwnedFd, side: u8, capacity: u8) -> io::Result<Self> {
        let is_memory = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile
            && fcntl_get_seals(&file).is_ok();
        if !is_memory || side > 1 {
            return Err(io::Error::other("a channel's file is not a memory file"));
        }
        Ok(Arena {
            file,
            side,
            capacity: u64::from(capacity.max(1)),
        })
    }

    /// The offset of the message of this number from `side` to the other: near the
    /// beginning, so that a limit on the size of files is reached late.
    fn place(&self, side: u8, number: u64) -> u64 {
        (number % self.capacity * 2 + u64::from(side)) * PLACE
    }

    /// Writes the data of the message of this number. Its slot must be free.
    pub(super) fn put(&self, number: u64, data: &[u8]) -> io::Result<()> {
        // It would be written at the end of the file, which would grow.
        if fcntl_getfl(&self.file)?.contains(OFlags::APPEND) {
            return Err(io::Error::other("the other side has changed the file"));
        }
        let place = self.place(self.side, number);
        let mut written = 0;
        while written < data.len() {
            match pwrite(&self.file, &data[written..], place + written as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(some) => written += some,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// A copy of the data that the other side has written; `None` if there is less.
    pub(super) fn get(&self, number: u64, len: usize) -> Option<Bytes> {
        let place = self.place(1 - self.side, number);
        let mut data = vec![0; len];
        let mut read = 0;
        while read < len {
            match pread(&self.file, &mut data[read..], place + read as u64) {
                Ok(0) => return None,
                Ok(some) => read += some,
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        Some(data.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::fcntl_setfl;

    #[test]
    fn places_do_not_overlap() {
        let [one, other] = Arena::pair(3).expect("a file");
        for number in 0..3 {
            one.put(number, &[1 + number as u8; 5]).expect("put");
            other.put(number, &[11 + number as u8; 5]).expect("put");
        }
        for number in 0..3 {
            assert_eq!(
                other.get(number, 5).expect("there"),
                [1 + number as u8; 5][..]
            );
            assert_eq!(
                one.get(number, 5).expect("there"),
                [11 + number as u8; 5][..]
            );
        }
        // The slot after the last is the first; counts wrap.
        one.put(3, b"again").expect("put");
        assert_eq!(other.get(0, 5).expect("there"), "again");
        let largest = vec![7; Message::MAX_DATA];
        one.put(u64::MAX, &largest).expect("put");
        assert_eq!(other.get(u64::MAX, largest.len()).expect("there"), largest);
        assert_eq!(other.get(1, 5).expect("there"), [2; 5][..]);
        assert!(fstat(&one.file).expect("a file").st_size.cast_unsigned() <= ARENA);
    }

    #[test]
    fn what_the_other_side_does_to_the_file_is_an_error() {
        let [one, other] = Arena::pair(1).expect("a file");
        assert!(other.get(0, 1).is_none(), "nothing is there");
        one.put(0, b"12345").expect("put");
        rustix::fs::ftruncate(&other.file, 3).expect("cut");
        assert!(other.get(0, 5).is_none());
        fcntl_setfl(&other.file, OFlags::APPEND).expect("set");
        let before = fstat(&one.file).expect("a file").st_size;
        assert!(one.put(0, b"12345").is_err());
        assert_eq!(fstat(&one.file).expect("a file").st_size, before);
        let (pipe, _writer) = io::pipe().expect("a pipe");
        assert!(Arena::new(pipe.into(), 0, 1).is_err());
        let [file, another] = [(); 2].map(|()| one.file.try_clone().expect("a copy"));
        assert!(Arena::new(file, 2, 1).is_err());
        assert!(Arena::new(another, 1, 1).is_ok());
    }
}
