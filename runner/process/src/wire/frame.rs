//! Frames: a length of 4 bytes, little-endian, then this many bytes of one
//! postcard-encoded message.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Maximum size of a frame's body. The largest message is a task's order: arguments,
/// environment and inline input.
pub(super) const MAX_FRAME: usize = 4 << 20;

const HEADER: usize = 4;

/// Bytes that are not a frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes exceeds the limit of {MAX_FRAME}")]
    TooLong(usize),
    #[error("a frame cannot be decoded")]
    Malformed,
    #[error("a frame has {0} trailing bytes")]
    Trailing(usize),
    #[error("the peer speaks protocol version {theirs}, expected {ours}")]
    Version { theirs: u32, ours: u32 },
    #[error("the peer is not a wrun worker")]
    NotAPeer,
}

/// One message as a frame.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let frame = postcard::to_extend(message, vec![0; HEADER]).map_err(|_| FrameError::Malformed)?;
    finish(frame)
}

fn finish(mut frame: Vec<u8>) -> Result<Vec<u8>, FrameError> {
    let len = frame.len() - HEADER;
    if len > MAX_FRAME {
        return Err(FrameError::TooLong(len));
    }
    let header = u32::try_from(len).map_err(|_| FrameError::TooLong(len))?;
    frame[..HEADER].copy_from_slice(&header.to_le_bytes());
    Ok(frame)
}

/// Collects bytes and yields messages.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were yielded already.
    used: usize,
}

impl Decoder {
    /// Adds bytes from the peer.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.used > 0 {
            self.buffer.drain(..self.used);
            self.used = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; `None` until more bytes come.
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let waiting = &self.buffer[self.used..];
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*header) as usize;
        if len > MAX_FRAME {
            return Err(FrameError::TooLong(len));
        }
        let Some(body) = rest.get(..len) else {
            return Ok(None);
        };
        let (message, trailing) =
            postcard::take_from_bytes(body).map_err(|_| FrameError::Malformed)?;
        if !trailing.is_empty() {
            return Err(FrameError::Trailing(trailing.len()));
        }
        self.used += HEADER + len;
        Ok(Some(message))
    }

    /// The next `LEN` bytes as they are; `None` until they have come.
    pub fn take_raw<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        let raw = self.buffer[self.used..].first_chunk::<LEN>().copied()?;
        self.used += LEN;
        Some(raw)
    }

    /// Bytes of the next message that are still to come; 0 if that is not known yet.
    pub fn missing(&self) -> usize {
        let waiting = &self.buffer[self.used..];
        match waiting.split_first_chunk::<HEADER>() {
            Some((header, rest)) => {
                let len = u32::from_le_bytes(*header) as usize;
                len.min(MAX_FRAME).saturating_sub(rest.len())
            }
            None => 0,
        }
    }

    /// Whether the next message has come as a whole, or cannot be one.
    pub fn has_message(&self) -> bool {
        let waiting = &self.buffer[self.used..];
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER>() else {
            return false;
        };
        let len = u32::from_le_bytes(*header) as usize;
        len > MAX_FRAME || rest.len() >= len
    }

    /// Whether no part of a message is waiting for the rest.
    pub fn is_empty(&self) -> bool {
        self.used == self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_split_anywhere_arrive_whole() {
        let mut bytes = encode(&"first".to_owned()).expect("fits");
        bytes.extend(encode(&"second".to_owned()).expect("fits"));
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                decoder.push(part);
                while let Some(message) = decoder.next::<String>().expect("valid") {
                    got.push(message);
                }
            }
            assert_eq!(got, ["first", "second"]);
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn a_length_over_the_cap_is_refused_before_its_bytes_come() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert_eq!(
            decoder.next::<String>(),
            Err(FrameError::TooLong(u32::MAX as usize))
        );
    }

    #[test]
    fn rubbish_and_trailing_bytes_are_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&[2, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(decoder.next::<String>(), Err(FrameError::Malformed));
        let mut decoder = Decoder::default();
        decoder.push(&[3, 0, 0, 0, 1, b'a', 0]);
        assert_eq!(decoder.next::<String>(), Err(FrameError::Trailing(1)));
        let lying = [6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, b'a'];
        let mut decoder = Decoder::default();
        decoder.push(&lying);
        assert_eq!(decoder.next::<String>(), Err(FrameError::Malformed));
    }
}
