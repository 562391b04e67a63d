//! The encoding of a message between processes: bytes <-> packet, no I/O.
//!
//! A packet comes from a task, which is not trusted. Invariant: a decoded packet keeps
//! every cap, and states how many descriptors it came with.

use super::Message;
use crate::region::{Kind, Parts};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Kind, ports, regions, whether there are notes, the length of the data; how many messages
/// were received.
pub(super) const HEADER: usize = 16;
/// The capacity of a port, which end it is and what it has in flight, and its three counts.
const PORT: usize = 28;
/// The kind of a region, its offset in its file, its length.
const REGION: usize = 17;
/// Maximum of everything but the data.
pub(super) const MAX_HEAD: usize =
    HEADER + Message::MAX_PORTS * PORT + Message::MAX_REGIONS * REGION;

pub(super) const INLINE: u8 = 0;
pub(super) const IN_ARENA: u8 = 1;

/// The state of an end beside its descriptors. Counts begin with the channel and wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortParts {
    pub capacity: u8,
    /// Which of the two it is: 0 or 1.
    pub side: u8,
    /// Descriptors in messages that were sent through it and whose receipt the other side
    /// has not reported.
    pub in_flight: u16,
    /// Messages that were sent through it.
    pub sent: u64,
    /// How many of those the other side has reported as received.
    pub taken: u64,
    /// Messages that were received from it.
    pub received: u64,
}

/// The credit in a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Credit {
    /// Messages that its sender has received.
    pub(super) received: u64,
    /// There are notes in the credit socket that were written since the last message.
    pub(super) notes: bool,
}

impl Credit {
    /// From the start of a packet; `None` if it is not valid.
    pub(super) fn read(start: &[u8; HEADER]) -> Option<Self> {
        let (&[.., notes, _, _, _, _], received) = start.split_first_chunk::<8>()?;
        (notes <= 1).then_some(Credit {
            received: u64::from_le_bytes(received.try_into().ok()?),
            notes: notes == 1,
        })
    }
}

/// A packet without its data and its descriptors.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) credit: Credit,
    /// The data is in the file of the channel.
    pub(super) in_arena: bool,
    /// Length of the data in bytes.
    pub(super) len: usize,
    pub(super) ports: Vec<PortParts>,
    pub(super) regions: Vec<Parts>,
}

impl Head {
    /// `None` if there is more of something than a message may have.
    pub(super) fn to_bytes(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(MAX_HEAD);
        bytes.extend([
            if self.in_arena { IN_ARENA } else { INLINE },
            u8::try_from(self.ports.len()).ok()?,
            u8::try_from(self.regions.len()).ok()?,
            u8::from(self.credit.notes),
        ]);
        bytes.extend(u32::try_from(self.len).ok()?.to_le_bytes());
        bytes.extend(self.credit.received.to_le_bytes());
        for port in &self.ports {
            bytes.extend([port.capacity, port.side]);
            bytes.extend(port.in_flight.to_le_bytes());
            for count in [port.sent, port.taken, port.received] {
                bytes.extend(count.to_le_bytes());
            }
        }
        for region in &self.regions {
            bytes.push(kind_byte(region.kind));
            bytes.extend(region.offset.to_le_bytes());
            bytes.extend(region.len.to_le_bytes());
        }
        Some(bytes)
    }

    /// The head of a received packet, and the data if it is in the packet; `None` if it is
    /// not valid.
    pub(super) fn read(start: [u8; HEADER], rest: &Bytes) -> Option<(Self, Bytes)> {
        let credit = Credit::read(&start)?;
        let [kind, ports, regions, _, a, b, c, d, ..] = start;
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
        let (ports, regions) = (usize::from(ports), usize::from(regions));
        if len > Message::MAX_DATA
            || ports > Message::MAX_PORTS
            || regions > Message::MAX_REGIONS
            || kind > IN_ARENA
        {
            return None;
        }
        let in_arena = kind == IN_ARENA;
        let (parts, after) = rest.split_at_checked(ports * PORT)?;
        let (places, inline) = after.split_at_checked(regions * REGION)?;
        if inline.len() != if in_arena { 0 } else { len } {
            return None;
        }
        let ports = parts.as_chunks::<PORT>().0.iter().map(port_parts);
        let places = places.as_chunks::<REGION>().0.iter().map(region_parts);
        let head = Head {
            credit,
            in_arena,
            len,
            ports: ports.collect::<Option<_>>()?,
            regions: places.collect::<Option<_>>()?,
        };
        Some((head, rest.slice(rest.len() - inline.len()..)))
    }
}

fn port_parts(bytes: &[u8; PORT]) -> Option<PortParts> {
    let (&[capacity, side, low, high], counts) = bytes.split_first_chunk()?;
    let mut counts = counts.as_chunks().0.iter().copied().map(u64::from_le_bytes);
    Some(PortParts {
        capacity,
        side,
        in_flight: u16::from_le_bytes([low, high]),
        sent: counts.next()?,
        taken: counts.next()?,
        received: counts.next()?,
    })
}

pub(super) fn kind_byte(kind: Kind) -> u8 {
    match kind {
        Kind::Exclusive => 0,
        Kind::Frozen => 1,
        Kind::Shared => 2,
    }
}

fn region_parts(place: &[u8; REGION]) -> Option<Parts> {
    let (&kind, place) = place.split_first()?;
    let (offset, len) = place.split_first_chunk()?;
    Some(Parts {
        kind: match kind {
            0 => Kind::Exclusive,
            1 => Kind::Frozen,
            2 => Kind::Shared,
            _ => return None,
        },
        offset: u64::from_le_bytes(*offset),
        len: u64::from_le_bytes(len.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let port = |capacity| PortParts {
            capacity,
            side: 1,
            in_flight: 0x1234,
            sent: u64::MAX,
            taken: 3,
            received: 1 << 40,
        };
        let region = |kind| Parts {
            kind,
            offset: 4096,
            len: u64::MAX,
        };
        for (in_arena, notes) in [(false, true), (true, false)] {
            let head = Head {
                credit: Credit {
                    received: 1 << 33,
                    notes,
                },
                in_arena,
                len: 3,
                ports: [1, 64].map(port).to_vec(),
                regions: [Kind::Exclusive, Kind::Frozen, Kind::Shared]
                    .map(region)
                    .to_vec(),
            };
            let bytes = head.to_bytes().expect("few enough");
            let (start, rest) = bytes.split_first_chunk().expect("a header");
            let data: &[u8] = if in_arena { b"" } else { b"abc" };
            let rest = Bytes::from([rest, data].concat());
            let (read, inline) = Head::read(*start, &rest).expect("it makes sense");
            assert_eq!((read, &inline[..]), (head, data));
            for cut in 0..rest.len() {
                assert_eq!(Head::read(*start, &rest.slice(..cut)), None, "{cut}");
            }
        }
    }
}
