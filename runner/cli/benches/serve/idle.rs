//! Connections that wait without a request: what they cost in memory, and what they cost others.

use crate::Amount;
use crate::client;
use crate::hello::{BARE, PROCESS, REUSE, THREAD};
use crate::load::{Load, Turn};
use crate::report::{Idle, Results, Wanted};
use crate::server::Server;
use anyhow::{Context, ensure};
use rustix::process::{Resource, getrlimit};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

const APP: &str = "http-hello/http-hello.wasm";
const WARM: Duration = Duration::from_secs(1);
/// Files that a server has open for something else.
const OTHERS: usize = 1_000;
const ALLOWED: f64 = (300 << 20) as f64;

struct Side {
    name: &'static str,
    server: Server,
    without: Vec<Turn>,
    with: Vec<Turn>,
    /// Before there were any.
    empty: f64,
    resident: Vec<f64>,
}

pub(crate) fn measure(amount: Amount, load: &Load, results: &mut Results) -> anyhow::Result<()> {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files = usize::try_from(files)?.saturating_sub(OTHERS);
    let count = amount.idle.min(files);
    if count < amount.idle {
        let why = anyhow::format_err!("`ulimit -n` allows {count} of {}", amount.idle);
        results.skip("some idle connections", &why);
    }
    let waits = ["--max-connections", "100000", "--keep-alive", "1h"];
    let wrun = |options: &[&str]| Server::wrun(APP, &[options, &waits].concat());
    let side = |name, server: anyhow::Result<Server>| {
        let server = server?;
        server.check().context(name)?;
        anyhow::Ok(Side {
            name,
            empty: server.resident_alone()?,
            server,
            without: Vec::new(),
            with: Vec::new(),
            resident: Vec::new(),
        })
    };
    let mut sides = vec![
        side(BARE, Server::bare())?,
        side(THREAD, wrun(&["--mode", "thread"]))?,
        side(REUSE, wrun(&["--reuse", "1000"]))?,
        side(PROCESS, wrun(&[]))?,
    ];
    // Opening them takes longer than the turns.
    let rounds = amount.rounds.min(5);
    for round in 0..rounds {
        eprintln!("idle: round {} of {rounds} ...", round + 1);
        for side in &mut sides {
            let turn = |side: &Side| {
                load.run(side.server.address, WARM)?;
                load.run(side.server.address, amount.turn)
            };
            let with = |side: &mut Side| {
                let idle = Connections::open(&side.server, count)?;
                side.resident.push(side.server.resident_alone()?);
                side.with.push(turn(side)?);
                idle.close()
            };
            // In another order each time.
            if round % 2 == 1 {
                with(side).context(side.name)?;
            }
            let without = turn(side).context(side.name)?;
            side.without.push(without);
            if round % 2 == 0 {
                with(side).context(side.name)?;
            }
        }
    }
    for side in &sides {
        results.idle.push(Idle::new(
            side.name,
            count,
            side.empty,
            &side.resident,
            &side.without,
            &side.with,
        ));
    }
    for side in &sides {
        let is_wrun = side.name != BARE;
        let turns = side.with.iter().zip(&side.without);
        let ratios = turns.map(|(with, without)| with.p99 / without.p99);
        let name = format!(
            "p99 beside {count} idle connections / without: {}",
            side.name
        );
        let wanted = is_wrun.then_some(Wanted::AtMost(1.2));
        results.ratio(&name, ratios, wanted);
        let of_allowed = side.resident.iter().map(|bytes| bytes / ALLOWED);
        let name = format!(
            "memory with {count} idle connections / 300 MiB: {}",
            side.name
        );
        let wanted = is_wrun.then_some(Wanted::AtMost(1.0));
        results.ratio(&name, of_allowed, wanted);
    }
    Ok(())
}

/// Connections that a client keeps open.
struct Connections {
    client: Child,
    said: BufReader<ChildStdout>,
}

impl Connections {
    fn open(server: &Server, count: usize) -> anyhow::Result<Self> {
        let mut client = Command::new(std::env::current_exe()?)
            .args([client::ROLE, "idle"])
            .args([server.address.to_string(), count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = client.stdout.take().context("no stdout")?;
        let mut connections = Connections {
            client,
            said: BufReader::new(said),
        };
        connections.expect("ready\n")?;
        Ok(connections)
    }

    fn expect(&mut self, words: &str) -> anyhow::Result<()> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        ensure!(line == words, "the idle connections: {line:?}");
        Ok(())
    }

    /// Each is used once more, and then closed.
    fn close(mut self) -> anyhow::Result<()> {
        drop(self.client.stdin.take());
        self.expect("kept\n")?;
        let status = self.client.wait()?;
        ensure!(status.success(), "the idle connections: {status}");
        Ok(())
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}
