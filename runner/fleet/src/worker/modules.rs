//! Modules of a worker: fetched once, checked against their digest, compiled once, and kept.
//!
//! Invariant: at most `most` are kept, those used last; a module that is being made is made once
//! for all that wait; one that cannot be loaded is not tried again for [`REFUSED`].

use super::grants::WorkerConfig;
use super::metrics::Metrics;
use crate::error::Error;
use crate::protocol::{Digest, ModuleRef};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use wrun::{Artifact, ErrorKind, Runner};

/// How long a module that could not be loaded is refused without another attempt.
const REFUSED: Duration = Duration::from_secs(60);

/// Where modules come from.
pub trait ModuleSource: Send + Sync + 'static {
    /// The bytes stored under a digest, which are checked by the caller; `None` if there are
    /// none.
    fn fetch(
        &self,
        digest: Digest,
        most: u64,
    ) -> impl Future<Output = Result<Option<Bytes>, Error>> + Send;
}

/// Why there is no module.
#[derive(Clone, Debug)]
pub(super) enum NoModule {
    /// The task is refused.
    Refused(String),
    /// Another worker, or this one later, may have it.
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Digest(Digest),
    Name(String),
}

type Cell = Arc<OnceCell<Result<Artifact, NoModule>>>;

#[derive(Debug)]
struct Kept {
    cell: Cell,
    used: u64,
    made: Instant,
}

/// The modules that a worker has.
#[derive(Debug)]
pub(super) struct Modules {
    most: usize,
    most_bytes: u64,
    kept: Mutex<(u64, HashMap<Key, Kept>)>,
}

impl Modules {
    pub(super) fn new(most: usize, most_bytes: u64) -> Self {
        Modules {
            most: most.max(1),
            most_bytes,
            kept: Mutex::default(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.kept().1.len()
    }

    /// The module that a message names.
    pub(super) async fn get(
        &self,
        wanted: &ModuleRef,
        name: Option<&str>,
        runner: &Runner,
        source: &impl ModuleSource,
        config: &WorkerConfig,
        metrics: &Metrics,
    ) -> Result<Artifact, NoModule> {
        let key = match (wanted.blake3, &wanted.name) {
            (Some(digest), _) => Key::Digest(digest),
            (None, Some(name)) => Key::Name(name.clone()),
            (None, None) => return Err(NoModule::Refused("the task names no module".into())),
        };
        let cell = self.cell(&key);
        let mut is_made_here = false;
        let made = cell.get_or_init(|| async {
            is_made_here = true;
            match &key {
                Key::Digest(digest) => {
                    let fetching = self.of_digest(*digest, name, runner, source, metrics);
                    fetching.await
                }
                Key::Name(name) => of_name(name, runner, config).await,
            }
        });
        let made = made.await.clone();
        metrics.module(match &made {
            Ok(_) if !is_made_here => "memory",
            Ok(artifact) if artifact.compiled().is_some() => "compiler",
            Ok(_) => "cache",
            Err(NoModule::Refused(_)) => "refused",
            Err(NoModule::Failed(_)) => "failed",
        });
        if let Err(NoModule::Failed(_)) = made {
            self.forget(&key, &cell);
        }
        made
    }

    async fn of_digest(
        &self,
        digest: Digest,
        name: Option<&str>,
        runner: &Runner,
        source: &impl ModuleSource,
        metrics: &Metrics,
    ) -> Result<Artifact, NoModule> {
        let bytes = match source.fetch(digest, self.most_bytes).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                return Err(NoModule::Refused(format!(
                    "module {digest} is not in the store of modules"
                )));
            }
            Err(error) if error.is_retryable() => return Err(NoModule::Failed(error.to_string())),
            Err(error) => return Err(NoModule::Refused(error.to_string())),
        };
        metrics.fetched("module", bytes.len() as u64);
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(NoModule::Refused(format!(
                "the module stored as {digest} has the digest {found}"
            )));
        }
        let name = name.unwrap_or("task");
        let loaded = runner.load_bytes(name, bytes).await;
        loaded.map_err(|error| not_loaded(&error))
    }

    fn cell(&self, key: &Key) -> Cell {
        let mut kept = self.kept();
        let (count, modules) = &mut *kept;
        *count += 1;
        let is_stale = |kept: &Kept| {
            let is_refused = kept.cell.get().is_some_and(Result::is_err);
            is_refused && kept.made.elapsed() > REFUSED
        };
        if modules.get(key).is_some_and(is_stale) {
            modules.remove(key);
        }
        if modules.len() >= self.most && !modules.contains_key(key) {
            let oldest = modules.iter().min_by_key(|(_, kept)| kept.used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                modules.remove(&oldest);
            }
        }
        let kept = modules.entry(key.clone()).or_insert_with(|| Kept {
            cell: Cell::default(),
            used: 0,
            made: Instant::now(),
        });
        kept.used = *count;
        kept.cell.clone()
    }

    fn forget(&self, key: &Key, cell: &Cell) {
        let mut kept = self.kept();
        if kept
            .1
            .get(key)
            .is_some_and(|kept| Arc::ptr_eq(&kept.cell, cell))
        {
            kept.1.remove(key);
        }
    }

    fn kept(&self) -> MutexGuard<'_, (u64, HashMap<Key, Kept>)> {
        self.kept
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

async fn of_name(name: &str, runner: &Runner, config: &WorkerConfig) -> Result<Artifact, NoModule> {
    let Some(path) = config.module(name) else {
        return Err(NoModule::Refused(format!(
            "this worker has no module {name:?}: its operator defines modules in the file of \
             --config"
        )));
    };
    runner.load(path).await.map_err(|error| not_loaded(&error))
}

fn not_loaded(error: &wrun::Error) -> NoModule {
    let why = error.to_string();
    match error.kind() {
        _ if error.is_retryable() => NoModule::Failed(why),
        ErrorKind::ShutDown | ErrorKind::NoWorker | ErrorKind::Jail => NoModule::Failed(why),
        _ => NoModule::Refused(why),
    }
}
