//! Each row of a file in CSV: one column is the input, the others are carried along.
//!
//! `csv-core` parses; this keeps the names of columns, the numbers of lines, and the maximum of a
//! row.

use super::{Buffered, failed, named};
use crate::error::Error;
use crate::input::Input;
use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Maximum of columns.
const MAX_FIELDS: usize = 16_384;

pub(super) struct Rows<R> {
    path: PathBuf,
    reader: R,
    parser: Reader,
    field: Option<String>,
    most: u64,
    /// The names of the columns; `None` before the first row.
    names: Option<Vec<String>>,
    ended: bool,
    /// Reused for each row.
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl<R: Buffered> Rows<R> {
    pub(super) fn new(
        path: PathBuf,
        reader: R,
        field: Option<String>,
        delimiter: u8,
        most: u64,
    ) -> Self {
        Rows {
            path,
            reader,
            parser: ReaderBuilder::new().delimiter(delimiter).build(),
            field,
            most,
            names: None,
            ended: false,
            bytes: vec![0; 1024],
            ends: vec![0; 64],
        }
    }

    /// The fields of the next row.
    fn row(&mut self) -> Result<Option<Vec<&[u8]>>, Error> {
        let (mut len, mut fields) = (0, 0);
        loop {
            let input = self
                .reader
                .fill_buf()
                .map_err(|error| failed(&self.path, error))?;
            let (result, read, written, ended) =
                self.parser
                    .read_record(input, &mut self.bytes[len..], &mut self.ends[fields..]);
            self.reader.consume(read);
            len += written;
            fields += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if (len as u64) < self.most => {
                    let most = usize::try_from(self.most).unwrap_or(usize::MAX);
                    let room = (self.bytes.len() * 2).min(most);
                    self.bytes.resize(room, 0);
                }
                ReadRecordResult::OutputEndsFull if fields < MAX_FIELDS => {
                    self.ends.resize(self.ends.len() * 2, 0);
                }
                ReadRecordResult::OutputFull => {
                    let most = self.most;
                    return Err(self.wrong(&format!(
                        "has more than {most} bytes (a quote that is not closed?)"
                    )));
                }
                ReadRecordResult::OutputEndsFull => {
                    return Err(self.wrong(&format!("has more than {MAX_FIELDS} fields")));
                }
                ReadRecordResult::Record => break,
                ReadRecordResult::End => return Ok(None),
            }
        }
        let mut start = 0;
        let row = self.ends[..fields].iter().map(|end| {
            let field = &self.bytes[start..*end];
            start = *end;
            field
        });
        Ok(Some(row.collect()))
    }

    fn wrong(&self, why: &str) -> Error {
        Error::Format {
            path: self.path.clone(),
            why: format!("the row that ends at line {} {why}", self.parser.line()),
        }
    }

    /// Reads the names of the columns.
    fn read_names(&mut self) -> Result<bool, Error> {
        let Some(row) = self.row()? else {
            return Ok(false);
        };
        let names = row
            .into_iter()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        let names: Vec<_> = names.collect();
        if let Some(field) = &self.field
            && !names.contains(field)
        {
            return Err(Error::Format {
                path: self.path.clone(),
                why: format!(
                    "there is no column {field:?}: expected one of {}",
                    names.join(", ")
                ),
            });
        }
        self.names = Some(names);
        Ok(true)
    }

    fn next_input(&mut self) -> Result<Option<Input>, Error> {
        if self.names.is_none() && !self.read_names()? {
            return Ok(None);
        }
        let names = self.names.take().unwrap_or_default();
        let field = self.field.take();
        let made = self
            .row()
            .map(|row| row.map(|row| of_row(&row, &names, field.as_deref())));
        self.names = Some(names);
        self.field = field;
        let name = named(&self.path, self.parser.line().saturating_sub(1));
        Ok(made?.map(|made| match made {
            Ok(mut input) => {
                input.name = name;
                input
            }
            Err(why) => Input::unusable(name, why),
        }))
    }
}

fn of_row(row: &[&[u8]], names: &[String], field: Option<&str>) -> Result<Input, String> {
    if row.len() != names.len() {
        let (is, should) = (row.len(), names.len());
        return Err(format!(
            "the row has {is} fields, and the first row {should}"
        ));
    }
    let mut rest = Map::new();
    let mut chosen = None;
    for (name, value) in names.iter().zip(row) {
        if chosen.is_none() && field == Some(name.as_str()) {
            chosen = Some(value.to_vec());
            continue;
        }
        let text =
            std::str::from_utf8(value).map_err(|_| format!("the field {name:?} is not UTF-8"))?;
        rest.insert(name.clone(), Value::String(text.to_owned()));
    }
    let rest = Value::Object(rest);
    let Some(bytes) = chosen else {
        return Ok(Input::bytes("", rest.to_string()));
    };
    let mut input = Input::bytes("", bytes);
    input.carried = Some(rest);
    Ok(input)
}

impl<R: Buffered> Iterator for Rows<R> {
    type Item = Result<Input, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let input = self.next_input().transpose();
        self.ended = !matches!(input, Some(Ok(_)));
        input
    }
}
