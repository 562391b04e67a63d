//! Thread mode: tasks on the threads of this process, sharing one engine per
//! kind of code. Slots of a pool, mapped once, make a fresh sandbox cost
//! microseconds.
//!
//! May use `sandbox`; does not depend on processes. Invariant: a task that does not fit the
//! pool runs on the on-demand engine instead, so that this mode accepts every task that
//! process mode accepts.

use std::sync::{Arc, OnceLock};
use wasmtime::Engine;
use wrun_sandbox::Budgets;
use wrun_sandbox::executor::{Executed, Executor, Job, Runnable};
use wrun_sandbox::port::Transport;
use wrun_sandbox::region::Ledger;
use wrun_sandbox::{
    self, Allocation, Artifact, Checks, EngineError, Granted, Kind, Loader, OnThread, Ports,
    PrepareError, Prepared, Run, Source, TaskContext,
};
use wrun_types::config::Mode;
use wrun_types::error::Error;

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
            checks: Checks {
                metered,
                epochs: true,
            },
            wide: false,
        };
        engine(&self.pools[usize::from(metered)], kind, allocation)
    }

    fn on_demand(&self, kind: Kind) -> Result<&Engine, EngineError> {
        engine(&self.on_demand[kind.index()], kind, Allocation::OnDemand)
    }

    fn link(&self, artifact: &Artifact, metered: bool) -> Result<Prepared, Error> {
        let code = self.loader.code(artifact, metered)?;
        // If the pool cannot be mapped (because of a limit on address space, for example) or
        // refuses the artifact's shape, the task still runs.
        if code.meta.fits_a_pool()
            && let Ok(pool) = self.pool(metered)
            && let Ok(prepared) = Prepared::new(pool, &code)
        {
            return Ok(prepared);
        }
        let engine = self.on_demand(code.meta.kind())?;
        match Prepared::new(engine, &code) {
            Ok(prepared) => Ok(prepared),
            // Code cached by another machine: compile it for this one.
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

impl Executor for ThreadExecutor {
    fn prepare(&self, artifact: &Artifact, metered: bool) -> Result<Arc<dyn Runnable>, Error> {
        artifact.prepare(metered, || {
            Ok(Arc::new(Linked {
                prepared: self.link(artifact, metered)?,
                transport: self.transport.clone(),
            }) as _)
        })
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

/// An artifact that is linked to an engine of this process.
struct Linked {
    prepared: Prepared,
    transport: Transport,
}

#[async_trait::async_trait]
impl Runnable for Linked {
    async fn execute(&self, job: Job) -> Result<Executed, Error> {
        let prepared = &self.prepared;
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
            exchange: job.exchange,
            kill: job.kill,
            thread: OnThread::Shared,
            warm: None,
        };
        Ok(Executed::new(wrun_sandbox::run(prepared, run).await?))
    }

    fn observes_cancellation(&self) -> bool {
        self.prepared.observes_cancellation()
    }
}
