//! Three tasks in a row, each with its own step of the work. Blocks of bytes go from one
//! to the next as regions, and back to the first when they are done with: three of them
//! are enough for any amount.

use crate::{DIGEST, WORKER, digest, next, outputs, parent, within};
use wrun_guest::{Exclusive, Message, Port, PortError, channel, spawn};

/// Blocks that are on their way.
const ROUND: u32 = 3;

pub(crate) fn pipeline([blocks, size]: [u64; 2]) -> Result<Vec<u8>, String> {
    within("SIZE", size, 8..=16 << 20)?;
    let size = size.next_multiple_of(8);
    let (empty_in, empty_out) = channel(ROUND)?;
    for _ in 0..ROUND {
        empty_in.send(Message::default().region(Exclusive::new(size)?))?;
    }
    let (made_in, made_out) = channel(ROUND)?;
    let (turned_in, turned_out) = channel(ROUND)?;
    let mut children = Vec::new();
    for (step, from, to) in [
        (format!("make {blocks}"), empty_out, made_in),
        ("turn".into(), made_out, turned_in),
        ("sum".into(), turned_out, empty_in),
    ] {
        let (port, theirs) = channel(1)?;
        let child = spawn(WORKER, step.as_bytes(), Some(theirs))?;
        port.send(Message::default().port(from).port(to))?;
        children.push((child, port));
    }
    Ok(outputs(&children)?.concat())
}

/// Where blocks come from and where they go.
fn ends() -> Result<(Port, Port), String> {
    let mut ports = parent()?.receive()?.ports.into_iter();
    ports
        .next()
        .zip(ports.next())
        .ok_or_else(|| "two ports were to come".into())
}

/// The first step: fills blocks.
pub(crate) fn make([blocks]: [u64; 1]) -> Result<Vec<u8>, String> {
    let (from, to) = ends()?;
    let mut state = 1;
    for number in 0..blocks {
        let mut block = from.receive()?.exclusive()?;
        block
            .map()?
            .view_mut::<u64>()
            .fill_with(|| next(&mut state));
        to.send(Message::new(number.to_le_bytes()).region(block))?;
    }
    Ok(format!("{blocks} blocks made\n").into_bytes())
}

/// The second: turns each byte around, in place.
pub(crate) fn turn() -> Result<Vec<u8>, String> {
    let (from, to) = ends()?;
    let mut blocks = 0;
    loop {
        let mut message = match from.receive() {
            Err(PortError::Closed) => return Ok(format!("{blocks} blocks turned\n").into_bytes()),
            message => message?,
        };
        let number = std::mem::take(&mut message.data);
        let mut block = message.exclusive()?;
        for byte in block.map()?.iter_mut() {
            *byte = byte.reverse_bits();
        }
        to.send(Message::new(number).region(block))?;
        blocks += 1;
    }
}

/// The third: a digest of all that comes, in order.
pub(crate) fn sum() -> Result<Vec<u8>, String> {
    let (from, to) = ends()?;
    let mut state = DIGEST;
    let mut blocks = 0_u64;
    loop {
        let mut message = match from.receive() {
            Err(PortError::Closed) => {
                return Ok(format!("{blocks} blocks summed: {state:016x}\n").into_bytes());
            }
            message => message?,
        };
        if std::mem::take(&mut message.data) != blocks.to_le_bytes() {
            return Err(format!("block {blocks} is missing"));
        }
        let mut block = message.exclusive()?;
        state = digest(state, block.map()?.view::<u64>().iter().copied());
        blocks += 1;
        // The first may have made all that it was to make, and be gone.
        match to.send(Message::default().region(block)) {
            Ok(()) => {}
            Err(unsent) if unsent.error == PortError::Closed => {}
            Err(unsent) => return Err(unsent.into()),
        }
    }
}
