//! Each line of a file, as JSON: one field is the input, the rest is carried along.

use super::records::{Record, Records, too_long};
use super::{Buffered, failed, named};
use crate::error::Error;
use crate::input::Input;
use serde_json::Value;
use std::path::PathBuf;

pub(super) fn json_lines(
    path: PathBuf,
    reader: impl Buffered,
    field: Option<String>,
    most: u64,
) -> impl Iterator<Item = Result<Input, Error>> + Send {
    let mut records = Records::new(reader, b'\n', most);
    let mut number = 0;
    std::iter::from_fn(move || {
        loop {
            number += 1;
            let line = match records.next() {
                Ok(record) => record?,
                Err(error) => return Some(Err(failed(&path, error))),
            };
            let name = named(&path, number);
            return Some(Ok(match line {
                Record::TooLong(len) => Input::unusable(name, too_long(len, most)),
                // Between objects, and at the end.
                Record::Whole(line) if line.trim_ascii().is_empty() => continue,
                Record::Whole(line) => {
                    let input = input(name.clone(), line, field.as_deref());
                    input.unwrap_or_else(|why| Input::unusable(name, why))
                }
            }));
        }
    })
}

fn input(name: String, line: Vec<u8>, field: Option<&str>) -> Result<Input, String> {
    let not_json = |error| format!("the line is not JSON: {error}");
    let Some(field) = field else {
        serde_json::from_slice::<serde::de::IgnoredAny>(&line).map_err(not_json)?;
        return Ok(Input::bytes(name, line));
    };
    let mut value: Value = serde_json::from_slice(&line).map_err(not_json)?;
    let taken = take(&mut value, field).ok_or_else(|| format!("there is no field {field:?}"))?;
    let bytes = match taken {
        Value::String(text) => text.into_bytes(),
        other => other.to_string().into_bytes(),
    };
    let mut input = Input::bytes(name, bytes);
    input.carried = Some(value);
    Ok(input)
}

/// Takes a field out of an object.
fn take(value: &mut Value, field: &str) -> Option<Value> {
    if !field.starts_with('/') {
        return value.as_object_mut()?.remove(field);
    }
    let (parent, key) = field.rsplit_once('/')?;
    match value.pointer_mut(parent)? {
        Value::Object(object) => object.remove(&key.replace("~1", "/").replace("~0", "~")),
        // An element of an array stays, or the others would have other positions.
        Value::Array(array) => array.get(key.parse::<usize>().ok()?).cloned(),
        _ => None,
    }
}
