//! The first message of a worker, in a fixed layout that every version of the protocol
//! shares, so that a mismatch can be reported.

use super::frame::FrameError;

/// Changes whenever a message changes.
pub(super) const PROTOCOL: u32 = 11;

const MAGIC: [u8; 8] = *b"wrunwork";

/// A worker's greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello;

impl Hello {
    /// Bytes of a greeting.
    pub const LEN: usize = 12;

    /// The greeting of this version.
    pub fn encode() -> [u8; Hello::LEN] {
        let mut bytes = [0; Hello::LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..].copy_from_slice(&PROTOCOL.to_le_bytes());
        bytes
    }

    /// Checks a peer's greeting.
    pub fn decode(bytes: &[u8; Hello::LEN]) -> Result<Self, FrameError> {
        let (magic, version) = bytes.split_at(8);
        if magic != MAGIC {
            return Err(FrameError::NotAPeer);
        }
        let mut theirs = [0; 4];
        theirs.copy_from_slice(version);
        let theirs = u32::from_le_bytes(theirs);
        if theirs != PROTOCOL {
            return Err(FrameError::Version {
                theirs,
                ours: PROTOCOL,
            });
        }
        Ok(Hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings() {
        let ours = Hello::encode();
        assert_eq!(Hello::decode(&ours), Ok(Hello));
        let mut other = ours;
        other[8] += 1;
        assert!(matches!(
            Hello::decode(&other),
            Err(FrameError::Version { .. })
        ));
        assert_eq!(Hello::decode(b"#!/bin/sh\n\n\n"), Err(FrameError::NotAPeer));
    }
}
