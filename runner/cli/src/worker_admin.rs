//! `wrun worker --admin`: health, readiness and metrics of a worker, for its operator.

use super::{Failure, exit};
use std::fmt::{self, Write as _};
use std::sync::Arc;
use wrun::Runner;
use wrun_fleet::{Fleet, Guests, Metrics, NatsObjects, NatsQueue, Worker};
use wrun_serve::{Error, Listener, Operated, RunnerMetrics};

/// A worker, as its operator sees it.
pub(super) struct Operating {
    pub(super) runner: Arc<Runner>,
    pub(super) of_runner: RunnerMetrics,
    pub(super) fleet: Fleet,
    pub(super) worker: Arc<Worker<NatsQueue, Guests<NatsObjects>>>,
    pub(super) metrics: Arc<Metrics>,
}

impl Operated for Operating {
    fn readiness(&self) -> Result<String, String> {
        if self.worker.counters().is_draining() {
            return Err("draining".into());
        }
        match self.fleet.connection().is_connected {
            true => Ok("ok".into()),
            false => Err("there is no connection to NATS".into()),
        }
    }

    fn metrics(&self) -> Result<String, fmt::Error> {
        self.metrics.connection(&self.fleet.connection());
        let mut all = String::new();
        self.worker.write_metrics(&mut all)?;
        self.of_runner.write(&mut all, &self.runner.stats())?;
        all.write_str("# EOF\n")?;
        Ok(all)
    }
}

/// Listens on the address of `--admin`.
pub(super) async fn listen(address: &str) -> Result<Listener, Failure> {
    Listener::tcp(address).await.map_err(|error| {
        let hint = match &error {
            Error::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                "; --admin chooses another address".to_owned()
            }
            Error::Listen { source, .. } => wrun::limit_hint(source).to_string(),
            _ => String::new(),
        };
        Failure::new(exit::RUNNER, format!("{error}{hint}"))
    })
}
