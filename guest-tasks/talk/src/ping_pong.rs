//! Two tasks: one asks, one answers.

use crate::{WORKER, give, parent, take, within};
use wrun_guest::{PortError, start};

pub(crate) fn ping([rounds, size]: [u64; 2]) -> Result<Vec<u8>, String> {
    within("SIZE", size, 0..=256 << 10)?;
    let worker = start(WORKER, b"pong", 1)?;
    let mut ball = vec![0; size as usize];
    for round in 0..rounds {
        for (at, byte) in ball.iter_mut().take(8).enumerate() {
            *byte = round.to_le_bytes()[at];
        }
        give(&worker, &ball[..])?;
        if take(&worker)?.data != ball {
            return Err(format!("round {round} came back as something else"));
        }
    }
    let (child, port) = worker;
    drop(port);
    let mut said = format!("{rounds} round trips of {size} bytes; ").into_bytes();
    said.extend(child.output()?);
    Ok(said)
}

pub(crate) fn pong() -> Result<Vec<u8>, String> {
    let port = parent()?;
    let mut count = 0;
    loop {
        match port.receive() {
            Ok(ball) => port.send(ball)?,
            Err(PortError::Closed) => return Ok(format!("{count} answered\n").into_bytes()),
            Err(error) => return Err(error.to_string()),
        }
        count += 1;
    }
}
