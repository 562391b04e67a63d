//! A large body that goes up and comes down at the same time: how fast, and whether the memory
//! of the server stays the same.

use crate::Amount;
use crate::client;
use crate::report::{Results, Transfer, Wanted};
use crate::server::Server;
use anyhow::{Context, ensure};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const APP: &str = "http-digest/http-digest.wasm";
/// Before, so that buffers and workers are there.
const SMALL: u64 = 64 << 20;
/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(20);

struct Side {
    name: &'static str,
    path: &'static str,
    server: Server,
    rates: Vec<f64>,
    peaks: Vec<f64>,
    small_peaks: Vec<f64>,
}

pub(crate) fn measure(amount: Amount, results: &mut Results) -> anyhow::Result<()> {
    let wrun = |mode| {
        let options = ["--mode", mode, "--max-body", "none", "--timeout", "none"];
        Server::wrun(APP, &options)
    };
    let side = |name, path, server| {
        anyhow::Ok(Side {
            name,
            path,
            server: server?,
            rates: Vec::new(),
            peaks: Vec::new(),
            small_peaks: Vec::new(),
        })
    };
    let mut sides = vec![
        side("bare hyper", "/echo", Server::bare())?,
        side("wrun, thread, the server copies", "/splice", wrun("thread"))?,
        side("wrun, thread, the guest copies", "/echo", wrun("thread"))?,
        side(
            "wrun, process, the server copies",
            "/splice",
            wrun("process"),
        )?,
        side("wrun, process, the guest copies", "/echo", wrun("process"))?,
    ];
    // Each takes a second or more.
    let rounds = amount.rounds.min(5);
    for round in 0..rounds {
        eprintln!("transfer: round {} of {rounds} ...", round + 1);
        for side in &mut sides {
            side.turn(amount.bytes).context(side.name)?;
        }
    }
    let bare = sides[0].rates.clone();
    for side in &sides {
        let (rates, peaks, small) = (&side.rates, &side.peaks, &side.small_peaks);
        results
            .transfer
            .push(Transfer::new(side.name, amount.bytes, rates, peaks, small));
    }
    for side in &sides[1..] {
        let ratios = side.rates.iter().zip(&bare).map(|(one, bare)| one / bare);
        let name = format!("bytes/s: {} / bare hyper", side.name);
        results.ratio(&name, ratios, Some(Wanted::AtLeast(0.5)));
        let growth = side.peaks.iter().zip(&side.small_peaks);
        let name = format!("peak memory, all bytes / 64 MiB: {}", side.name);
        results.ratio(
            &name,
            growth.map(|(peak, small)| peak / small),
            Some(Wanted::AtMost(1.2)),
        );
    }
    Ok(())
}

impl Side {
    fn turn(&mut self, bytes: u64) -> anyhow::Result<()> {
        let (_, small) = self.send(SMALL)?;
        let (rate, peak) = self.send(bytes)?;
        self.small_peaks.push(small);
        self.rates.push(rate);
        self.peaks.push(peak);
        Ok(())
    }

    /// Bytes a second, and the most memory that the server and its workers had meanwhile.
    fn send(&self, bytes: u64) -> anyhow::Result<(f64, f64)> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args([client::ROLE, "transfer"])
            .args([self.server.address.to_string(), self.path.to_owned()])
            .arg(bytes.to_string())
            .stdin(Stdio::null());
        let ended = AtomicBool::new(false);
        let (output, peak) = std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut peak = 0.0_f64;
                while !ended.load(Ordering::Relaxed) {
                    peak = peak.max(self.server.resident());
                    std::thread::sleep(LOOK);
                }
                peak
            });
            let output = command.output();
            ended.store(true, Ordering::Relaxed);
            (output, looking.join().unwrap_or_default())
        });
        let output = output?;
        ensure!(output.status.success(), "the client failed: {output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        let mut numbers = said.trim().split(' ').skip(1).map(str::parse::<f64>);
        let (Some(Ok(bytes)), Some(Ok(micros))) = (numbers.next(), numbers.next()) else {
            anyhow::bail!("the client said {said:?}");
        };
        Ok((bytes / (micros / 1e6), peak))
    }
}
