//! One run of one guest: a fresh store, its limits, its deadline, the call, and the result.
//! The same function in both modes; it does not know its caller.
//!
//! Invariant: after [`run`] returns, the store and everything of the guest is gone,
//! whatever the guest did, or the process is about to end. A store is used for one run.

use super::abi::bindings::TaskPre;
use super::budgets::Budgets;
use super::bulk::Offsets;
use super::code::{Code, CodeError};
use super::engine::Kind;
use super::epoch;
use super::host::TaskContext;
use super::host::{GrantError, Granted, Host, WasiUse};
use super::http::{Exchange, Handling, Over};
#[cfg(feature = "measure")]
use super::injecting::Injecting;
use super::input::{Source, SourceError};
use super::linker;
use super::load_error::LoadError;
use super::run_result::{MAX_FAILURE, MAX_MESSAGE, RunResult, truncate};
use super::sink::{OutputExceeded, Sink};
use super::source::{Shape, one_line};
use super::standard::Streams;
use super::steps;
use super::trapped::{is_the_systems, outcome_of};
use super::warm_instance::{self, Guest, WarmInstance};
use crate::deadline::{Deadline, until};
use crate::token::Token;
use bytes::Bytes;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio_util::either::Either;
use wasmtime::{Engine, InstancePre, Store};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p2::bindings::CommandPre;
#[cfg(feature = "http")]
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wrun_sys::preempt::{self, GuestCode, TrapSite};
use wrun_sys::{shortage, thread_cpu};
use wrun_types::error::{Error, ErrorKind};
use wrun_types::limits::{Limit, Limits};
use wrun_types::outcome::{Outcome, Output};
use wrun_types::spec::Spec;

/// A task linked against everything it imports, ready to be instantiated any
/// number of times.
pub struct Prepared {
    engine: Engine,
    entry: Entry,
    shape: Shape,
    kind: Kind,
    wasi: WasiUse,
    /// Whether it imports regions.
    regions: bool,
    observes_cancellation: bool,
    offsets: Offsets,
    guest_code: GuestCode,
    /// Number of linear memories that it will have; `None` if unknown.
    memories: Option<u32>,
}

pub(super) enum Entry {
    Task(TaskPre<Host>),
    Command(CommandPre<Host>),
    Module(InstancePre<Host>),
    #[cfg(feature = "http")]
    Http(ProxyPre<Host>),
}

/// Why code could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The engine does not accept the code.
    #[error(transparent)]
    Code(CodeError),
    /// The guest's types do not match those of its imports, or of the exports it must have.
    #[error("the task does not fit the world wrun:task/task: {0}")]
    Link(String),
}

impl From<PrepareError> for Error {
    fn from(error: PrepareError) -> Self {
        Error::of(ErrorKind::NotLoadable, error)
    }
}

impl Prepared {
    /// Links `code` on `engine`. Code without checks runs beside other tasks of its process only
    /// with a `trap_site`.
    pub fn new(
        engine: &Engine,
        code: &Code,
        trap_site: Option<&TrapSite>,
    ) -> Result<Self, PrepareError> {
        let link = |error: wasmtime::Error| PrepareError::Link(one_line(&format!("{error:#}")));
        let shape = code.meta.shape;
        let (memories, guest_code, wasi);
        let entry = match shape {
            Shape::CommandModule => {
                let module = code.module(engine).map_err(PrepareError::Code)?;
                wasi = WasiUse::Modules;
                memories = Some(module.resources_required().num_memories);
                guest_code = match trap_site {
                    Some(site) => GuestCode::of_module_with(&module, site),
                    None => GuestCode::of_module(&module),
                };
                let fits = module
                    .get_export("_start")
                    .and_then(|start| start.func().cloned())
                    .is_some_and(|ty| ty.params().len() + ty.results().len() == 0);
                if !fits {
                    return Err(PrepareError::Link(
                        "_start must be a function that takes and returns nothing".into(),
                    ));
                }
                let linker = linker::module(engine).map_err(link)?;
                Entry::Module(linker.instantiate_pre(&module).map_err(link)?)
            }
            Shape::HttpComponent if !cfg!(feature = "http") => {
                return Err(PrepareError::Link(LoadError::NoHttp.to_string()));
            }
            Shape::Component
            | Shape::CoreModule
            | Shape::CommandComponent
            | Shape::HttpComponent => {
                let component = code.component(engine).map_err(PrepareError::Code)?;
                wasi = linker::wasi_use(engine, &component);
                memories = component.resources_required().map(|it| it.num_memories);
                guest_code = match trap_site {
                    Some(site) => GuestCode::of_component_with(&component, site),
                    None => GuestCode::of_component(&component),
                };
                let linker = linker::component(engine, &component, code.meta.regions);
                let pre = linker.and_then(|linker| linker.instantiate_pre(&component));
                let pre = pre.map_err(link)?;
                match shape {
                    Shape::CommandComponent => CommandPre::new(pre).map(Entry::Command),
                    #[cfg(feature = "http")]
                    Shape::HttpComponent => ProxyPre::new(pre).map(Entry::Http),
                    _ => TaskPre::new(pre).map(Entry::Task),
                }
                .map_err(link)?
            }
        };
        Ok(Prepared {
            engine: engine.clone(),
            entry,
            shape,
            kind: code.meta.kind(),
            wasi,
            regions: code.meta.regions,
            observes_cancellation: code.meta.observes_cancellation,
            offsets: code.meta.offsets.clone(),
            guest_code,
            memories,
        })
    }

    /// Maximum of address space that one run reserves, beyond what it uses, in bytes.
    pub fn reserved(&self, limits: &Limits) -> Option<u64> {
        // A pool has reserved all that its guests can have.
        if self.engine.pooling_allocator_metrics().is_some() {
            return Some(limits.max_memory);
        }
        // One more for a heap of the collector.
        let memories = u64::from(self.memories?).saturating_add(1);
        let reserved = memories.saturating_mul(self.kind.reservation());
        Some(reserved.saturating_add(limits.max_memory))
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether a poll of a run that shares its thread lasts as long as the guest computes, because
    /// its code checks nothing.
    pub fn keeps_its_thread(&self) -> bool {
        !self.kind.checks.epochs
    }

    /// Whether it can observe cancellation.
    pub fn observes_cancellation(&self) -> bool {
        self.observes_cancellation
    }

    pub(super) fn entry(&self) -> &Entry {
        &self.entry
    }

    pub(super) fn wasi(&self) -> WasiUse {
        self.wasi
    }

    /// An empty store for it.
    pub(super) fn store(&self, host: Host) -> wasmtime::Result<Store<Host>> {
        let mut store = Store::try_new(&self.engine, host)?;
        // Only regions are the runner's to count; waiting for its answer costs a little each time.
        match self.regions {
            true => store.limiter_async(|host| &mut host.limiter),
            false => store.limiter(|host| &mut host.limiter),
        }
        Ok(store)
    }
}

/// How a run may use its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnThread {
    /// Other tasks need it: no call may block it.
    Shared,
    /// It has no other work: file calls may block it.
    Own,
    /// As [`OnThread::Own`], and the process ends with this run: the guest's memory, except
    /// for regions, is left to the kernel, which frees it all at once.
    OwnAndLast,
    /// As [`OnThread::Own`], and the first instruction of the guest ends the run: code and
    /// memory are touched for the first time before a real run waits for it.
    WarmUp,
}

/// The arguments of one run.
pub struct Run<'a> {
    pub spec: &'a Spec,
    pub context: TaskContext,
    /// How granted directories are opened.
    pub granted: Granted<'a>,
    pub stdin: Source,
    pub stdout: Sink,
    pub stderr: Sink,
    /// What a guest that speaks HTTP answers.
    pub exchange: Option<Box<Exchange>>,
    /// Ends the run at once.
    pub kill: Token,
    pub thread: OnThread,
    /// Made from the same task file, on the same engine.
    pub warm: Option<WarmInstance>,
}

/// The host could not run the guest; the guest did not cause it.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error("cannot make a sandbox: {0}")]
    Sandbox(String),
    #[error("cannot read the input: {0}")]
    Input(std::io::Error),
    #[error("the host failed in a call of the task; this is a bug of wrun: {0}")]
    Panicked(String),
}

impl From<RunError> for Error {
    fn from(error: RunError) -> Self {
        let kind = match &error {
            RunError::Grant(_) => ErrorKind::InvalidTask,
            RunError::Sandbox(_) | RunError::Input(_) | RunError::Panicked(_) => ErrorKind::System,
        };
        shortage::error(kind, error)
    }
}

/// Runs `prepared` once. A panic of the host's code is only an error of this run: the
/// guest's resources are freed, as after every run.
pub fn run(
    prepared: &Prepared,
    run: Run<'_>,
) -> impl Future<Output = Result<RunResult, RunError>> + Send {
    Guarded {
        running: run_once(prepared, run),
    }
}

pin_project_lite::pin_project! {
    /// A run whose panics are its errors. An asynchronous function around it would have a second
    /// copy of the arguments, which every task would have to move.
    struct Guarded<F> {
        #[pin]
        running: F,
    }
}

impl<F: Future<Output = Result<RunResult, RunError>>> Future for Guarded<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let running = self.project().running;
        let polled = catch_unwind(AssertUnwindSafe(|| running.poll(cx)));
        polled.unwrap_or_else(|panic| Poll::Ready(Err(RunError::Panicked(words_of(&*panic)))))
    }
}

/// The message of a panic.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
    let mut words = one_line(words.unwrap_or("it does not say why"));
    truncate(&mut words, MAX_MESSAGE);
    words
}

async fn run_once(prepared: &Prepared, run: Run<'_>) -> Result<RunResult, RunError> {
    let began = Instant::now();
    let deadline = run.context.deadline;
    // For a task that returns its output, stdout is not its output.
    let mut terminals = run.spec.terminals;
    let printed = if prepared.shape.prints_output() {
        &run.stdout
    } else {
        terminals.stdout = terminals.stderr;
        &run.stderr
    };
    #[cfg(feature = "measure")]
    let acting = match &run.spec.injection {
        Some(act) if run.thread != OnThread::WarmUp => Some(Injecting::new(act, &run.context)),
        _ => None,
    };
    let mut host = Host::new(
        run.spec,
        prepared.wasi(),
        run.thread != OnThread::Shared,
        Streams {
            stdin: &run.stdin,
            stdout: printed,
            stderr: &run.stderr,
            terminals,
        },
        run.context,
        run.granted,
    )?;
    let fuel = run.spec.limits.fuel;
    let sandbox = |error: wasmtime::Error| RunError::Sandbox(format!("{error:#}"));
    let (mut store, guest) = match run.warm.filter(|warm| warm.fits(&mut host)) {
        Some(warm) => {
            let (store, guest) = warm.given_to(host);
            (store, Some(guest))
        }
        None => (prepared.store(host).map_err(sandbox)?, None),
    };
    if prepared.kind.checks.metered {
        store.set_fuel(fuel.unwrap_or(u64::MAX)).map_err(sandbox)?;
    }
    let captured = run.stdout.is_capture();
    let budget = run
        .spec
        .limits
        .host_call(prepared.shape, captured, prepared.regions);
    store.set_hostcall_fuel(usize::try_from(budget).unwrap_or(usize::MAX));
    match run.thread {
        OnThread::Shared if !prepared.keeps_its_thread() => {
            store.set_epoch_deadline(1);
            store.epoch_deadline_async_yield_and_update(1);
        }
        OnThread::Shared => steps::note_sides(&mut store),
        OnThread::WarmUp => warm_instance::keep_out(&mut store),
        OnThread::Own | OnThread::OwnAndLast => {
            // No epoch passes here.
            store.set_epoch_deadline(1);
            steps::note_sides(&mut store);
        }
    }

    #[cfg(not(feature = "measure"))]
    if run.spec.injection.is_some() {
        let why = "this program does no harm on order".to_owned();
        return Ok(RunResult::imposed(Outcome::Failed(why)));
    }
    #[cfg(feature = "measure")]
    if let Some(acting) = acting {
        return Ok(RunResult::imposed(acting.done(&run.kill).await));
    }
    // The tests' own build: the host misbehaves in the guest's place.
    #[cfg(feature = "test-hooks")]
    if let Some(request) = run.spec.probe().filter(|_| run.thread != OnThread::WarmUp) {
        return Ok(RunResult::imposed(Outcome::Failed(wrun_sys::probe(
            request,
        ))));
    }

    let mut handling = run.exchange.map(|exchange| {
        let limits = &run.spec.limits;
        Handling::new(*exchange, limits.max_input, limits.max_output)
    });
    let over = handling.as_ref().map(Handling::over);

    let started = OnceLock::new();
    let mut cpu = Duration::ZERO;
    let mut polled_last = None;
    let ended = if deadline.is_some_and(Deadline::has_passed) {
        Ended::Limit(Limit::Deadline)
    } else {
        // Made where it stays: what is left inside of a guest must own it, and moving takes room.
        let call = || {
            call(
                prepared,
                &mut store,
                guest,
                &run.stdin,
                &run.stdout,
                &mut handling,
                &started,
            )
        };
        let code = prepared.guest_code.clone();
        let signals = run.thread == OnThread::Shared && prepared.keeps_its_thread();
        let must_end = || match (&run.kill, deadline, &over) {
            (kill, _, _) if kill.is_cancelled() => Some(Ended::Killed),
            (_, Some(deadline), _) if deadline.has_passed() => Some(Ended::Limit(Limit::Deadline)),
            (_, _, over) => over.as_ref().and_then(Over::limit).map(Ended::Limit),
        };
        let mut call = std::pin::pin!(match run.thread {
            OnThread::Shared if signals => Either::Left(steps::staying(call(), code, must_end)),
            OnThread::Shared | OnThread::WarmUp => Either::Right(Either::Left(call())),
            OnThread::Own | OnThread::OwnAndLast => {
                Either::Right(Either::Right(steps::giving_way(call(), code)))
            }
        });
        // CPU time of the threads that poll the guest, while they do, without that of reading
        // its input before it starts.
        let call = std::future::poll_fn(|cx| {
            let _running = epoch::Running::new(signals);
            let before = started.get().map(|_| thread_cpu(Instant::now()));
            let polled = call.as_mut().poll(cx);
            let before = before.or(started.get().map(|started| started.cpu));
            if let Some(before) = before {
                let now = Instant::now();
                polled_last = Some(now);
                cpu += thread_cpu(now).saturating_sub(before);
            }
            polled
        });
        // The guest first: a task that never waits does not set a timer.
        tokio::select! {
            biased;
            ended = call => ended,
            () = run.kill.cancelled() => Ended::Killed,
            () = until(deadline) => Ended::Limit(Limit::Deadline),
            limit = exceeded(over.as_ref()) => Ended::Limit(limit),
        }
    };
    let finished = match ended {
        Ended::Done(_) => polled_last.unwrap_or_else(Instant::now),
        _ => Instant::now(),
    };
    let started = started.get().map_or(finished, |started| started.at);

    let growth_refused = store.data().limiter.refused();
    let outcome = match ended {
        Ended::Host(error) => return Err(error),
        Ended::Killed => Outcome::Cancelled,
        Ended::Limit(limit) => Outcome::LimitExceeded(limit),
        _ if run.stdout.exceeded() || run.stderr.exceeded() => {
            Outcome::LimitExceeded(Limit::Output)
        }
        _ if run.stdin.exceeded().is_some() => Outcome::LimitExceeded(Limit::Input),
        _ if let Some(limit) = over.as_ref().and_then(Over::limit) => Outcome::LimitExceeded(limit),
        Ended::Done(outcome) => match (outcome, store.data().limiter.refused_by()) {
            (Outcome::Trapped(_), Some(limit)) => Outcome::LimitExceeded(limit),
            (other, _) => other,
        },
    };
    let result = RunResult {
        outcome,
        start: started.duration_since(began),
        run: finished.duration_since(started),
        cpu: Some(cpu),
        peak_memory: Some(store.data().limiter.peak_memory()),
        fuel: fuel.and_then(|given| Some(given.saturating_sub(store.get_fuel().ok()?))),
        growth_refused,
        denied: store.data().denials.take(),
    };
    // Regions are freed before the task is reported to have ended: otherwise others may be
    // refused for lack of room.
    let last = run.thread == OnThread::OwnAndLast && !store.data().limiter.has_regions();
    // A guest that was left inside may be in the middle of anything.
    if last || preempt::has_abandoned() {
        std::mem::forget(store);
    }
    Ok(result)
}

/// Waits until a body is too long.
async fn exceeded(over: Option<&Over>) -> Limit {
    match over {
        Some(over) => over.exceeded().await,
        None => std::future::pending().await,
    }
}

/// When a guest starts, by the clock and by its thread's processor time.
struct Started {
    at: Instant,
    cpu: Duration,
}

/// How the call, or the wait for it, ended.
pub(super) enum Ended {
    Done(Outcome),
    Limit(Limit),
    Killed,
    Host(RunError),
}

async fn call(
    prepared: &Prepared,
    store: &mut Store<Host>,
    guest: Option<Guest>,
    stdin: &Source,
    stdout: &Sink,
    handling: &mut Option<Handling>,
    started: &OnceLock<Started>,
) -> Ended {
    #[cfg(not(feature = "http"))]
    let _ = handling;
    let input = match &prepared.entry {
        Entry::Task(_) => match stdin.read_to_end().await {
            Ok(input) => input,
            Err(SourceError::Exceeded) => return Ended::Limit(Limit::Input),
            Err(SourceError::Read(error)) => return Ended::Host(RunError::Input(error)),
        },
        _ => Bytes::new(),
    };
    // Start functions are guest code.
    let now = Instant::now();
    let _ = started.set(Started {
        at: now,
        cpu: thread_cpu(now),
    });
    let guest = match guest {
        Some(guest) => guest,
        None => match prepared.entry.instantiate(store).await {
            Ok(guest) => guest,
            Err(error) => return not_instantiated(&error, store, prepared),
        },
    };
    let result = match guest {
        Guest::Task(task) => match task.call_run(&mut *store, &input).await {
            Ok(Ok(output)) => {
                if !stdout.put(output.into()).await && stdout.exceeded() {
                    return Ended::Limit(Limit::Output);
                }
                Ok(Outcome::Completed(Output::default()))
            }
            Ok(Err(mut message)) => {
                truncate(&mut message, MAX_FAILURE);
                Ok(Outcome::Failed(message))
            }
            Err(error) => Err(error),
        },
        Guest::Command(command) => {
            command
                .wasi_cli_run()
                .call_run(&mut *store)
                .await
                .map(|result| match result {
                    Ok(()) => Outcome::Completed(Output::default()),
                    Err(()) => Outcome::Exited(1),
                })
        }
        Guest::Module(instance) => match instance.get_typed_func::<(), ()>(&mut *store, "_start") {
            Ok(start) => start
                .call_async(&mut *store, ())
                .await
                .map(|()| Outcome::Completed(Output::default())),
            Err(error) => Err(error),
        },
        #[cfg(feature = "http")]
        Guest::Http(proxy) => match handling {
            Some(handling) => handling.call(&proxy, store).await,
            None => Ok(Outcome::Failed(
                "it answers HTTP requests, and was given none".to_owned(),
            )),
        },
    };
    match result {
        Ok(ending) => Ended::Done(ending),
        // A stack, for example, that the system does not provide.
        Err(error) if is_the_systems(&error) => {
            Ended::Host(RunError::Sandbox(one_line(&format!("{error:#}"))))
        }
        Err(error) => Ended::Done(outcome_of(&error, &prepared.offsets)),
    }
}

/// Distinguishes a guest that cannot start from a host that cannot start it.
fn not_instantiated(error: &wasmtime::Error, store: &Store<Host>, prepared: &Prepared) -> Ended {
    if error.is::<wasmtime::Trap>() || error.is::<I32Exit>() || error.is::<OutputExceeded>() {
        return Ended::Done(outcome_of(error, &prepared.offsets));
    }
    if let Some(limit) = store.data().limiter.refused_by() {
        return Ended::Limit(limit);
    }
    // It failed in guest code: a start function that threw, or misused a call.
    if error.is::<wasmtime::WasmBacktrace>() {
        return Ended::Done(outcome_of(error, &prepared.offsets));
    }
    let message = one_line(&format!("{error:#}"));
    // wasmtime has no error type for this.
    if message.contains("resource limit exceeded") {
        return Ended::Limit(Limit::Instances);
    }
    Ended::Host(RunError::Sandbox(message))
}
