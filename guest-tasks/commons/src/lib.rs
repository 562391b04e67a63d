//! What tasks of one runner share by name: locks and broadcast channels. The input is
//! what to do.

wit_bindgen::generate!({ path: "../../wit", world: "wrun:task/task", generate_all });

use std::fmt::Write as _;
use wasi::clocks::monotonic_clock::subscribe_duration;
use wrun::task::broadcast::{self, BroadcastError};
use wrun::task::context;
use wrun::task::locks::{self, Lock, LockError, Mode};
use wrun::task::ports::{Message, Port, PortError};

struct Task;

impl Guest for Task {
    fn run(input: Vec<u8>) -> Result<Vec<u8>, String> {
        let input = String::from_utf8(input).map_err(|_| "the input is no text")?;
        let mut words = input.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let name = words.next().unwrap_or("a");
        let number = words.next().and_then(|word| word.parse::<u32>().ok()).unwrap_or(1);
        let done = match verb {
            "alone" => alone(),
            "hold" => hold(name),
            "trap" => {
                std::mem::forget(lock(name)?);
                unreachable!("as it was told")
            }
            "take" => lock(name).map(|_| "taken".into()),
            "shared" => shared(name),
            "tires" => tires(name),
            "turns" => turns(name, number),
            "listen" => listen(name, number),
            "tell" => tell(name, number),
            "lazy" => lazy(name),
            "flood" => flood(name),
            "ask" => ask(name, number),
            "answer" => answer(name),
            _ => Err("alone, hold, trap, take, shared, tires, turns, listen, tell, lazy, flood, ask or answer".into()),
        };
        done.map(String::into_bytes)
    }
}

fn said(error: LockError) -> String {
    error.name().into()
}

fn lock(name: &str) -> Result<Lock, String> {
    let lock = locks::request(name, Mode::Exclusive, false).map_err(said)?;
    lock.ok_or_else(|| "it was to be waited for".into())
}

fn text(data: impl Into<Vec<u8>>) -> Message {
    Message { data: data.into(), regions: vec![], ports: vec![] }
}

fn open(name: &str) -> Result<Port, String> {
    broadcast::open(name).map_err(|error| refused(error).into())
}

fn refused(error: BroadcastError) -> &'static str {
    match error {
        BroadcastError::BadName => "bad-name",
        BroadcastError::Limit => "limit",
    }
}

/// Has a lock until it is asked to stop.
fn hold(name: &str) -> Result<String, String> {
    let _lock = lock(name)?;
    context::progress(1, None);
    context::subscribe_cancelled().block();
    Ok("held".into())
}

/// Has a lock, with others, until it is asked to stop.
fn shared(name: &str) -> Result<String, String> {
    let _lock = locks::request(name, Mode::Shared, false).map_err(said)?;
    context::progress(1, None);
    context::subscribe_cancelled().block();
    Ok("shared".into())
}

/// Waits for a lock until it is asked to stop, and goes on without.
fn tires(name: &str) -> Result<String, String> {
    context::progress(1, None);
    match lock(name) {
        Err(why) if why == "cancelled" => context::progress(2, None),
        other => return Err(format!("{:?}", other.map(drop))),
    }
    loop {
        subscribe_duration(1_000_000_000).block();
    }
}

/// Takes a lock again and again. Who has it, finds the lock within free.
fn turns(name: &str, count: u32) -> Result<String, String> {
    let within = format!("{name}, within");
    for turn in 0..count {
        let _lock = lock(name)?;
        let alone = locks::request(&within, Mode::Exclusive, true).map_err(said)?;
        if alone.is_none() {
            return Err(format!("turn {turn}: somebody else has the lock"));
        }
        if turn % 8 == 0 {
            subscribe_duration(100_000).block();
        }
    }
    Ok(format!("{count} turns"))
}

/// Returns the next so many messages.
fn listen(name: &str, count: u32) -> Result<String, String> {
    let port = open(name)?;
    context::progress(1, None);
    let mut log = String::new();
    for _ in 0..count {
        let got = port.receive().map_err(|error| error.name().to_string())?;
        let _ = write!(log, "{} ", String::from_utf8_lossy(&got.data));
        let _ = write!(log, "{}", "p".repeat(got.ports.len()));
    }
    Ok(log)
}

/// Says numbers, slowly.
fn tell(name: &str, count: u32) -> Result<String, String> {
    let port = open(name)?;
    for number in 0..count {
        port.send(text(number.to_string())).map_err(|no| no.error.name().to_string())?;
        subscribe_duration(1_000_000).block();
    }
    Ok("told".into())
}

/// Says so many numbers, each once the answer to the one before is there; then that there
/// are no more.
fn ask(name: &str, count: u32) -> Result<String, String> {
    let port = open(name)?;
    for number in 0..count {
        port.send(text(number.to_string())).map_err(|no| no.error.name().to_string())?;
        let got = port.receive().map_err(|error| error.name().to_string())?;
        if got.data != number.to_string().into_bytes() {
            return Err(format!("{number} came back as {:?}", got.data));
        }
    }
    port.send(text("")).map_err(|no| no.error.name().to_string())?;
    Ok(format!("{count} answered"))
}

/// Says again what others say, until that is nothing.
fn answer(name: &str) -> Result<String, String> {
    let port = open(name)?;
    context::progress(1, None);
    let mut count = 0;
    loop {
        let got = port.receive().map_err(|error| error.name().to_string())?;
        if got.data.is_empty() {
            return Ok(format!("{count} answers"));
        }
        port.send(text(got.data)).map_err(|no| no.error.name().to_string())?;
        count += 1;
    }
}

/// Is a member and does not read until nobody says more.
fn lazy(name: &str) -> Result<String, String> {
    let port = open(name)?;
    context::progress(1, None);
    context::subscribe_cancelled().block();
    let mut count = 0;
    loop {
        match port.try_receive() {
            Ok(_) => count += 1,
            Err(PortError::Closed) => return Ok(format!("{count} and closed")),
            Err(error) => return Ok(format!("{count} and {}", error.name())),
        }
    }
}

/// Says what nobody can read as fast, until it is asked to stop.
fn flood(name: &str) -> Result<String, String> {
    let port = open(name)?;
    let mut count = 0;
    while !context::cancelled() {
        match port.send(text(vec![7; 1000])) {
            Ok(()) => count += 1,
            Err(no) if no.error == PortError::Cancelled => break,
            Err(no) => return Err(no.error.name().into()),
        }
        context::progress(count, None);
    }
    Ok("flooded".into())
}

/// Everything that needs nobody else.
fn alone() -> Result<String, String> {
    let mut log = String::new();
    let mut note = |what: &str, got: String| {
        let _ = writeln!(log, "{what}: {got}");
    };
    let ask = |name: &str, mode, now| match locks::request(name, mode, now) {
        Ok(Some(lock)) => (Some(lock), "held".to_string()),
        Ok(None) => (None, "not available".to_string()),
        Err(error) => (None, said(error)),
    };
    note("no name", ask("", Mode::Shared, false).1);
    note("the longest name", ask(&"x".repeat(256), Mode::Shared, false).1);
    note("one more", ask(&"x".repeat(257), Mode::Shared, false).1);
    let (first, got) = ask("a", Mode::Exclusive, false);
    note("exclusive", got);
    note("again", ask("a", Mode::Exclusive, true).1);
    note("shared", ask("a", Mode::Shared, true).1);
    note("another", ask("b", Mode::Exclusive, true).1);
    drop(first);
    let (one, got) = ask("a", Mode::Shared, false);
    note("shared", got);
    let (two, got) = ask("a", Mode::Shared, false);
    note("shared too", got);
    note("exclusive", ask("a", Mode::Exclusive, true).1);
    drop((one, two));
    note("exclusive", ask("a", Mode::Exclusive, true).1);
    let mut held = Vec::new();
    let refused_lock = loop {
        match locks::request(&format!("many {}", held.len()), Mode::Shared, false) {
            Ok(lock) => held.push(lock),
            Err(error) => break said(error),
        }
    };
    note("locks", format!("{} and then {refused_lock}", held.len()));
    drop(held);
    note("and again", ask("a", Mode::Exclusive, false).1);

    for name in [String::new(), "x".repeat(257)] {
        note("a channel", open(&name).err().unwrap_or_default());
    }
    let (a, b, c) = (open("news")?, open("news")?, open("other")?);
    a.send(text("hello")).map_err(|no| no.error.name().to_string())?;
    let got = b.receive().map_err(|error| error.name().to_string())?;
    note("the other member", String::from_utf8_lossy(&got.data).into_owned());
    let nothing = |port: &Port| port.try_receive().err().map_or("something", |error| error.name()).to_string();
    note("the sender", nothing(&a));
    note("another name", nothing(&c));
    let carried = Message { data: b"with a port".to_vec(), regions: vec![], ports: vec![c] };
    b.send(carried).map_err(|no| no.error.name().to_string())?;
    let got = a.receive().map_err(|error| error.name().to_string())?;
    note("no ports", format!("{} {}", String::from_utf8_lossy(&got.data), got.ports.len()));
    let mut open_ones = Vec::new();
    let full = loop {
        match open("news") {
            Ok(port) => open_ones.push(port),
            Err(error) => break error,
        }
    };
    // The one that was given away may still count.
    note("members", format!("{} and then {full}", open_ones.len() >= 29));
    Ok(log)
}

export!(Task);
