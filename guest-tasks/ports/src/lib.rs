//! Channels: to whoever started the task, to another task, within one task. The
//! input is what to do.

mod regions;

wit_bindgen::generate!({ path: "../../wit", world: "wrun:task/task", generate_all });

use std::fmt::Write as _;
use wrun::task::context;
use wrun::task::ports::{self, Message, Port, PortError};

struct Task;

impl Guest for Task {
    fn run(input: Vec<u8>) -> Result<Vec<u8>, String> {
        let input = String::from_utf8(input).map_err(|_| "the input is no text")?;
        let mut words = input.split_whitespace();
        let number = |word: Option<&str>| {
            word.and_then(|word| word.parse::<u64>().ok())
                .ok_or_else(|| "a number is missing".to_string())
        };
        let done = match words.next() {
            Some("alone") => alone(),
            Some("echo") => echo(),
            Some("ping") => {
                let count = number(words.next())?;
                ping(count, words.next().map_or(Ok(8), |size| number(Some(size)))?)
            }
            Some("flood") => flood(number(words.next())?, number(words.next())?),
            Some("swap") => swap(),
            Some("wait") => wait(),
            Some("hold") => hold(),
            Some("drain") => drain(),
            Some("linger") => linger(words.next().unwrap_or_default()),
            Some("regions") => regions::alone(),
            Some("make") => regions::make(number(words.next())?),
            Some("sum") => regions::sum(),
            Some("add") => regions::add(number(words.next())?),
            Some("keep") => regions::keep(),
            Some("toss") => regions::toss(number(words.next())?, number(words.next())?),
            Some("catch") => regions::catch(),
            Some("pour") => regions::pour(number(words.next())?, number(words.next())?),
            Some("drink") => regions::drink(),
            _ => return Err("see src/lib.rs for what there is to do".into()),
        };
        done.map(String::into_bytes)
    }
}

fn text(data: impl Into<Vec<u8>>) -> Message {
    message(data, vec![])
}

fn message(data: impl Into<Vec<u8>>, ports: Vec<Port>) -> Message {
    Message { data: data.into(), regions: vec![], ports }
}

fn parent() -> Result<Port, String> {
    ports::parent().ok_or_else(|| "nobody to talk to".into())
}

fn said(error: PortError) -> String {
    error.name().into()
}

/// Sends back what it gets, ports too, until the channel is closed. When the first
/// message brings a port and no data, it goes on with that one.
fn echo() -> Result<String, String> {
    let mut port = parent()?;
    let mut count = 0;
    loop {
        match port.receive() {
            Ok(mut got) if count == 0 && got.data.is_empty() && got.ports.len() == 1 => {
                port = got.ports.remove(0);
            }
            Ok(got) => {
                count += 1;
                if port.send(got).is_err() {
                    return Ok(format!("{count} came, the last was not wanted back"));
                }
            }
            Err(PortError::Closed) => return Ok(format!("{count} echoed")),
            Err(error) => return Err(said(error)),
        }
    }
}

/// Gets a port, and asks whoever is at its other end, in messages of 8 bytes or more.
fn ping(count: u64, size: u64) -> Result<String, String> {
    let mut got = parent()?.receive().map_err(said)?;
    let port = got.ports.pop().ok_or("no port came")?;
    let mut data = vec![7; size.max(8) as usize];
    for round in 0..count {
        data[..8].copy_from_slice(&round.to_le_bytes());
        port.send(text(data)).map_err(|unsent| said(unsent.error))?;
        data = port.receive().map_err(said)?.data;
        if data.len() as u64 != size.max(8) || data[..8] != round.to_le_bytes() {
            return Err(format!("round {round} came back as {} bytes", data.len()));
        }
    }
    Ok(format!("{count} round trips"))
}

/// Sends as fast as it can, then closes.
fn flood(count: u64, size: u64) -> Result<String, String> {
    let port = parent()?;
    for number in 0..count {
        let mut data = vec![number as u8; size as usize];
        let stamp = number.to_le_bytes();
        let len = data.len().min(stamp.len());
        data[..len].copy_from_slice(&stamp[..len]);
        port.send(text(data)).map_err(|unsent| said(unsent.error))?;
    }
    Ok(format!("{count} sent"))
}

/// Takes what comes, until nothing more does.
fn drain() -> Result<String, String> {
    let port = second()?;
    let mut bytes = 0;
    loop {
        match port.receive() {
            Ok(got) => bytes += got.data.len() as u64,
            Err(PortError::Closed) => return Ok(format!("{bytes} bytes")),
            Err(error) => return Err(said(error)),
        }
    }
}

/// The port that the first message brings.
fn second() -> Result<Port, String> {
    parent()?.receive().map_err(said)?.ports.pop().ok_or_else(|| "no port came".into())
}

/// Puts the ends of two channels into each other's queues, where nobody reaches
/// them.
fn swap() -> Result<String, String> {
    let (a, far_a) = ports::channel(4).map_err(said)?;
    let (b, far_b) = ports::channel(4).map_err(said)?;
    // What is in the queue of far_a reaches far_b, and the other way around.
    a.send(message("b", vec![far_b])).map_err(|unsent| said(unsent.error))?;
    b.send(message("a", vec![far_a])).map_err(|unsent| said(unsent.error))?;
    Ok("lost".into())
}

/// Waits for a message that does not come, until it is asked to stop.
fn wait() -> Result<String, String> {
    let port = parent()?;
    context::progress(1, None);
    match port.receive() {
        Err(PortError::Cancelled) => Ok("cancelled".into()),
        other => Err(format!("{:?}", other.map(|got| got.data))),
    }
}

/// Has a port, and lets time pass.
fn hold() -> Result<String, String> {
    let _port = parent()?;
    let (_one, other) = ports::channel(1).map_err(said)?;
    context::progress(1, None);
    let got = other.receive();
    Err(format!("{:?}", got.map(|got| got.data)))
}

/// Answers one message, takes another, and then has something else to do for ever.
fn linger(at: &str) -> Result<String, String> {
    let port = parent()?;
    port.send(port.receive().map_err(said)?).map_err(|unsent| said(unsent.error))?;
    port.receive().map_err(said)?;
    match at {
        "computing" => loop {
            std::hint::black_box(0);
        },
        "receiving" => {
            let (_one, other) = ports::channel(1).map_err(said)?;
            other.receive().map(|_| String::new()).map_err(said)
        }
        "polling" => {
            let (_one, other) = ports::channel(1).map_err(said)?;
            other.subscribe().block();
            Err("something came".into())
        }
        "word" => regions::wait(),
        _ => Err("see src/lib.rs for where to linger".into()),
    }
}

/// Everything that needs nobody else.
fn alone() -> Result<String, String> {
    let mut log = String::new();
    let mut note = |what: &str, got: String| {
        let _ = writeln!(log, "{what}: {got}");
    };
    let sent = |done: Result<(), ports::Unsent>| match done {
        Ok(()) => "sent".to_string(),
        Err(unsent) => format!("{}, {} ports back", unsent.error.name(), unsent.ports.len()),
    };
    let got = |done: Result<Message, PortError>| match done {
        Ok(got) if got.data.len() > 40 => format!("{} bytes", got.data.len()),
        Ok(got) => format!("{:?} and {} ports", String::from_utf8_lossy(&got.data), got.ports.len()),
        Err(error) => error.name().into(),
    };
    for capacity in [0, 65, u32::MAX] {
        let made = ports::channel(capacity).map_err(said);
        note("a channel of that capacity", format!("{capacity} {:?}", made.err()));
    }

    let (a, b) = ports::channel(2).map_err(said)?;
    note("empty", got(b.try_receive()));
    note("first", sent(a.try_send(text("one"))));
    note("second", sent(a.send(text("two"))));
    note("third", sent(a.try_send(text("three"))));
    note("the other way", sent(b.try_send(text("back"))));
    let pollable = b.subscribe();
    note("ready", pollable.ready().to_string());
    note("received", got(b.receive()));
    note("there is room again", sent(a.try_send(text("three"))));
    note("and no more", sent(a.try_send(text("four"))));
    note("received", got(b.receive()));
    note("received", got(b.try_receive()));
    note("received", got(b.try_receive()));
    note("ready", pollable.ready().to_string());

    note("all that fits", sent(a.try_send(text(vec![7; 256 << 10]))));
    note("received", got(b.receive()));
    note("more than fits", sent(a.try_send(text(vec![7; (256 << 10) + 1]))));
    for size in [0, 1, 2047, 2048, 2049, 65535, 65536, 65537, 200_000] {
        let data: Vec<u8> = (0..size).map(|at: u32| (at * 7 + size) as u8).collect();
        a.send(text(data.clone())).map_err(|unsent| said(unsent.error))?;
        let back = b.receive().map_err(said)?.data;
        note("the same", format!("{size} {}", data == back));
    }

    let (c, d) = ports::channel(1).map_err(said)?;
    note("a port", sent(c.try_send(text("waits"))));
    note("a port moves", sent(a.try_send(message("d", vec![d]))));
    let mut came = b.receive().map_err(said)?;
    let d = came.ports.pop().ok_or("no port came")?;
    note("with what waits in it", got(d.receive()));
    drop(pollable);
    let watched = b.subscribe();
    let Err(mut unsent) = c.try_send(message("b", vec![b])) else {
        return Err("a port that is watched has moved".into());
    };
    drop(watched);
    note("one that is watched", said(unsent.error));
    let b = unsent.ports.pop().ok_or("it did not come back")?;
    note("it still works", sent(a.try_send(text("still"))));
    note("received", got(b.receive()));
    drop(b);
    note("its other end", sent(a.try_send(text("nobody"))));
    note("its other end", got(a.receive()));

    let (e, f) = ports::channel(4).map_err(said)?;
    note("before the end", sent(e.try_send(text("last words"))));
    f.close();
    note("after it", sent(e.try_send(text("too late"))));
    note("after it", sent(f.try_send(text("too late"))));
    note("still there", got(f.receive()));
    note("then nothing", got(f.receive()));
    note("nor there", got(e.receive()));
    let (g, h) = ports::channel(4).map_err(said)?;
    note("of one that is dropped", sent(g.try_send(text("heirloom"))));
    drop(g);
    note("is received", got(h.receive()));
    note("then nothing", got(h.receive()));

    let (i, j) = ports::channel(1).map_err(said)?;
    let mut held = Vec::new();
    let refused = loop {
        match ports::channel(1) {
            Ok(ends) => held.push(ends),
            Err(error) => break error,
        }
    };
    note("channels more", format!("{} and then {}", held.len(), refused.name()));
    let many: Vec<Port> = held.drain(..5).flat_map(|(one, other)| [one, other]).collect();
    let unsent = i.try_send(message("", many));
    note("too many ports", sent(unsent));
    drop((i, j, held, c, d));
    note("the parent", format!("{}", ports::parent().is_some()));
    note("asked again", format!("{}", ports::parent().is_some()));
    Ok(log)
}

export!(Task);
