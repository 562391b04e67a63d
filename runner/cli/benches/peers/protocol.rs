//! How the benchmark controls a peer: a program that is started for it, with a folder as
//! its last argument, and receives orders as lines on stdin. In the folder are the inputs
//! (`small`, `compute`, `large`, `count`) and the guests. It answers each line with one:
//!
//! | order | answer |
//! |---|---|
//! | `first NAME` | the output for that input, as hexadecimal digits |
//! | `latency NAME MILLISECONDS` | nanoseconds of tasks that ran one after the other for this time |
//! | `throughput NAME MILLISECONDS N` | tasks that ended, and nanoseconds until then, N at the same time |
//! | `hold N` | `held`, when N more tasks or workers wait |
//!
//! or with `error: ` and the reason. Every output is compared with the first one.
//! `node/peer.js` and `native.c` implement the same.

use anyhow::{Context, bail, ensure};
use std::any::Any;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The inputs, in the order of the tables.
pub(crate) const INPUTS: [&str; 4] = ["small", "compute", "large", "count"];

/// One way to run a task.
pub(crate) trait Peer: Sync {
    /// One task, from its input to its output.
    fn run(&self, input: &[u8]) -> anyhow::Result<Vec<u8>>;

    /// This many tasks that wait for their input, or workers that wait for a task, until
    /// the value is dropped.
    fn hold(&self, count: usize) -> anyhow::Result<Box<dyn Any>>;

    /// Runs tasks for this long, this many at the same time: their number, and the time until the
    /// last ended. Each output has to be `expected`.
    fn many(
        &self,
        input: &[u8],
        expected: &[u8],
        time: Duration,
        in_flight: usize,
    ) -> anyhow::Result<(u64, Duration)> {
        let ended = AtomicU64::new(0);
        let began = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..in_flight)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            ensure!(
                                self.run(input)? == expected,
                                "a task has another output than the first"
                            );
                            ended.fetch_add(1, Ordering::Relaxed);
                            if began.elapsed() >= time {
                                return Ok(());
                            }
                        }
                    })
                })
                .collect();
            for thread in threads {
                match thread.join() {
                    Ok(ended) => ended?,
                    Err(_) => bail!("a thread panicked"),
                }
            }
            Ok(())
        })?;
        Ok((ended.into_inner(), began.elapsed()))
    }
}

/// The nanoseconds of tasks that run one after the other for this long, at least one.
pub(crate) fn one_by_one(
    peer: &dyn Peer,
    input: &[u8],
    expected: &[u8],
    time: Duration,
) -> anyhow::Result<Vec<u64>> {
    let mut times = Vec::new();
    let began = Instant::now();
    loop {
        let before = Instant::now();
        let output = peer.run(input)?;
        times.push(u64::try_from(before.elapsed().as_nanos())?);
        ensure!(
            output == expected,
            "a task has another output than the first"
        );
        if began.elapsed() >= time {
            return Ok(times);
        }
    }
}

/// The program of a peer, until its stdin ends.
pub(crate) fn serve(peer: &dyn Peer, folder: &Path) -> anyhow::Result<()> {
    let mut inputs = HashMap::new();
    for name in INPUTS {
        let input = std::fs::read(folder.join(name)).with_context(|| format!("no {name}"))?;
        inputs.insert(name.to_owned(), (input, None));
    }
    let mut held = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let answer = match answer(peer, &mut inputs, &mut held, &line?) {
            Ok(answer) => answer,
            Err(error) => format!("error: {error:#}").replace('\n', " "),
        };
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
    }
    Ok(())
}

type Inputs = HashMap<String, (Vec<u8>, Option<Vec<u8>>)>;

fn answer(
    peer: &dyn Peer,
    inputs: &mut Inputs,
    held: &mut Vec<Box<dyn Any>>,
    line: &str,
) -> anyhow::Result<String> {
    let words: Vec<&str> = line.split(' ').collect();
    if let ["hold", count] = words[..] {
        held.push(peer.hold(count.parse()?)?);
        return Ok("held".to_owned());
    }
    let name = words.get(1).context("an order without a name")?;
    let (input, expected) = inputs.get_mut(*name).context("no such input")?;
    match (&words[..], expected) {
        (["first", _], expected) => {
            let output = peer.run(input)?;
            let mut digits = String::with_capacity(2 * output.len());
            for byte in &output {
                write!(digits, "{byte:02x}")?;
            }
            *expected = Some(output);
            Ok(digits)
        }
        (["latency", _, time], Some(expected)) => {
            let time = Duration::from_millis(time.parse()?);
            let times = one_by_one(peer, input, expected, time)?;
            let times: Vec<String> = times.iter().map(u64::to_string).collect();
            Ok(times.join(" "))
        }
        (["throughput", _, time, in_flight], Some(expected)) => {
            let time = Duration::from_millis(time.parse()?);
            let (count, took) = peer.many(input, expected, time, in_flight.parse()?)?;
            Ok(format!("{count} {}", took.as_nanos()))
        }
        _ => bail!("unknown order {line:?}"),
    }
}
