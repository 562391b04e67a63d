//! `wrun serve` under load, in bad weather: workers that are killed, guests that trap, versions
//! that change. Each request has one answer, its own.
//!
//! A part of it with every `cargo test`, all of it with `WRUN_SERVE_REQUESTS=200000` and
//! `WRUN_SERVE_RELOADS=50`.

use crate::support::command::{PATIENCE, Wrun, scratch, write};
use crate::support::line::{Got, Line, Surprises};
use crate::support::processes::{descendants, own_copy, running, signal};
use crate::support::web::{Site, path};
use crate::support::{Dice, MODES, SetOnDrop, eventually, repo, settled, within};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::task::JoinSet;

/// Connections of HTTP/1.1.
const LINES: usize = 24;
/// Connections of HTTP/2, and how many requests each has at the same time.
const WIRES: usize = 4;
const SHARES: usize = 8;
/// Of what is wrong, this much is shown.
const SHOWN: usize = 20;

fn number(variable: &str, otherwise: u64) -> u64 {
    let number = std::env::var(variable).ok();
    number.map_or(otherwise, |number| number.parse().unwrap())
}

/// Runs what many clients do at the same time, each with a line of its own, to their end.
fn with_clients<F: Future<Output = ()> + Send + 'static>(
    address: SocketAddr,
    surprises: &Surprises,
    mut client: impl FnMut(Line) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut clients = JoinSet::new();
        for _ in 0..LINES {
            clients.spawn(client(Line::one(address, surprises).await));
        }
        for _ in 0..WIRES {
            for line in Line::two(address, surprises, SHARES).await {
                clients.spawn(client(line));
            }
        }
        clients.join_all().await;
    });
}

async fn ask(line: &mut Line, request: Request<Full<Bytes>>) -> Got {
    let got = tokio::time::timeout(PATIENCE, line.ask(request)).await;
    got.unwrap_or_else(|_| Got::Nothing("not in time".into()))
}

// --- deaths ---------------------------------------------------------------

/// What is requested, and how that is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Its number comes back in a field of the header.
    Hello,
    /// Its body comes back, which is made of its number.
    Echo,
    /// Its guest traps before it answers.
    Trap,
    /// Its guest traps in the middle of its answer.
    Half,
    /// Its guest answers, and then traps.
    After,
}

impl Kind {
    fn of(number: u64) -> Self {
        let mut dice = Dice((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        match dice.below(20) {
            0..=12 => Kind::Hello,
            13..=15 => Kind::Echo,
            16 | 17 => Kind::Trap,
            18 => Kind::Half,
            _ => Kind::After,
        }
    }

    fn request(self, number: u64) -> Request<Full<Bytes>> {
        let builder = Request::builder();
        let request = match self {
            Kind::Hello => builder
                .uri("http://hello/")
                .header("x-request-id", number)
                .body(Full::default()),
            Kind::Echo => builder
                .method("POST")
                .uri("http://digest/echo")
                .body(Full::new(body_of(number))),
            Kind::Trap => builder.uri("http://hostile/trap").body(Full::default()),
            Kind::Half => builder.uri("http://hostile/half").body(Full::default()),
            Kind::After => builder
                .uri("http://hostile/after-trap")
                .body(Full::default()),
        };
        request.unwrap()
    }

    /// What became of it: right, its error, or `None` for what may never be.
    fn fate(self, number: u64, got: &Got, may_die: bool) -> Option<Fate> {
        let whole = |status: u16, is_right: &dyn Fn(&HeaderMap, &[u8]) -> bool| match got {
            Got::Whole(code, header, body) => *code == status && is_right(header, body),
            _ => false,
        };
        let is_right = match self {
            Kind::Hello => whole(200, &|header, body| {
                let mut ids = header.get_all("x-request-id").iter();
                let id = ids.next().and_then(|id| id.to_str().ok()?.parse().ok());
                id == Some(number) && ids.next().is_none() && body == b"hello\n"
            }),
            Kind::Echo => whole(200, &|_, body| body == body_of(number)),
            Kind::Trap => whole(500, &|_, body| body == b"500 Internal Server Error\n"),
            Kind::Half => match got {
                Got::Cut(status) => *status == StatusCode::OK,
                Got::Reset => true,
                Got::Whole(..) | Got::Nothing(_) => false,
            },
            Kind::After => whole(200, &|_, body| body == b"complete\n"),
        };
        if is_right {
            return Some(Fate::Right);
        }
        if may_die && whole(502, &|_, body| body == b"502 Bad Gateway\n") {
            return Some(Fate::Died);
        }
        match got {
            Got::Cut(status) if may_die && *status == StatusCode::OK => Some(Fate::Cut),
            Got::Reset if may_die => Some(Fate::Cut),
            _ => None,
        }
    }
}

/// A body that no other request has: its number, over and over.
fn body_of(number: u64) -> Bytes {
    let len = (number.wrapping_mul(7_919) % 70_000) as usize + 1;
    let text = format!("{number};").repeat(len / 2 + 1);
    Bytes::from(text).slice(..len)
}

/// What became of a request that may become so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Right,
    /// Its worker died, and the client was told.
    Died,
    /// Its worker died in the middle of its answer.
    Cut,
}

#[derive(Default)]
struct Tally {
    fates: BTreeMap<(Kind, Fate), u64>,
    wrong: Vec<String>,
}

/// Requests that are sent until there are enough of them.
struct Load {
    may_die: bool,
    next: AtomicU64,
    end: u64,
    tally: Mutex<Tally>,
}

impl Load {
    fn new(range: std::ops::Range<u64>, may_die: bool) -> Arc<Self> {
        Arc::new(Load {
            may_die,
            next: AtomicU64::new(range.start),
            end: range.end,
            tally: Mutex::default(),
        })
    }

    async fn run(self: Arc<Self>, mut line: Line) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.end {
                return;
            }
            let kind = Kind::of(number);
            let got = ask(&mut line, kind.request(number)).await;
            let fate = kind.fate(number, &got, self.may_die);
            let mut tally = self.tally.lock().unwrap();
            match fate {
                Some(fate) => *tally.fates.entry((kind, fate)).or_default() += 1,
                None if tally.wrong.len() < SHOWN => {
                    let what = match &got {
                        Got::Nothing(why) => format!("nothing: {why}"),
                        got => format!("{got:?}"),
                    };
                    tally.wrong.push(format!("{number} {kind:?}: {what}"));
                }
                None => {}
            }
        }
    }

    /// How many of this kind came to this; of all kinds, if there is none.
    fn count(&self, kind: Option<Kind>, fate: Fate) -> u64 {
        let tally = self.tally.lock().unwrap();
        let found = tally.fates.iter().filter(|((a_kind, a_fate), _)| {
            kind.is_none_or(|kind| kind == *a_kind) && fate == *a_fate
        });
        found.map(|(_, count)| count).sum()
    }
}

#[test]
fn each_request_has_one_answer_while_guests_trap_and_workers_die() {
    for (mode, options, few) in [
        ("thread", &[][..], 6_000),
        ("process", &["--idle-timeout", "1s"], 2_000),
        ("process", &["--idle-timeout", "1s", "--reuse", "50"], 3_000),
    ] {
        storm(mode, options, number("WRUN_SERVE_REQUESTS", few));
    }
}

fn storm(mode: &str, options: &[&str], total: u64) {
    let what = format!("{mode} {options:?}");
    let folder = scratch();
    let program = own_copy(folder.path());
    let cached = crate::support::command::shared_cache();
    let mut all: Vec<String> = options.iter().map(ToString::to_string).collect();
    for guest in ["hello", "digest", "hostile"] {
        let file = repo("guest-tasks").join(format!("http-{guest}/http-{guest}.wasm"));
        all.push("--route".into());
        all.push(format!("{guest}/={}", file.display()));
    }
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let site = Site::start_as(Wrun::program(&program).cache(cached), mode, &all);
    let surprises = Surprises::default();
    // Everything is started once, and what stays is there.
    const FIRST: u64 = 300;
    let calm = Load::new(0..FIRST, false);
    with_clients(site.address, &surprises, |line| calm.clone().run(line));
    assert!(
        calm.tally.lock().unwrap().wrong.is_empty(),
        "{what}, without deaths: {:#?}",
        calm.tally.lock().unwrap().wrong
    );
    assert_eq!(calm.count(None, Fate::Right), FIRST, "{what}");
    let rest = |site: &Site| {
        settled("the server rests", PATIENCE, || {
            (site.descriptors(), descendants(site.pid()).len())
        })
    };
    let before = rest(&site);

    let may_die = mode == "process";
    let load = Load::new(FIRST..FIRST + total, may_die);
    let (done, mut kills) = (AtomicBool::new(false), 0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut dice = Dice(2026);
            let mut kills = 0;
            while may_die && !done.load(Ordering::Relaxed) {
                dice.pause(40);
                let processes: Vec<_> = descendants(site.pid()).into_iter().collect();
                if !processes.is_empty() {
                    let process = processes[dice.below(processes.len() as u64) as usize];
                    kills += u32::from(signal(process, Signal::KILL));
                }
            }
            kills
        });
        {
            let _end = SetOnDrop(&done);
            with_clients(site.address, &surprises, |line| load.clone().run(line));
        }
        kills = storm.join().unwrap();
    });
    let took = began.elapsed();
    eprintln!(
        "{what}: {total} requests in {took:?}, {kills} processes killed: {:?}",
        load.tally.lock().unwrap().fates
    );
    let wrong = std::mem::take(&mut load.tally.lock().unwrap().wrong);
    assert!(wrong.is_empty(), "{what}: {wrong:#?}\n{}", site.said());
    assert!(surprises.all().is_empty(), "{what}: {:?}", surprises.all());
    let right = load.count(None, Fate::Right);
    if may_die {
        assert!(kills > 0, "{what}");
        assert!(
            right > total / 2,
            "{what}: only {right} of {total} are right"
        );
    } else {
        assert_eq!(right, total, "{what}");
    }
    // The server counted the same.
    eventually("no request is left", PATIENCE, || {
        site.metric("wrun_http_requests_in_flight") == 0.0
    });
    assert_eq!(site.requests_over(""), FIRST + total, "{what}");
    let died = load.count(None, Fate::Died);
    assert_eq!(site.requests_over(r#"code="502""#), died, "{what}");
    let trapped = load.count(Some(Kind::Trap), Fate::Right);
    let first = calm.count(Some(Kind::Trap), Fate::Right);
    assert_eq!(
        site.requests_over(r#"code="500""#),
        trapped + first,
        "{what}"
    );
    // And nothing is left of them.
    let is_as_before = |site: &Site| {
        let now = rest(site);
        now.0 <= before.0 && now.1 <= before.1
    };
    assert!(
        within(PATIENCE, || is_as_before(&site)),
        "{what}: descriptors and processes were {before:?}, and are {:?}",
        rest(&site)
    );
    site.stop();
    let gone = within(PATIENCE, || running(&program).is_empty());
    assert!(gone, "{what}: left behind: {:?}", running(&program));
}

// --- versions -------------------------------------------------------------

/// Versions of an app, each of which answers its number.
struct Versions(Vec<u8>);

impl Versions {
    const ANSWER: &[u8] = b"hello\n";

    fn new() -> Self {
        let bytes = fs::read(repo("guest-tasks/http-hello/http-hello.wasm")).unwrap();
        let found = bytes.windows(Self::ANSWER.len());
        assert_eq!(found.filter(|it| *it == Self::ANSWER).count(), 1);
        Versions(bytes)
    }

    fn of(&self, version: u64) -> Vec<u8> {
        let mut bytes = self.0.clone();
        let mut found = bytes.windows(Self::ANSWER.len());
        let at = found.position(|it| it == Self::ANSWER).unwrap();
        let answer = format!("{version:05}\n");
        bytes[at..at + answer.len()].copy_from_slice(answer.as_bytes());
        bytes
    }
}

/// What is served, and what was answered meanwhile.
#[derive(Default)]
struct History {
    /// The version whose switch was logged.
    logged: AtomicU64,
    /// The newest version that the server may have read.
    placed: AtomicU64,
    over: AtomicBool,
    answered: Mutex<BTreeMap<u64, u64>>,
    wrong: Mutex<Vec<String>>,
}

impl History {
    async fn run(self: Arc<Self>, mut line: Line) {
        while !self.over.load(Ordering::Acquire) {
            let oldest = self.logged.load(Ordering::Acquire);
            let request = Request::builder().uri("http://app/").body(Full::default());
            let got = ask(&mut line, request.unwrap()).await;
            let newest = self.placed.load(Ordering::Acquire);
            let version = match &got {
                Got::Whole(StatusCode::OK, _, body) => std::str::from_utf8(body)
                    .ok()
                    .and_then(|text| text.trim().parse().ok()),
                _ => None,
            };
            match version {
                Some(version) if (oldest..=newest).contains(&version) => {
                    *self.answered.lock().unwrap().entry(version).or_default() += 1;
                }
                _ => {
                    let mut wrong = self.wrong.lock().unwrap();
                    if wrong.len() < SHOWN {
                        wrong.push(format!("expected {oldest} to {newest}: {got:?}"));
                    }
                }
            }
        }
    }
}

#[test]
fn reloads_under_load_lose_no_request_and_never_go_back() {
    for mode in MODES {
        reloads(mode, number("WRUN_SERVE_RELOADS", 10));
    }
}

fn reloads(mode: &str, total: u64) {
    let folder = scratch();
    let program = own_copy(folder.path());
    let versions = Versions::new();
    let app = folder.path().join("app.wasm");
    let place = |bytes: &[u8]| {
        let new = write(folder.path(), "new", bytes);
        fs::rename(new, &app).unwrap();
    };
    place(&versions.of(1));
    let wrun = Wrun::program(&program).cache(&folder.path().join("cache"));
    let site = Site::start_as(wrun, mode, &[path(&app)]);
    let surprises = Surprises::default();
    let history = Arc::new(History::default());
    history.logged.store(1, Ordering::Release);
    history.placed.store(1, Ordering::Release);
    let mut before = (0, 0);
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            with_clients(site.address, &surprises, |line| history.clone().run(line));
        });
        let _end = SetOnDrop(&history.over);
        let answered = |version: u64| {
            let answered = history.answered.lock().unwrap();
            answered.get(&version).copied().unwrap_or(0)
        };
        let is_answering = |version| {
            let enough = within(PATIENCE, || {
                answered(version) > 100 || clients.is_finished()
            });
            assert!(
                enough && !clients.is_finished(),
                "{mode}: version {version}"
            );
        };
        is_answering(1);
        before = (site.descriptors(), descendants(site.pid()).len());
        for version in 2..=total + 1 {
            if version % 3 == 0 {
                // One that cannot be served, in between.
                let mut bad = versions.of(version);
                bad.truncate(bad.len() / 2);
                place(&bad);
                site.signal(Signal::HUP);
                let old = version - 1;
                site.await_said(&format!("the reload is refused, version {old} goes on"));
            }
            place(&versions.of(version));
            history.placed.store(version, Ordering::Release);
            site.signal(Signal::HUP);
            site.await_said(&format!(
                "version {version} answers all requests from now on"
            ));
            history.logged.store(version, Ordering::Release);
            is_answering(version);
        }
    });
    let answered = history.answered.lock().unwrap().clone();
    let all: u64 = answered.values().sum();
    eprintln!("{mode}: {total} reloads, {all} requests");
    let wrong = history.wrong.lock().unwrap().clone();
    assert!(wrong.is_empty(), "{mode}: {wrong:#?}\n{}", site.said());
    assert!(surprises.all().is_empty(), "{mode}: {:?}", surprises.all());
    assert_eq!(answered.len() as u64, total + 1, "{mode}: {answered:?}");
    // A request is counted once its task is over, which may be after its answer.
    eventually("no request is left", PATIENCE, || {
        site.metric("wrun_http_requests_in_flight") == 0.0
    });
    assert_eq!(site.requests_over(""), all, "{mode}");
    assert_eq!(site.requests_over(r#"code="200""#), all, "{mode}");
    // What is left is what one version has.
    let after = || (site.descriptors(), descendants(site.pid()).len());
    let nothing = within(PATIENCE, || {
        let after = after();
        after.0 <= before.0 && after.1 <= before.1
    });
    assert!(
        nothing,
        "{mode}: descriptors and processes were {before:?}, and are {:?}",
        after()
    );
    site.stop();
    let gone = within(PATIENCE, || running(&program).is_empty());
    assert!(gone, "{mode}: left behind: {:?}", running(&program));
}
