//! HTTP/2 frame by frame, for clients that break its rules. RFC 9113 for the frames, RFC 7541
//! for the fields.

use super::command::PATIENCE;
use super::web::Site;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
/// Of settings and pings.
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `:method GET`, `:scheme http`, `:path /`, `:authority x`, by the static table.
pub const REQUEST: &[u8] = &[0x82, 0x86, 0x84, 0x01, 0x01, b'x'];

/// A frame of HTTP/2.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = len[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields that are not kept, each byte by byte: whatever is in them.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    fn string(to: &mut Vec<u8>, text: &str) {
        match text.len() {
            len @ 0..127 => to.push(len as u8),
            len => {
                to.push(127);
                let mut rest = len - 127;
                while rest >= 128 {
                    to.push((rest % 128 + 128) as u8);
                    rest /= 128;
                }
                to.push(rest as u8);
            }
        }
        to.extend(text.bytes());
    }
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

/// What became of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    pub status: Option<u16>,
    pub body: Vec<u8>,
    /// All of the answer is there.
    pub complete: bool,
    /// The error code of the server, for the stream or all of the connection.
    pub reset: Option<u32>,
    /// The connection was closed.
    pub closed: bool,
}

impl Fate {
    fn is_over(&self) -> bool {
        self.complete || self.reset.is_some() || self.closed
    }
}

/// A connection of HTTP/2.
pub struct Wire {
    pub stream: TcpStream,
    fates: BTreeMap<u32, Fate>,
    /// What the server closes the connection with.
    going: Option<u32>,
    closed: bool,
}

impl Wire {
    /// Connects and says these settings.
    pub fn connect(site: &Site, settings: &[(u16, u32)]) -> Self {
        let stream = TcpStream::connect(site.address).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut wire = Wire {
            stream,
            fates: BTreeMap::new(),
            going: None,
            closed: false,
        };
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        wire.send(PREFACE);
        wire.send(&frame(SETTINGS, 0, 0, &payload));
        wire
    }

    /// Sends bytes; false once the server takes no more.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// What became of a stream, once that is clear.
    pub fn fate(&mut self, stream: u32) -> Fate {
        self.read_until(PATIENCE, |wire| wire.known(stream).is_over());
        self.known(stream)
    }

    /// The beginning of the answer of a stream.
    pub fn begun(&mut self, stream: u32) -> Fate {
        self.read_until(PATIENCE, |wire| {
            let fate = wire.known(stream);
            fate.status.is_some() || fate.is_over()
        });
        self.known(stream)
    }

    /// Whether the server closes the connection in time, however much it sends before and
    /// whatever it asks for.
    pub fn is_closed_within(&mut self, time: Duration) -> bool {
        self.read_until(time, |_| false);
        self.closed
    }

    fn known(&self, stream: u32) -> Fate {
        let mut fate = self.fates.get(&stream).cloned().unwrap_or_default();
        if !fate.complete && fate.reset.is_none() {
            fate.reset = self.going.filter(|code| *code != 0);
            fate.closed = self.closed;
        }
        fate
    }

    fn read_until(&mut self, time: Duration, is_enough: impl Fn(&Self) -> bool) {
        let until = Instant::now() + time;
        while !self.closed && !is_enough(self) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut head = [0; 9];
            if let Err(error) = self.stream.read_exact(&mut head) {
                // Otherwise the time is over.
                use std::io::ErrorKind::{TimedOut, WouldBlock};
                self.closed = ![TimedOut, WouldBlock].contains(&error.kind());
                return;
            }
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; len as usize];
            if self.stream.read_exact(&mut payload).is_err() {
                self.closed = true;
                return;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            self.take(head[3], head[4], stream, &payload);
        }
    }

    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match kind {
            SETTINGS | PING if flags & ACK == 0 => {
                let payload = if kind == PING { payload } else { &[] };
                self.send(&frame(kind, ACK, 0, payload));
            }
            GOAWAY => self.going = Some(code(4)),
            HEADERS | DATA | RESET => {
                let fate = self.fates.entry(stream).or_default();
                match kind {
                    // Trailers have no status.
                    HEADERS if fate.status.is_none() => fate.status = status(payload),
                    DATA => fate.body.extend(payload),
                    RESET => fate.reset = Some(code(0)),
                    _ => {}
                }
                if kind != RESET && flags & END_STREAM != 0 {
                    fate.complete = true;
                }
            }
            _ => {}
        }
    }
}

/// The status of an answer, which comes first, on a connection that had no answer before.
fn status(block: &[u8]) -> Option<u16> {
    // After a change of the size of the table.
    let block = match block {
        [0x20..0x40, rest @ ..] => rest,
        block => block,
    };
    match block {
        [indexed @ 0x88..=0x8e, ..] => {
            Some([200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)])
        }
        // Its name by index 8, with a value of three digits.
        [0x48 | 0x08 | 0x18, 3, digits @ ..] => {
            std::str::from_utf8(digits.get(..3)?).ok()?.parse().ok()
        }
        [0x48 | 0x08 | 0x18, len @ 0x80..=0xff, coded @ ..] => {
            huffman_digits(coded.get(..usize::from(len & 0x7f))?)
        }
        _ => None,
    }
}

/// A number in the Huffman code of HPACK, where 0 to 2 have five bits and 3 to 9 six.
fn huffman_digits(coded: &[u8]) -> Option<u16> {
    let mut bits = coded.iter().flat_map(|byte| {
        let byte = *byte;
        (0..8).rev().map(move |bit| byte >> bit & 1)
    });
    let mut number = 0;
    for _ in 0..3 {
        let mut code = 0u16;
        for _ in 0..5 {
            code = code << 1 | u16::from(bits.next()?);
        }
        let digit = match code {
            0..=2 => code,
            // 0b011001 to 0b011111.
            _ => (code << 1 | u16::from(bits.next()?)) - 0b01_1001 + 3,
        };
        number = number * 10 + digit;
    }
    Some(number)
}
