//! Process mode: every task in an operating-system process of its own, started
//! from a worker program and spoken to over pipes.
//!
//! The only place that makes processes. The zygote, spares forked ahead of
//! demand and the jail have their place in [`spawn`] and [`pool`]; they are not
//! built yet.
//!
//! Invariants: every process has one owner that kills and reaps it on every
//! path; the worker is treated as hostile once a guest runs in it.

mod attempt;
mod compile;
mod compile_main;
mod descriptors;
mod pool;
mod spawn;
mod stream;
mod worker;
mod worker_main;

use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::executor::{Executed, Executor, Job};
use crate::sandbox::{Artifact, Loader};
pub(crate) use compile::ChildCompiler;
use pool::Pool;
use spawn::Spawner;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
pub use worker_main::worker_hook;

/// Something about processes failed; not a guest's doing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error(
        "process mode needs a worker: call wrun::worker_hook() first thing in main, or name a \
         worker program with Builder::worker"
    )]
    NoHook,
    #[error("cannot start the worker {}: {source}", program.display())]
    Spawn { program: PathBuf, source: io::Error },
    #[error("{} does not answer as a wrun worker: {what}", program.display())]
    Handshake { program: PathBuf, what: String },
    #[error("{message}")]
    Refused { message: String },
    #[error("{what}: {source}")]
    System {
        what: &'static str,
        source: io::Error,
    },
    #[error("the runner is shut down")]
    ShutDown,
}

/// The program that workers and compilers are.
fn worker_program(config: &Config) -> Result<PathBuf, ProcessError> {
    match &config.worker {
        Some(program) => Ok(program.clone()),
        None if worker_main::is_hooked() => Ok(PathBuf::from("/proc/self/exe")),
        None => Err(ProcessError::NoHook),
    }
}

pub(crate) struct ProcessExecutor {
    loader: Arc<Loader>,
    spawner: Arc<Spawner>,
    idle: usize,
    pools: Mutex<Vec<Weak<Pool>>>,
}

impl ProcessExecutor {
    pub(crate) fn new(loader: Arc<Loader>, config: &Config) -> Result<Self, ProcessError> {
        let program = worker_program(config)?;
        Ok(ProcessExecutor {
            loader,
            spawner: Arc::new(Spawner::start(program, config.max_running)?),
            idle: config.spares,
            pools: Mutex::default(),
        })
    }

    fn pool(&self, artifact: &Artifact, metered: bool) -> Result<Arc<Pool>, Error> {
        let any = match artifact.prepared(metered) {
            Some(any) => any,
            None => artifact.prepare(metered, || -> Result<Arc<_>, Error> {
                let code = self.loader.code(artifact, metered)?;
                let pool = Arc::new(Pool::new(code, self.spawner.clone(), self.idle));
                let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
                pools.retain(|pool| pool.strong_count() > 0);
                pools.push(Arc::downgrade(&pool));
                Ok(pool)
            })?,
        };
        any.downcast::<Pool>()
            .map_err(|_| Error::new(ErrorKind::InvalidTask, "the artifact is another runner's"))
    }
}

#[async_trait::async_trait]
impl Executor for ProcessExecutor {
    async fn execute(&self, job: Job) -> Result<Executed, Error> {
        let metered = job.metered();
        let pool = self.pool(&job.artifact, metered)?;
        let stale = {
            let loader = self.loader.clone();
            let artifact = job.artifact.clone();
            move |refused| loader.recompile(&artifact, metered, refused)
        };
        attempt::run(&pool, job, stale).await
    }

    fn prepare(&self, artifact: &Artifact, metered: bool) -> Result<(), Error> {
        self.pool(artifact, metered).map(drop)
    }

    fn close(&self) {
        self.loader.close();
        let pools = std::mem::take(&mut *self.pools.lock().unwrap_or_else(PoisonError::into_inner));
        for pool in pools.iter().filter_map(Weak::upgrade) {
            pool.close();
        }
        self.spawner.close();
    }
}
