//! Notes as JSON, each a file in the granted directory `/data`:
//!
//! | request | answer |
//! |---|---|
//! | `GET /notes` | 200 `{"notes": ["NAME", ...]}`, sorted |
//! | `GET /notes/NAME` | 200 `{"name": "NAME", "note": ...}` |
//! | `PUT /notes/NAME` with any JSON | 201 if the note is new, 200 if it replaces one |
//! | `DELETE /notes/NAME` | 200 |
//!
//! Every error is `{"error": "..."}`: 400 for a name or body that is not one, 404, 405, 413, and 500 if the
//! directory is not granted or fails.
//!
//! Many instances use the directory at the same time. A note is written under another name and then renamed,
//! so that a reader sees the old one or the new one, whole.

use http_common::{Target, answer, read};
use serde_json::{Value, json};
use std::fs;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, ResponseOutparam};

struct Api;

const DATA: &str = "/data";
/// The most bytes of a note.
const MOST: usize = 64 << 10;

/// Status code, what stands in `allow` if it is 405, and the answer.
struct Refusal(u16, &'static str, String);

fn refuse(status: u16, why: impl Into<String>) -> Refusal {
    Refusal(status, "", why.into())
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound if Path::new(DATA).exists() => refuse(404, "there is no such note"),
            _ => refuse(500, format!("{DATA}: {error}")),
        }
    }
}

fn file_of(name: &str) -> Result<PathBuf, Refusal> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(refuse(400, "a name has 1 to 64 letters, digits, - and _"));
    }
    Ok(Path::new(DATA).join(format!("{name}.json")))
}

fn list() -> Result<Value, Refusal> {
    let mut notes = Vec::new();
    for entry in fs::read_dir(DATA)? {
        let name = entry?.file_name();
        // What is being written ends otherwise.
        if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".json")) {
            notes.push(name.to_owned());
        }
    }
    notes.sort();
    Ok(json!({ "notes": notes }))
}

fn body_of(request: &IncomingRequest) -> Result<Value, Refusal> {
    let mut whole = Vec::new();
    let body = request.consume().expect("the only body");
    let came = read(body, |piece| {
        whole.extend_from_slice(piece);
        if whole.len() > MOST { Err(()) } else { Ok(()) }
    });
    came.map_err(|why| refuse(400, format!("the body is incomplete: {why}")))?
        .map_err(|()| refuse(413, format!("a note has at most {MOST} bytes")))?;
    serde_json::from_slice(&whole).map_err(|error| refuse(400, format!("not JSON: {error}")))
}

fn put(name: &str, request: &IncomingRequest) -> Result<(u16, Value), Refusal> {
    let file = file_of(name)?;
    let note = body_of(request)?;
    let new = !file.try_exists()?;
    let unique = wasip2::random::random::get_random_u64();
    let written = Path::new(DATA).join(format!("{name}.{unique:016x}.new"));
    let done = fs::write(&written, note.to_string()).and_then(|()| fs::rename(&written, &file));
    if done.is_err() {
        let _ = fs::remove_file(&written);
    }
    done?;
    let answer = json!({ "name": name, "note": note });
    Ok((if new { 201 } else { 200 }, answer))
}

fn get(name: &str) -> Result<Value, Refusal> {
    let text = fs::read_to_string(file_of(name)?)?;
    let note: Value = serde_json::from_str(&text)
        .map_err(|error| refuse(500, format!("the note is damaged: {error}")))?;
    Ok(json!({ "name": name, "note": note }))
}

fn delete(name: &str) -> Result<Value, Refusal> {
    fs::remove_file(file_of(name)?)?;
    Ok(json!({ "deleted": name }))
}

fn serve(target: &Target, request: &IncomingRequest) -> Result<(u16, Value), Refusal> {
    if target.path == "/notes" {
        return match &*target.method {
            "GET" => Ok((200, list()?)),
            _ => Err(Refusal(405, "GET", "the list can only be read".into())),
        };
    }
    let name = target.path.strip_prefix("/notes/");
    let name = name.ok_or_else(|| refuse(404, "notes are at /notes and /notes/NAME"))?;
    match &*target.method {
        "GET" => Ok((200, get(name)?)),
        "PUT" => put(name, request),
        "DELETE" => Ok((200, delete(name)?)),
        _ => Err(Refusal(
            405,
            "GET, PUT, DELETE",
            "a note can be read, written and deleted".into(),
        )),
    }
}

impl Guest for Api {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let (status, allow, value) = match serve(&Target::of(&request), &request) {
            Ok((status, value)) => (status, "", value),
            Err(Refusal(status, allow, why)) => (status, allow, json!({ "error": why })),
        };
        let mut headers = vec![("content-type", "application/json")];
        if !allow.is_empty() {
            headers.push(("allow", allow));
        }
        answer(out, status, &headers, format!("{value}\n").as_bytes());
    }
}

wasip2::http::proxy::export!(Api);
