//! Records that end with a byte, each with a maximum length.

use memchr::memchr;
use std::io::{self, BufRead};

/// Reads records. The last need not have its end.
pub(super) struct Records<R> {
    reader: R,
    end: u8,
    most: u64,
}

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Without its end.
    Whole(Vec<u8>),
    /// It has this many bytes, more than allowed, which were skipped.
    TooLong(u64),
}

impl<R: BufRead> Records<R> {
    pub(super) fn new(reader: R, end: u8, most: u64) -> Self {
        Records { reader, end, most }
    }

    /// The next; `None` at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        let (mut record, mut len, mut any) = (Vec::new(), 0, false);
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(any.then(|| self.record(record, len)));
            }
            any = true;
            let at = memchr(self.end, buffer);
            let part = &buffer[..at.unwrap_or(buffer.len())];
            len += part.len() as u64;
            if len <= self.most {
                record.extend_from_slice(part);
            } else {
                record = Vec::new();
            }
            let used = part.len() + usize::from(at.is_some());
            self.reader.consume(used);
            if at.is_some() {
                return Ok(Some(self.record(record, len)));
            }
        }
    }

    fn record(&self, record: Vec<u8>, len: u64) -> Record {
        match len > self.most {
            true => Record::TooLong(len),
            false => Record::Whole(record),
        }
    }
}

/// The message about a record that is too long.
pub(super) fn too_long(len: u64, most: u64) -> String {
    format!("the record has {len} bytes, more than the maximum of {most}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str, most: u64, buffer: usize) -> Vec<Record> {
        let reader = io::BufReader::with_capacity(buffer, text.as_bytes());
        let mut records = Records::new(reader, b'\n', most);
        let mut all = Vec::new();
        while let Some(record) = records.next().expect("read") {
            all.push(record);
        }
        all
    }

    #[test]
    fn the_last_record_need_not_have_its_end() {
        for buffer in 1..9 {
            let whole = |text: &str| Record::Whole(text.into());
            let expected = [whole("ab"), whole(""), whole("cd")];
            assert_eq!(all("ab\n\ncd", 9, buffer), expected);
            assert_eq!(all("ab\n\ncd\n", 9, buffer), expected);
            assert_eq!(all("", 9, buffer), []);
            assert_eq!(all("\n", 9, buffer), [whole("")]);
            let expected = [whole("ab"), Record::TooLong(4), whole("d")];
            assert_eq!(all("ab\nwxyz\nd", 3, buffer), expected);
        }
    }
}
