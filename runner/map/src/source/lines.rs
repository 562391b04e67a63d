//! Each line of a file, as bytes and without its end.

use super::records::{Record, Records, too_long};
use super::{Buffered, failed, named};
use crate::error::Error;
use crate::input::Input;
use std::path::PathBuf;

pub(super) fn lines(
    path: PathBuf,
    reader: impl Buffered,
    end: u8,
    most: u64,
) -> impl Iterator<Item = Result<Input, Error>> + Send {
    let mut records = Records::new(reader, end, most);
    let mut number = 0;
    std::iter::from_fn(move || {
        number += 1;
        let name = named(&path, number);
        match records.next() {
            Ok(None) => None,
            Ok(Some(Record::Whole(bytes))) => Some(Ok(Input::bytes(name, bytes))),
            Ok(Some(Record::TooLong(len))) => Some(Ok(Input::unusable(name, too_long(len, most)))),
            Err(error) => Some(Err(failed(&path, error))),
        }
    })
}
