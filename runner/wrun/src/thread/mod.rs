//! Thread mode: tasks on the threads of this process, sharing one engine per
//! kind of code. Slots of a pool, mapped once, make a fresh sandbox cost
//! microseconds.
//!
//! May use `sandbox`; does not depend on processes. Invariant: a task that does not fit the
//! pool runs on the on-demand engine instead, so that this mode accepts every task that
//! process mode accepts.

use std::sync::{Arc, OnceLock};
use tracing::Instrument as _;
use wasmtime::Engine;
use wrun_sandbox::Budgets;
use wrun_sandbox::executor::{Executed, Executor, Job, Runnable};
use wrun_sandbox::port::Transport;
use wrun_sandbox::region::Ledger;
use wrun_sandbox::token::Token;
use wrun_sandbox::{
    self, Allocation, Artifact, Checks, EngineError, Granted, Kind, Loader, OnThread, Ports,
    PrepareError, Prepared, Run, RunError, RunResult, Source, TaskContext,
};
use wrun_sys::preempt::{TrapSite, handle_interrupts};
use wrun_types::config::{Mode, Preemption};
use wrun_types::error::Error;

pub(crate) struct ThreadExecutor {
    loader: Arc<Loader>,
    slots: usize,
    /// What guests without checks are ended with.
    trap_site: Option<&'static TrapSite>,
    pools: [OnceLock<Engine>; 4],
    on_demand: [OnceLock<Engine>; Kind::COUNT],
    transport: Transport,
    ledger: Arc<Ledger>,
}

impl ThreadExecutor {
    /// # Errors
    ///
    /// Guests cannot be preempted by a signal.
    pub(crate) fn new(
        loader: Arc<Loader>,
        slots: usize,
        preemption: Preemption,
        ledger: Arc<Ledger>,
    ) -> Result<Self, EngineError> {
        let trap_site = match preemption {
            Preemption::Epoch => None,
            Preemption::Signal => {
                handle_interrupts().map_err(EngineError::Interrupts)?;
                Some(wrun_sandbox::trap_site()?)
            }
        };
        Ok(ThreadExecutor {
            loader,
            slots,
            trap_site,
            pools: [const { OnceLock::new() }; 4],
            on_demand: [const { OnceLock::new() }; Kind::COUNT],
            transport: Transport::queue(),
            ledger,
        })
    }

    fn pool(&self, checks: Checks) -> Result<&Engine, EngineError> {
        let allocation = Allocation::Pool { slots: self.slots };
        let kind = Kind {
            checks,
            wide: false,
        };
        let Checks { metered, epochs } = checks;
        let pool = &self.pools[usize::from(metered) + 2 * usize::from(epochs)];
        engine(pool, kind, allocation)
    }

    fn on_demand(&self, kind: Kind) -> Result<&Engine, EngineError> {
        engine(&self.on_demand[kind.index()], kind, Allocation::OnDemand)
    }

    fn link(&self, artifact: &Artifact, metered: bool) -> Result<Prepared, Error> {
        let code = self.loader.code(artifact, metered)?;
        // If the pool cannot be mapped (because of a limit on address space, for example) or
        // refuses the artifact's shape, the task still runs.
        if code.meta.fits_a_pool()
            && let Ok(pool) = self.pool(code.meta.checks)
            && let Ok(prepared) = Prepared::new(pool, &code, self.trap_site)
        {
            return Ok(prepared);
        }
        let engine = self.on_demand(code.meta.kind())?;
        match Prepared::new(engine, &code, self.trap_site) {
            Ok(prepared) => Ok(prepared),
            // Code cached by another machine: compile it for this one.
            Err(PrepareError::Code(refused)) => {
                crate::trace::refused(artifact, &refused);
                let code = self.loader.recompile(artifact, metered, refused)?;
                Ok(Prepared::new(engine, &code, self.trap_site)?)
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
                prepared: Arc::new(self.link(artifact, metered)?),
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
pub(crate) struct Linked {
    prepared: Arc<Prepared>,
    transport: Transport,
}

#[async_trait::async_trait]
impl Runnable for Linked {
    async fn execute(&self, job: Box<Job>) -> Result<Executed, Error> {
        self.execute_here(job).await
    }

    fn observes_cancellation(&self) -> bool {
        self.prepared.observes_cancellation()
    }
}

impl Linked {
    /// [`Runnable::execute`] without a box for its future.
    pub(crate) async fn execute_here(&self, job: Box<Job>) -> Result<Executed, Error> {
        crate::trace::started(job.attempt);
        let (kill, alone) = (job.kill.clone(), job.alone);
        let transport = self.transport.of_a_task();
        let result = match self.prepared.keeps_its_thread() && !alone {
            // In a box: the others should not have the room for it.
            true => {
                let prepared = self.prepared.clone();
                let running = async move { run(&prepared, transport, job).await };
                Box::pin(elsewhere(running, kill)).await?
            }
            false => run(&self.prepared, transport, job).await?,
        };
        Ok(Executed::new(result))
    }
}

async fn run(
    prepared: &Prepared,
    transport: Transport,
    job: Box<Job>,
) -> Result<RunResult, RunError> {
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
            ports: Ports::new(transport, job.port),
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
    wrun_sandbox::run(prepared, run).await
}

/// Runs a guest that keeps its thread while it computes in a task of tokio's own: what is polled
/// beside it, such as the request that it stops, has a turn meanwhile.
async fn elsewhere(
    running: impl Future<Output = Result<RunResult, RunError>> + Send + 'static,
    kill: Token,
) -> Result<RunResult, Error> {
    // If nobody waits for it any more, it ends soon.
    let _ends = kill.drop_guard();
    match tokio::spawn(running.in_current_span()).await {
        Ok(result) => Ok(result?),
        // The runner is gone: panics of the host's code are errors of the run.
        Err(_) => Err(Error::shut_down()),
    }
}
