//! Thread mode: tasks on the threads of this process, sharing one engine per
//! kind of code. Slots of a pool, mapped once, make a fresh sandbox cost
//! microseconds.
//!
//! May use `sandbox`; knows no processes. Invariant: what does not fit the pool
//! runs on the on-demand engine instead, so that this mode accepts every task
//! that process mode accepts.

use std::any::Any;
use std::sync::{Arc, OnceLock};
use wasmtime::Engine;
use wrun_sandbox::Budgets;
use wrun_sandbox::executor::{Executed, Executor, Job};
use wrun_sandbox::port::Transport;
use wrun_sandbox::region::Ledger;
use wrun_sandbox::{
    self, Allocation, Artifact, EngineError, Granted, Kind, Loader, Ports, PrepareError, Prepared,
    Run, Source, TaskContext,
};
use wrun_types::config::Mode;
use wrun_types::error::{Error, ErrorKind};

pub(crate) struct ThreadExecutor {
    loader: Arc<Loader>,
    slots: usize,
    pools: [OnceLock<Engine>; 2],
    on_demand: [OnceLock<Engine>; Kind::COUNT],
    transport: Transport,
    ledger: Arc<Ledger>,
}

impl ThreadExecutor {
    pub(crate) fn new(loader: Arc<Loader>, slots: usize, ledger: Arc<Ledger>) -> Self {
        ThreadExecutor {
            loader,
            slots,
            pools: [OnceLock::new(), OnceLock::new()],
            on_demand: [const { OnceLock::new() }; Kind::COUNT],
            transport: Transport::queue(),
            ledger,
        }
    }

    fn pool(&self, metered: bool) -> Result<&Engine, EngineError> {
        let allocation = Allocation::Pool { slots: self.slots };
        let kind = Kind {
            metered,
            wide: false,
        };
        engine(&self.pools[usize::from(metered)], kind, allocation)
    }

    fn on_demand(&self, kind: Kind) -> Result<&Engine, EngineError> {
        engine(&self.on_demand[kind.index()], kind, Allocation::OnDemand)
    }

    fn link(&self, artifact: &Artifact, metered: bool) -> Result<Arc<Prepared>, Error> {
        let any = match artifact.prepared(metered) {
            Some(any) => any,
            None => {
                artifact.prepare(metered, || -> Result<Arc<dyn Any + Send + Sync>, Error> {
                    Ok(Arc::new(self.link_new(artifact, metered)?))
                })?
            }
        };
        any.downcast::<Prepared>().map_err(|_| {
            Error::new(
                ErrorKind::InvalidTask,
                "the artifact was loaded by another runner",
            )
        })
    }

    fn link_new(&self, artifact: &Artifact, metered: bool) -> Result<Prepared, Error> {
        let code = self.loader.code(artifact, metered)?;
        // A pool that cannot be mapped (a limit on address space, say) or that
        // refuses the artifact's shape is no reason to refuse the task.
        if code.meta.fits_a_pool()
            && let Ok(pool) = self.pool(metered)
            && let Ok(prepared) = Prepared::new(pool, &code)
        {
            return Ok(prepared);
        }
        let engine = self.on_demand(code.meta.kind())?;
        match Prepared::new(engine, &code) {
            Ok(prepared) => Ok(prepared),
            // Cached code of another machine: compile it for this one.
            Err(PrepareError::Code(refused)) => {
                crate::trace::refused(artifact, &refused);
                let code = self.loader.recompile(artifact, metered, refused)?;
                Ok(Prepared::new(engine, &code)?)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn engine(
    slot: &OnceLock<Engine>,
    kind: Kind,
    allocation: Allocation,
) -> Result<&Engine, EngineError> {
    match slot.get() {
        Some(engine) => Ok(engine),
        None => {
            let engine = wrun_sandbox::runtime(kind, allocation)?;
            Ok(slot.get_or_init(|| engine))
        }
    }
}

#[async_trait::async_trait]
impl Executor for ThreadExecutor {
    async fn execute(&self, job: Job) -> Result<Executed, Error> {
        let prepared = self.link(&job.artifact, job.metered())?;
        crate::trace::started(job.attempt);
        let budget = job.spec.limits.input_budget(prepared.shape());
        let run = Run {
            spec: &job.spec,
            context: TaskContext {
                task_id: job.task_id,
                attempt: job.attempt,
                mode: Mode::Thread,
                name: job.spec.name.clone(),
                deadline: job.deadline,
                cancel: job.cancel,
                progress: job.progress,
                ports: Ports::new(self.transport.of_a_task(), job.port),
                services: job.services,
            },
            granted: Granted::ByPath,
            stdin: Source::new(job.stdin, budget),
            stdout: job.stdout,
            stderr: job.stderr,
            kill: job.kill,
            blocking: false,
            rehearsal: false,
            left_to_the_kernel: false,
            ahead: None,
        };
        let fate = wrun_sandbox::run(&prepared, run).await?;
        Ok(Executed::new(Ok(fate)))
    }

    fn prepare(&self, artifact: &Artifact, metered: bool) -> Result<(), Error> {
        self.link(artifact, metered).map(drop)
    }

    fn listens(&self, artifact: &Artifact, metered: bool) -> bool {
        let prepared = artifact.prepared(metered);
        let prepared = prepared.and_then(|any| any.downcast::<Prepared>().ok());
        prepared.is_some_and(|prepared| prepared.listens())
    }

    fn transport(&self) -> &Transport {
        &self.transport
    }

    fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    fn close(&self) {
        self.loader.close();
    }
}
