//! HTTP requests on their way to a worker or from there, and their responses. Bodies go in
//! parts, each within what the other end said that it takes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;

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

/// A request that a guest sends, all but its body, and how long it waits.
#[derive(Debug, Serialize, Deserialize)]
pub struct FetchHead {
    pub request: RequestHead,
    /// Until there is a connection.
    pub connect: Option<Duration>,
    /// From there until the head of the response.
    pub head: Option<Duration>,
}

/// All of a response but its body.
#[derive(Debug, Serialize, Deserialize)]
pub struct ResponseHead {
    pub status: u16,
    pub fields: Fields,
    /// A body follows in parts.
    pub has_body: bool,
}

/// The number of an exchange of its task: of a request with its response.
pub type ExchangeId = u32;

/// The request that the task answers. Those that it sends are 1, 2, 3 and so on.
pub const OWN: ExchangeId = 0;

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
