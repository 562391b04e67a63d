//! Tasks that talk: six ways to share work, each with the role that the input's first
//! line names. Whoever coordinates starts the others as `worker`, which can be this very
//! file or one in another language:
//!
//! ```sh
//! echo "primes 2 100000 1000" | wrun --task worker=talk.wasm talk.wasm
//! ```
//!
//! What comes out is the same in both modes, and for any number of workers.

mod map_reduce;
mod n_body;
mod ping_pong;
mod pipeline;
mod sort;
mod work_queue;

use wrun_guest::{Child, Message, Port, PortError, poll};

/// What whoever coordinates starts.
const WORKER: &str = "worker";

/// Most workers that one coordinator starts.
const MOST: u64 = 15;

const USAGE: &str = "ping ROUNDS SIZE | count WORKERS BYTES, then text | \
    sort WORKERS NUMBERS SEED | pipeline BLOCKS SIZE | primes WORKERS BELOW BLOCK | \
    bodies WORKERS BODIES STEPS";

fn run(input: Vec<u8>) -> Result<Vec<u8>, String> {
    let end = input.iter().position(|byte| *byte == b'\n');
    let (line, rest) = input.split_at(end.unwrap_or(input.len()));
    let line = str::from_utf8(line).map_err(|_| USAGE)?;
    let text = rest.get(1..).unwrap_or_default();
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["ping", ref n @ ..] => ping_pong::ping(numbers(n)?),
        ["pong"] => ping_pong::pong(),
        ["count", ref n @ ..] => map_reduce::count(numbers(n)?, text),
        ["map"] => map_reduce::map(),
        ["sort", ref n @ ..] => sort::sort(numbers(n)?),
        ["part"] => sort::part(),
        ["pipeline", ref n @ ..] => pipeline::pipeline(numbers(n)?),
        ["make", ref n @ ..] => pipeline::make(numbers(n)?),
        ["turn"] => pipeline::turn(),
        ["sum"] => pipeline::sum(),
        ["primes", ref n @ ..] => work_queue::primes(numbers(n)?),
        ["work", ref n @ ..] => work_queue::work(numbers(n)?),
        ["bodies", ref n @ ..] => n_body::bodies(numbers(n)?),
        ["move", ref n @ ..] => n_body::r#move(numbers(n)?),
        _ => Err(USAGE.into()),
    }
}

wrun_guest::task!(run);

fn numbers<const N: usize>(words: &[&str]) -> Result<[u64; N], String> {
    let numbers: Option<Vec<u64>> = words.iter().map(|word| word.parse().ok()).collect();
    let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
    numbers.ok_or_else(|| USAGE.into())
}

/// An error unless `value` is one of `range`.
fn within(what: &str, value: u64, range: std::ops::RangeInclusive<u64>) -> Result<(), String> {
    match range.contains(&value) {
        true => Ok(()),
        false => Err(format!(
            "{what} is {value}, not {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// What a worker is given; an error that says how it ended, if it did.
fn give((child, port): &(Child, Port), message: impl Into<Message>) -> Result<(), String> {
    match port.send(message) {
        Err(unsent) if unsent.error == PortError::Closed => Err(ended(child)),
        done => Ok(done?),
    }
}

/// What a worker gives; an error that says how it ended, if it did.
fn take((child, port): &(Child, Port)) -> Result<Message, String> {
    match port.receive() {
        Err(PortError::Closed) => Err(ended(child)),
        message => Ok(message?),
    }
}

/// What all workers said; an error as soon as one of them ended otherwise, for the
/// others may wait for it.
fn outputs(workers: &[(Child, Port)]) -> Result<Vec<Vec<u8>>, String> {
    let mut outputs = vec![Vec::new(); workers.len()];
    let mut running: Vec<_> = workers
        .iter()
        .enumerate()
        .map(|(at, (child, _))| (at, child.subscribe()))
        .collect();
    while !running.is_empty() {
        poll(&running.iter().map(|(_, ends)| ends).collect::<Vec<_>>());
        for (at, _) in running.extract_if(.., |(_, ends)| ends.ready()) {
            outputs[at] = workers[at].0.output()?;
        }
    }
    Ok(outputs)
}

fn ended(child: &Child) -> String {
    match child.output() {
        Ok(_) => "a child: it ended early".into(),
        Err(how) => how,
    }
}

fn parent() -> Result<wrun_guest::Port, String> {
    wrun_guest::parent().ok_or_else(|| "nobody to talk to".into())
}

/// The next of a sequence of numbers that only look like chance (xorshift, by Marsaglia).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A digest that tells what differs, not who lies (FNV-1a).
fn digest(state: u64, words: impl IntoIterator<Item = u64>) -> u64 {
    words.into_iter().fold(state, |state, word| {
        (state ^ word).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Where a digest begins.
const DIGEST: u64 = 0xcbf2_9ce4_8422_2325;
