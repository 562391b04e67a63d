//! The load: `wrk` where it is installed, or else a client of this program. Always a process of
//! its own, on the last processor if it can be put there, the same for all servers.

use crate::client;
use anyhow::{Context, ensure};
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::NamedTempFile;

/// Connections that are kept and never without a request.
pub(crate) const CONNECTIONS: usize = 64;

/// Prints the numbers once, without slowing the requests.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format("result %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
"#;

pub(crate) struct Load {
    /// The script of `wrk`.
    script: Option<NamedTempFile>,
    /// The processor that it is on.
    processor: Option<usize>,
}

/// What came of a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    pub(crate) rate: f64,
    /// Seconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Load {
    pub(crate) fn find() -> anyhow::Result<Self> {
        let runs = |program: &str| {
            let mut command = Command::new(program);
            command.arg("--version").stdin(Stdio::null());
            command.output().is_ok()
        };
        let mut script = None;
        if runs("wrk") {
            let mut file = tempfile::Builder::new().suffix(".lua").tempfile()?;
            file.write_all(SCRIPT.as_bytes())?;
            script = Some(file);
        }
        let processors = std::thread::available_parallelism()?.get();
        let processor = (processors > 1 && runs("taskset")).then_some(processors - 1);
        Ok(Load { script, processor })
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        let program = match self.script {
            Some(_) => "wrk",
            None => "the benchmark's own client (wrk is not installed)",
        };
        match self.processor {
            Some(processor) => format!("{program} on processor {processor}"),
            None => program.to_owned(),
        }
    }

    /// Requests for this long.
    pub(crate) fn run(&self, address: SocketAddr, time: Duration) -> anyhow::Result<Turn> {
        let (program, args) = match &self.script {
            Some(script) => {
                // It takes whole seconds.
                let seconds = time.as_secs().max(1);
                let script = script.path().to_str().context("a path that is not UTF-8")?;
                let args = [
                    "-t1".to_owned(),
                    format!("-c{CONNECTIONS}"),
                    format!("-d{seconds}s"),
                    "--latency".to_owned(),
                    // On a machine that is busy, a fresh process may take longer than the
                    // default of two seconds.
                    "--timeout".to_owned(),
                    "30s".to_owned(),
                    "-s".to_owned(),
                    script.to_owned(),
                    format!("http://{address}/"),
                ];
                ("wrk".into(), args.to_vec())
            }
            None => {
                let args = [
                    client::ROLE.to_owned(),
                    "load".to_owned(),
                    address.to_string(),
                    CONNECTIONS.to_string(),
                    time.as_millis().to_string(),
                ];
                (std::env::current_exe()?.into_os_string(), args.to_vec())
            }
        };
        let mut command = match self.processor {
            Some(processor) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &processor.to_string()]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let output = command.args(args).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let numbers = said.lines().find_map(|line| line.strip_prefix("result "));
        let numbers: Vec<f64> = numbers
            .with_context(|| format!("the load failed: {output:?}"))?
            .split(' ')
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [requests, micros, p50, p99, failed] = numbers[..] else {
            anyhow::bail!("{numbers:?}");
        };
        ensure!(
            requests > 0.0 && failed == 0.0,
            "{failed} of {requests} requests failed"
        );
        Ok(Turn {
            rate: requests / (micros / 1e6),
            p50: p50 / 1e6,
            p99: p99 / 1e6,
        })
    }
}
