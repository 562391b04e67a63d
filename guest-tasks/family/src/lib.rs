//! Child tasks, and what becomes of them. The input is what to do; a task that is
//! granted itself, as `self`, is its own children.

wit_bindgen::generate!({ path: "../../wit", world: "wrun:task/task", generate_all });

use std::fmt::Write as _;
use wasi::clocks::monotonic_clock::subscribe_duration;
use wasi::io::poll::poll;
use wrun::task::context;
use wrun::task::ports::{self, Message, Port, PortError};
use wrun::task::tasks::{self, Child, Outcome, SpawnError};

struct Task;

impl Guest for Task {
    fn run(input: Vec<u8>) -> Result<Vec<u8>, String> {
        let words = String::from_utf8_lossy(&input[..input.len().min(200)]).into_owned();
        let (verb, rest) = words.split_once(' ').unwrap_or((&words, ""));
        let number = || rest.parse::<usize>().map_err(|_| "a number is missing".to_string());
        match verb {
            // What a child does.
            "say" => {
                eprintln!("to stderr: {rest}");
                println!("to stdout: {rest}");
                Ok(rest.into())
            }
            "fail" => Err("it would not".into()),
            "trap" => unreachable!("as it was told"),
            "loop" => {
                context::progress(1, None);
                loop {
                    std::hint::spin_loop();
                }
            }
            "hold" => hold(),
            "big" => Ok((0..number()?).map(|at| (at % 251) as u8).collect()),
            "len" => Ok(input.len().to_string().into()),
            "who" => Ok(who().into()),
            "echo" => echo(),
            "patient" => patient(),
            "shout" => {
                for _ in 0..number()? {
                    eprint!("{}", "x".repeat(1000));
                }
                Ok(vec![])
            }
            // What a parent does.
            "run" => run(rest),
            "all" => all(),
            "deep" => deep(),
            "many" => many(),
            "input" => large_input(number()?),
            "output" => large_output(number()?),
            "kill" => kill(),
            "drop" => dropped(),
            "stop" => stop(rest),
            "port" => port(),
            "two" => two(),
            "back" => back(),
            "poll" => polled(),
            "leave" => leave(rest),
            "storm" => storm(number()?),
            "bomb" => bomb(),
            "loops" => loops(),
            "waits" => Ok(told(&spawn("self", "patient")?.wait()).into()),
            _ => Err(format!("it does not know {verb:?}")),
        }
    }
}

fn spawn(name: &str, input: &str) -> Result<Child, String> {
    tasks::spawn(name, input.as_bytes(), None).map_err(|no| said(no.error))
}

fn said(error: SpawnError) -> String {
    match error {
        SpawnError::NotGranted => "not-granted",
        SpawnError::Limit => "limit",
        SpawnError::TooLarge => "too-large",
        SpawnError::Busy => "busy",
    }
    .into()
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Completed(output) if output.len() > 80 => format!("completed {} bytes", output.len()),
        Outcome::Completed(output) => format!("completed {}", String::from_utf8_lossy(output)),
        Outcome::Failed(words) => format!("failed {words}"),
        Outcome::Exited(code) => format!("exited {code}"),
        Outcome::Trapped(_) => "trapped".into(),
        Outcome::LimitExceeded(limit) => format!("limit {limit}"),
        Outcome::Crashed(why) => format!("crashed {why}"),
        Outcome::Cancelled => "cancelled".into(),
    }
}

fn who() -> String {
    let info = context::info();
    format!("{} {:?} {}", info.name, info.mode, info.remaining_ns.is_some())
}

/// Has its parent know that it is there, and lets time pass.
fn hold() -> Result<Vec<u8>, String> {
    if let Some(parent) = ports::parent() {
        let _ = parent.send(text("here"));
        let _ = parent.receive();
    }
    let (one, _other) = ports::channel(1).map_err(|error| format!("{error:?}"))?;
    context::progress(1, None);
    one.receive().map_err(|error| error.name().to_string())?;
    Err("somebody spoke".into())
}

fn text(data: impl Into<Vec<u8>>) -> Message {
    Message { data: data.into(), regions: vec![], ports: vec![] }
}

fn echo() -> Result<Vec<u8>, String> {
    let port = ports::parent().ok_or("nobody to talk to")?;
    let mut count = 0;
    while let Ok(got) = port.receive() {
        count += 1;
        if port.send(got).is_err() {
            break;
        }
    }
    Ok(format!("{count} echoed").into())
}

/// Waits until it is asked to stop.
fn patient() -> Result<Vec<u8>, String> {
    context::progress(1, None);
    context::subscribe_cancelled().block();
    Ok("asked to stop".into())
}

/// Starts `NAME INPUT`, and waits twice.
fn run(rest: &str) -> Result<Vec<u8>, String> {
    let (name, input) = rest.split_once(' ').unwrap_or((rest, ""));
    let child = spawn(name, input)?;
    context::progress(child.id(), None);
    let first = told(&child.wait());
    let again = told(&child.wait());
    if first != again {
        return Err(format!("{first}, then {again}"));
    }
    Ok(first.into())
}

/// Every way in which a child ends of itself, one after another.
fn all() -> Result<Vec<u8>, String> {
    let mut log = String::new();
    for input in ["say hello", "fail", "trap", "nonsense", "len", "who"] {
        let _ = writeln!(log, "{input}: {}", told(&spawn("self", input)?.wait()));
    }
    for (name, input) in [("nobody", ""), ("", ""), ("SELF", "")] {
        let _ = writeln!(log, "{name:?}: {}", spawn(name, input).map(|_| ()).unwrap_err());
    }
    Ok(log.into())
}

/// How many levels there are below this one.
fn deep() -> Result<Vec<u8>, String> {
    let below = match spawn("self", "deep") {
        Err(why) if why == "limit" => return Ok("0".into()),
        Err(why) => return Err(why),
        Ok(child) => child.wait(),
    };
    match below {
        Outcome::Completed(output) => {
            let depth = String::from_utf8_lossy(&output).parse::<u32>().map_err(|error| error.to_string())?;
            Ok((depth + 1).to_string().into())
        }
        other => Err(told(&other)),
    }
}

/// As many as there may be at once; and again once they are gone.
fn many() -> Result<Vec<u8>, String> {
    let mut children = Vec::new();
    let refused = loop {
        match spawn("self", "say x") {
            Ok(child) => children.push(child),
            Err(why) => break why,
        }
    };
    let count = children.len();
    // Ended ones count while their handles are held.
    for child in &children {
        child.wait();
    }
    let held = spawn("self", "fail").map(|_| ()).unwrap_err();
    drop(children);
    let child = spawn("self", "say again")?;
    Ok(format!("{count} {refused} {held} {}", told(&child.wait())).into())
}

fn large_input(size: usize) -> Result<Vec<u8>, String> {
    let mut input = b"len ".to_vec();
    input.resize(size, b'x');
    match tasks::spawn("self", &input, None) {
        Ok(child) => Ok(told(&child.wait()).into()),
        Err(no) => Ok(said(no.error).into()),
    }
}

fn large_output(size: usize) -> Result<Vec<u8>, String> {
    let child = spawn("self", &format!("big {size}"))?;
    for _ in 0..2 {
        match child.wait() {
            Outcome::Completed(output) => {
                if output.len() != size || output.iter().enumerate().any(|(at, byte)| (at % 251) as u8 != *byte) {
                    return Err(format!("{} bytes of something else", output.len()));
                }
            }
            other => return Ok(told(&other).into()),
        }
    }
    Ok(format!("{size} bytes, twice").into())
}

/// A child with a port, that says when it runs.
fn held() -> Result<(Child, Port), String> {
    let (ours, theirs) = ports::channel(2).map_err(|error| error.name().to_string())?;
    let child = tasks::spawn("self", b"hold", Some(theirs)).map_err(|no| said(no.error))?;
    ours.receive().map_err(|error| error.name().to_string())?;
    Ok((child, ours))
}

fn kill() -> Result<Vec<u8>, String> {
    let (child, port) = held()?;
    child.kill();
    child.kill();
    let end = told(&child.wait());
    child.kill();
    let closed = port.receive().map(|_| ()) == Err(PortError::Closed);
    let spinning = spawn("self", "loop")?;
    spinning.kill();
    Ok(format!("{end} {closed} {} {}", told(&child.wait()), told(&spinning.wait())).into())
}

/// Starts `NAME INPUT`, lets it run for a moment, and kills it.
fn stop(rest: &str) -> Result<Vec<u8>, String> {
    let (name, input) = rest.split_once(' ').unwrap_or((rest, ""));
    let child = spawn(name, input)?;
    poll(&[&subscribe_duration(100_000_000)]);
    child.kill();
    Ok(told(&child.wait()).into())
}

fn dropped() -> Result<Vec<u8>, String> {
    let (child, port) = held()?;
    drop(child);
    match port.receive() {
        Err(PortError::Closed) => Ok("gone".into()),
        other => Err(format!("{:?}", other.map(|got| got.data))),
    }
}

fn port() -> Result<Vec<u8>, String> {
    let (ours, theirs) = ports::channel(2).map_err(|error| error.name().to_string())?;
    let child = tasks::spawn("self", b"echo", Some(theirs)).map_err(|no| said(no.error))?;
    for size in [0, 1, 5000, 256 << 10] {
        let data: Vec<u8> = (0..size).map(|at| (at % 249) as u8).collect();
        ours.send(text(data.clone())).map_err(|no| no.error.name().to_string())?;
        if ours.receive().map_err(|error| error.name().to_string())?.data != data {
            return Err(format!("{size} bytes came back as others"));
        }
    }
    drop(ours);
    Ok(told(&child.wait()).into())
}

/// Two children talk to each other.
fn two() -> Result<Vec<u8>, String> {
    let (one, other) = ports::channel(2).map_err(|error| error.name().to_string())?;
    // Each sends back what it gets: one message goes around until they end.
    one.send(text("ball")).map_err(|no| no.error.name().to_string())?;
    let first = tasks::spawn("self", b"echo", Some(one)).map_err(|no| said(no.error))?;
    let second = tasks::spawn("self", b"echo", Some(other)).map_err(|no| said(no.error))?;
    poll(&[&subscribe_duration(50_000_000)]);
    first.kill();
    let end = told(&first.wait());
    let played = match second.wait() {
        Outcome::Completed(output) => String::from_utf8_lossy(&output).into_owned(),
        other => return Err(told(&other)),
    };
    let rounds = played.split(' ').next().and_then(|count| count.parse::<u32>().ok());
    Ok(format!("{end} {}", rounds.is_some_and(|rounds| rounds > 1)).into())
}

/// A port comes back from what was not started, with what waits in it.
fn back() -> Result<Vec<u8>, String> {
    let (one, other) = ports::channel(2).map_err(|error| error.name().to_string())?;
    one.send(text("waits")).map_err(|no| no.error.name().to_string())?;
    let Err(no) = tasks::spawn("nobody", b"", Some(other)) else {
        return Err("nobody was started".into());
    };
    let mut log = said(no.error);
    let other = no.port.ok_or("the port is lost")?;
    let watched = other.subscribe();
    let Err(no) = tasks::spawn("self", b"echo", Some(other)) else {
        return Err("a port that is watched has moved".into());
    };
    drop(watched);
    let _ = write!(log, " {}", said(no.error));
    let other = no.port.ok_or("the port is lost")?;
    let got = other.receive().map_err(|error| error.name().to_string())?;
    let _ = write!(log, " {}", String::from_utf8_lossy(&got.data));
    Ok(log.into())
}

/// Waits for children and for time at once, again and again.
fn polled() -> Result<Vec<u8>, String> {
    let (slow, port) = held()?;
    let quick = spawn("self", "say quick")?;
    let (slow_ends, quick_ends) = (slow.subscribe(), quick.subscribe());
    quick_ends.block();
    let mut rounds = 0;
    for _ in 0..200 {
        let ready = poll(&[&slow_ends, &subscribe_duration(10_000)]);
        rounds += u32::from(ready == [1]);
    }
    let early = slow_ends.ready();
    slow.kill();
    slow_ends.block();
    drop((slow_ends, quick_ends, port));
    Ok(format!("{rounds} {early} {} {}", told(&quick.wait()), told(&slow.wait())).into())
}

/// Ends in some way while children run that never would.
fn leave(how: &str) -> Result<Vec<u8>, String> {
    let mut children = vec![spawn("self", "loop")?, spawn("self", "waits")?];
    let (holding, port) = held()?;
    children.push(holding);
    std::mem::forget(children);
    std::mem::forget(port);
    context::progress(1, None);
    match how {
        "return" => Ok("left".into()),
        "fail" => Err("left".into()),
        "trap" => unreachable!("as it was told"),
        "loop" => loop {
            std::hint::spin_loop();
        },
        _ => Ok(told(&spawn("self", "waits")?.wait()).into()),
    }
}

/// One child after another, as fast as they come.
fn storm(count: usize) -> Result<Vec<u8>, String> {
    for number in 0..count {
        let input = format!("say {number}");
        match spawn("self", &input)?.wait() {
            Outcome::Completed(output) if output == number.to_string().as_bytes() => {}
            other => return Err(told(&other)),
        }
    }
    Ok(format!("{count} children").into())
}

/// Starts itself as often as it can, which do the same, for ever.
fn bomb() -> Result<Vec<u8>, String> {
    let mut children = Vec::new();
    context::progress(1, None);
    loop {
        match spawn("self", "bomb") {
            Ok(child) => children.push(child),
            Err(_) if children.is_empty() => {}
            // Others may have the place.
            Err(_) => drop(children.pop()),
        }
    }
}

/// Starts and drops, for ever.
fn loops() -> Result<Vec<u8>, String> {
    context::progress(1, None);
    loop {
        let _ = spawn("self", "hold");
    }
}

export!(Task);
