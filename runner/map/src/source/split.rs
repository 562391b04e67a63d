//! Pieces of a file that end at line ends.

use super::Buffered;
use super::failed;
use super::records::too_long;
use crate::error::Error;
use crate::input::Input;
use memchr::{memchr, memrchr};
use std::path::PathBuf;

pub(super) struct Split<R> {
    path: PathBuf,
    reader: R,
    size: usize,
    most: u64,
    /// Where the next piece begins in the file.
    offset: u64,
    /// The begin of the next piece, which is behind the last line end of the one before.
    rest: Vec<u8>,
    ended: bool,
}

impl<R: Buffered> Split<R> {
    pub(super) fn new(path: PathBuf, reader: R, size: u64, most: u64) -> Self {
        Split {
            path,
            reader,
            size: usize::try_from(size.max(1)).unwrap_or(usize::MAX),
            most: most.max(size),
            offset: 0,
            rest: Vec::new(),
            ended: false,
        }
    }

    /// Adds up to `room` bytes to `piece`; false at the end of the file.
    fn read(&mut self, piece: &mut Vec<u8>, room: usize) -> std::io::Result<bool> {
        let buffer = self.reader.fill_buf()?;
        let len = buffer.len().min(room);
        piece.extend_from_slice(&buffer[..len]);
        let is_end = buffer.is_empty();
        self.reader.consume(len);
        Ok(!is_end)
    }

    fn piece(&mut self) -> std::io::Result<Option<Result<Vec<u8>, u64>>> {
        let mut piece = std::mem::take(&mut self.rest);
        while piece.len() < self.size {
            let room = self.size - piece.len();
            if !self.read(&mut piece, room)? {
                return Ok((!piece.is_empty()).then_some(Ok(piece)));
            }
        }
        let within = memrchr(b'\n', &piece[..self.size]);
        let end = match within {
            Some(at) => Some(at + 1),
            None => memchr(b'\n', &piece[self.size..]).map(|at| self.size + at + 1),
        };
        if let Some(end) = end {
            self.rest = piece.split_off(end);
            return Ok(Some(Ok(piece)));
        }
        // A line that is longer than the size.
        let mut skipped = 0;
        loop {
            let buffer = self.reader.fill_buf()?;
            let at = memchr(b'\n', buffer);
            let len = at.map_or(buffer.len(), |at| at + 1);
            let is_end = buffer.is_empty() || at.is_some();
            if skipped == 0 && (piece.len() + len) as u64 <= self.most {
                piece.extend_from_slice(&buffer[..len]);
            } else {
                skipped += piece.len() as u64 + len as u64;
                piece = Vec::new();
            }
            self.reader.consume(len);
            if is_end {
                return Ok(Some(if skipped == 0 {
                    Ok(piece)
                } else {
                    Err(skipped)
                }));
            }
        }
    }
}

impl<R: Buffered> Iterator for Split<R> {
    type Item = Result<Input, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.piece() {
            Err(error) => {
                self.ended = true;
                Some(Err(failed(&self.path, error)))
            }
            Ok(piece) => {
                let piece = piece?;
                let name = format!("{}@{}", self.path.display(), self.offset);
                self.offset += piece
                    .as_ref()
                    .map_or_else(|len| *len, |piece| piece.len() as u64);
                Some(Ok(match piece {
                    Ok(bytes) => Input::bytes(name, bytes),
                    Err(len) => Input::unusable(name, too_long(len, self.most)),
                }))
            }
        }
    }
}
