//! Messages from task to task, by size: copied, and in regions.

use super::{Job, Rows, failed, nanos};
use crate::{
    bench::completed,
    measure::copies,
    results::{Measure, Policy, Transport},
    rounds::Row,
};
use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use wrun::{Artifact, Cache, Error, Message, Mode, Port, Runner, Task};

/// A guest for either end of a channel.
const GUEST: &[u8] = include_bytes!("../guests/ports.wasm");
/// Sizes of messages, in bytes.
const COPIED: [u64; 7] = [
    64,
    1 << 10,
    16 << 10,
    256 << 10,
    1 << 20,
    16 << 20,
    64 << 20,
];
/// The smallest region is a page of WebAssembly.
const IN_REGIONS: [u64; 4] = [64 << 10, 1 << 20, 16 << 20, 64 << 20];
/// The most that one message holds; more is sent in several.
const LARGEST: u64 = 256 << 10;
/// Messages that may wait.
const CAPACITY: u32 = 16;
/// What one round should take.
const ROUND: Duration = Duration::from_millis(15);

struct Talk {
    runner: Runner,
    ports: Artifact,
}

/// Both modes, with the guest loaded.
fn talks(job: &Job<'_, '_>) -> Result<Vec<Rc<Talk>>, Error> {
    [Policy::Instance, Policy::Spare]
        .into_iter()
        .map(|policy| {
            let cache = Cache::Directory(job.bench.cache());
            let runner = job.bench.runner(policy, cache)?;
            let ports = runner.blocking_load_bytes("ports", GUEST)?;
            Ok(Rc::new(Talk { runner, ports }))
        })
        .collect()
}

impl Talk {
    /// Two tasks with a channel between them: what the first returns, and how long it
    /// ran.
    fn pair(
        &self,
        first: String,
        second: &str,
        capacity: u32,
    ) -> Result<(String, Duration), Error> {
        let start = |what: String| -> Result<_, Error> {
            let (theirs, ours) = self.runner.channel(1)?;
            let task = Task::new(&self.ports).input(what).port(theirs);
            Ok((self.runner.blocking_submit(task)?, ours))
        };
        let (mut other, to_other) = start(second.to_owned())?;
        let (mut one, to_one) = start(first)?;
        let (end, far) = self.runner.channel(capacity)?;
        let give = |port: &Port, end| {
            let sent = port.blocking_send(Message::default().port(end));
            sent.map_err(|unsent| failed(unsent.error))
        };
        give(&to_other, far)?;
        give(&to_one, end)?;
        let report = one.blocking_report()?;
        completed(&report)?;
        completed(&other.blocking_report()?)?;
        let said = String::from_utf8_lossy(&report.stdout).into_owned();
        Ok((said, report.stats.run))
    }

    /// One task sends this many bytes to another; waits until all have come.
    fn flood(&self, flood: String, bytes: u64) -> Result<(), Error> {
        let (theirs, ours) = self.runner.channel(CAPACITY)?;
        let (second, to_second) = self.runner.channel(1)?;
        let drain = Task::new(&self.ports).input("drain").port(second);
        let mut drains = self.runner.blocking_submit(drain)?;
        let given = to_second.blocking_send(Message::default().port(ours));
        given.map_err(|unsent| failed(unsent.error))?;
        let task = Task::new(&self.ports).input(flood).port(theirs);
        let mut floods = self.runner.blocking_submit(task)?;
        let report = drains.blocking_report()?;
        completed(&report)?;
        completed(&floods.blocking_report()?)?;
        match report.stdout == format!("{bytes} bytes").as_bytes() {
            true => Ok(()),
            false => Err(failed("the second task did not receive all bytes")),
        }
    }
}

fn count(estimate: Duration) -> u32 {
    let fit = ROUND.as_nanos() / estimate.as_nanos().max(1);
    u32::try_from(fit).unwrap_or(1).clamp(1, 500)
}

/// About the time of a message of a size, to choose the number of rounds.
fn estimate(size: u64) -> Duration {
    Duration::from_micros(25) + Duration::from_nanos(size)
}

/// A message to a task and back.
pub(super) fn round_trips(job: &mut Job<'_, '_>) -> Rows {
    let mut rows = Vec::new();
    let floor = job.idle_floor().map(|floor| Rc::new(RefCell::new(floor)));
    for talk in talks(job)? {
        let mode = talk.runner.mode();
        for size in COPIED {
            let (talk, rounds) = (talk.clone(), count(estimate(size) * 2));
            let messages = rounds * u32::try_from(size.div_ceil(LARGEST)).unwrap_or(1);
            let side = Box::new(move || {
                let ping = format!("ping {messages} {}", size.min(LARGEST));
                let (_, time) = talk.pair(ping, "echo", 1)?;
                Ok(vec![nanos(time) / f64::from(rounds)])
            });
            // The floor has pieces of the same size.
            let len = usize::try_from(size.min(LARGEST)).unwrap_or(usize::MAX);
            let pieces = messages / rounds;
            let row = row(Measure::RoundTrip, mode, size, Transport::Copied, side);
            rows.push(match (mode, &floor) {
                (Mode::Process, Some(floor)) => {
                    let floor = floor.clone();
                    row.floor(
                        "the same bytes through a bare pipe to a process, and back",
                        Box::new(move || {
                            let time = floor.borrow_mut().echo(len, messages);
                            Ok(vec![nanos(time.map_err(failed)?) * f64::from(pieces)])
                        }),
                    )
                }
                (Mode::Thread, _) => row.floor(
                    "bounded channels between two asynchronous functions of a thread, the bytes \
                     copied, and back",
                    Box::new(move || {
                        Ok(vec![nanos(functions(len, messages)?) * f64::from(pieces)])
                    }),
                ),
                _ => row,
            });
        }
        for size in IN_REGIONS {
            let (talk, rounds) = (talk.clone(), 200);
            let side = Box::new(move || {
                let (time, _) = talk.pair(format!("toss {rounds} {size}"), "catch", 8)?;
                let time: f64 = time.parse().map_err(failed)?;
                Ok(vec![time / f64::from(rounds)])
            });
            let row = row(Measure::RoundTrip, mode, size, Transport::Region, side);
            let file = wrun::measure::sys::ToMap::new(size).map_err(failed)?;
            let floor = floor.clone();
            let name = match mode {
                Mode::Process => "bare mmap and munmap of the same size, a bare pipe round trip",
                Mode::Thread => {
                    "bare mmap and munmap of the same size, a round trip between two asynchronous \
                     functions of a thread"
                }
            };
            rows.push(row.floor(
                name,
                Box::new(move || {
                    let began = Instant::now();
                    for _ in 0..rounds {
                        file.map().map_err(failed)?;
                    }
                    let mapping = nanos(began.elapsed()) / f64::from(rounds);
                    let trip = match (mode, &floor) {
                        (Mode::Process, Some(floor)) => {
                            floor.borrow_mut().echo(64, rounds).map_err(failed)?
                        }
                        _ => functions(64, rounds)?,
                    };
                    Ok(vec![mapping + nanos(trip)])
                }),
            ));
        }
    }
    job.rounds(rows)
}

/// Bytes a second, one way.
pub(super) fn bandwidth(job: &mut Job<'_, '_>) -> Rows {
    let mut rows = Vec::new();
    let floor = job.idle_floor().map(|floor| Rc::new(RefCell::new(floor)));
    for talk in talks(job)? {
        let mode = talk.runner.mode();
        for size in COPIED {
            let messages = u64::from(count(estimate(size)));
            let bytes = messages * size;
            let (talk, piece) = (talk.clone(), size.min(LARGEST));
            let side = Box::new(move || {
                let flood = format!("flood {} {piece}", bytes.div_ceil(piece));
                // From the first message until all have come.
                let began = Instant::now();
                talk.flood(flood, bytes)?;
                Ok(vec![rate(bytes, began.elapsed())])
            });
            let chunk = usize::try_from(piece).unwrap_or(usize::MAX);
            let row = row(Measure::Bandwidth, mode, size, Transport::Copied, side);
            rows.push(match (mode, &floor) {
                (Mode::Process, Some(floor)) => {
                    let floor = floor.clone();
                    row.floor(
                        "the same bytes through a bare pipe, in writes of the same size",
                        Box::new(move || {
                            let time = floor.borrow_mut().sink(bytes, chunk);
                            Ok(vec![rate(bytes, time.map_err(failed)?)])
                        }),
                    )
                }
                (Mode::Thread, _) => row.floor(
                    "the same bytes through a bounded channel, copied, between two threads or \
                     between two asynchronous functions of one, whichever is faster",
                    Box::new(move || {
                        let time = poured(bytes, chunk)?.min(trickled(bytes, chunk)?);
                        Ok(vec![rate(bytes, time)])
                    }),
                ),
                _ => row,
            });
        }
        for size in IN_REGIONS {
            let pieces = (64_u64 << 20).div_ceil(size).clamp(4, 256);
            let bytes = pieces * size;
            let talk = talk.clone();
            let side = Box::new(move || {
                let (time, _) = talk.pair(format!("pour {pieces} {size}"), "drink", 8)?;
                let time = time.parse().map_err(failed)?;
                Ok(vec![rate(bytes, Duration::from_nanos(time))])
            });
            let chunk = usize::try_from(size).unwrap_or(usize::MAX);
            rows.push(
                row(Measure::Bandwidth, mode, size, Transport::Region, side).floor(
                    "memcpy of the same bytes, in pieces of the same size",
                    Box::new(move || Ok(vec![rate(bytes, copies(bytes, chunk))])),
                ),
            );
        }
    }
    job.rounds(rows)
}

fn row<'a>(
    measure: Measure,
    mode: Mode,
    size: u64,
    transport: Transport,
    side: crate::rounds::Side<'a>,
) -> Row<'a> {
    Row {
        measure,
        mode,
        policy: None,
        at: Some(size),
        transport: Some(transport),
        side,
        floor: None,
    }
}

fn rate(bytes: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let bytes = bytes as f64;
    bytes / time.as_secs_f64().max(1e-9)
}

/// This many messages between two asynchronous functions and back.
fn functions(size: usize, count: u32) -> Result<Duration, Error> {
    let message = vec![b'w'; size];
    let (ask, mut asked) = mpsc::channel::<Vec<u8>>(1);
    let (answer, mut answered) = mpsc::channel::<Vec<u8>>(1);
    let answers = async move {
        while let Some(message) = asked.recv().await {
            if answer.send(black_box(message.clone())).await.is_err() {
                break;
            }
        }
    };
    let asks = async move {
        for _ in 0..count {
            ask.send(message.clone()).await.map_err(failed)?;
            black_box(answered.recv().await);
        }
        Ok(())
    };
    let runtime = super::runtime().map_err(failed)?;
    let began = Instant::now();
    let (asked, ()) = runtime.block_on(async { tokio::join!(asks, answers) });
    asked.map(|()| began.elapsed() / count.max(1))
}

/// This many bytes from one asynchronous function to another, in messages of `chunk` bytes.
fn trickled(bytes: u64, chunk: usize) -> Result<Duration, Error> {
    let message = vec![b'w'; chunk];
    let count = usize::try_from(bytes)
        .unwrap_or(usize::MAX)
        .div_ceil(chunk.max(1));
    let (pours, mut poured) = mpsc::channel::<Vec<u8>>(CAPACITY as usize);
    let pours = async move {
        for _ in 0..count {
            pours.send(message.clone()).await.map_err(failed)?;
        }
        Ok(())
    };
    let drinks = async move {
        while let Some(message) = poured.recv().await {
            black_box(message.clone());
        }
    };
    let runtime = super::runtime().map_err(failed)?;
    let began = Instant::now();
    let (poured, ()) = runtime.block_on(async { tokio::join!(pours, drinks) });
    poured.map(|()| began.elapsed())
}

/// This many bytes from thread to thread, in messages of `chunk` bytes.
fn poured(bytes: u64, chunk: usize) -> Result<Duration, Error> {
    let (pours, drinks) = sync_channel::<Vec<u8>>(CAPACITY as usize);
    let message = vec![b'w'; chunk];
    let count = usize::try_from(bytes)
        .unwrap_or(usize::MAX)
        .div_ceil(chunk.max(1));
    std::thread::scope(|scope| {
        let began = Instant::now();
        let drinks = move || {
            for message in drinks {
                black_box(message.clone());
            }
        };
        let drinker = std::thread::Builder::new().spawn_scoped(scope, drinks);
        let drinker = drinker.map_err(failed)?;
        for _ in 0..count {
            pours.send(message.clone()).map_err(failed)?;
        }
        drop(pours);
        drinker
            .join()
            .map_err(|_| failed("a thread of the floor panicked"))?;
        Ok(began.elapsed())
    })
}
