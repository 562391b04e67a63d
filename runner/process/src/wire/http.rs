//! An HTTP request on its way to a worker, and its response. Both bodies go in parts, each
//! within what the other end said that it takes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of a body that may be on the way, at most.
pub const WINDOW: usize = 256 << 10;
/// Bytes of one part, at most.
pub const MAX_PART: usize = 64 << 10;
/// What the smallest part counts for in the window: a queue of many small ones takes more memory
/// than their bytes.
pub const MIN_ROOM: usize = 256;

/// What a part of this many bytes counts for in the window.
pub fn room_of(len: usize) -> usize {
    len.max(MIN_ROOM)
}

/// Names and values, in order.
pub type Fields = Vec<(String, Bytes)>;

/// All of a request but its body.
#[derive(Debug, Serialize, Deserialize)]
pub struct RequestHead {
    pub method: String,
    pub uri: String,
    pub fields: Fields,
    /// A body follows in parts.
    pub has_body: bool,
    /// Its client waits until somebody wants the body, as `expect: 100-continue` says:
    /// nothing of it is sent before.
    pub waits: bool,
}

/// All of a response but its body.
#[derive(Debug, Serialize, Deserialize)]
pub struct ResponseHead {
    pub status: u16,
    pub fields: Fields,
    /// A body follows in parts.
    pub has_body: bool,
}

/// A part of a body; or, the other way, what becomes of one.
#[derive(Debug, Serialize, Deserialize)]
pub enum Part {
    Data(Bytes),
    /// Its end, with the trailers.
    End(Option<Fields>),
    /// It ends before its end.
    Failed(String),
    /// This many bytes were taken, as [`room_of`] counts them: there is room for as many more.
    Taken(u32),
    /// No more of it is wanted.
    Closed,
}
