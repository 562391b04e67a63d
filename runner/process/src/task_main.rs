//! A worker behind its walls: takes orders from its socket, runs them with the same
//! function as thread mode, and reports the results.
//!
//! One thread, one task at a time. Invariant: the walls are made tight for a task before
//! any of its guest's code runs.

mod events;
mod given;
mod outputs;
mod running;

use super::channel::{ChannelError, Receiver, Sender, split};
use super::http::{Answering, Fetching};
use super::requests::Requester;
use crate::jail::{Sealed, TaskWalls};
use crate::wire::{Done, Order, RunOrder, Spare, WorkerSays};
use bytes::Bytes;
use events::{GuestEvents, input_of};
use given::Given;
use outputs::Outputs;
use running::Running;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use wrun_sandbox::Budgets;
use wrun_sandbox::InputKind;
use wrun_sandbox::deadline::Deadline;
use wrun_sandbox::port::{Transport, in_turns};
use wrun_sandbox::token::Token;
use wrun_sandbox::{
    self, Granted, OnThread, Ports, Prepared, Run, RunError, RunResult, Sink, Source, TaskContext,
    WarmInstance,
};
use wrun_sys::preempt;
use wrun_types::config::Mode;
use wrun_types::limits::Limits;
use wrun_types::report::Usage;
use wrun_types::spec::Spec;

/// Executes an order up to the guest's first instruction: a fresh process spends most of a
/// small task on touching pages for the first time. Then it makes the sandbox of the first
/// task, or of every child's.
pub(super) fn warm_up_alone(prepared: &Prepared) -> io::Result<Option<WarmInstance>> {
    // Without I/O: a reactor's descriptors would be shared with every child.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    Ok(runtime.block_on(async {
        warm_up(prepared).await;
        WarmInstance::new(prepared, no_context()).await
    }))
}

/// For a guest that never runs.
fn no_context() -> TaskContext {
    TaskContext::of_nobody(Mode::Process, Transport::Socket)
}

async fn warm_up(prepared: &Prepared) {
    let spec = Spec::warm_up();
    let run = Run {
        spec: &spec,
        context: no_context(),
        granted: Granted::ByPath,
        stdin: Source::new(InputKind::Bytes(Bytes::from_static(b"warm-up")), None),
        stdout: Sink::capture(0),
        stderr: Sink::capture(0),
        exchange: wrun_sandbox::http::Exchange::of_warm_up().map(Box::new),
        kill: Token::new(),
        thread: OnThread::WarmUp,
        warm: None,
    };
    // The result does not matter.
    let _ = in_turns(wrun_sandbox::run(prepared, run)).await;
}

/// Serves a runner at the other end of `socket`: this many tasks, or until it closes its
/// end. A `spare` warms up while its order has not arrived, and sets up its walls. `warm`
/// is the first task's sandbox.
pub(super) fn serve(
    prepared: &Prepared,
    sealed: &Sealed,
    socket: OwnedFd,
    tasks: u32,
    spare: Option<Spare>,
    warm: Option<WarmInstance>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .event_interval(1)
        .build()?;
    runtime.block_on(async {
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        let (orders, says) = split(socket);
        let mut worker = Worker {
            prepared,
            sealed,
            orders,
            says,
            tight: false,
            used: Usage::default(),
            warm,
        };
        let waits = spare.is_some();
        if !waits {
            // Its order has usually arrived.
            worker.orders.look();
        }
        if let Some(spare) = spare {
            if !worker.orders.is_readable() {
                warm_up(prepared).await;
            }
            if sealed.fits_any_task() {
                let tight = worker.tighten(spare.memory, &spare.limits, &[], &[]);
                tight.map_err(io::Error::other)?;
            }
        }
        let tasks = tasks.max(1);
        for task in 1..=tasks {
            if preempt::has_abandoned() {
                break;
            }
            loop {
                match worker.next().await? {
                    Some(Order::Run(order)) => {
                        break worker.run(*order, task == tasks).await?;
                    }
                    // For a task that was done before it came.
                    Some(
                        Order::Cancel
                        | Order::InputFailed(_)
                        | Order::Response { .. }
                        | Order::Fetched { .. }
                        | Order::Http { .. },
                    ) => {}
                    // The runner does not need this worker after all.
                    None => return Ok(()),
                }
            }
        }
        // Its messages are on their way: the receiver must not wait for a processor that frees
        // memory.
        while waits && worker.next().await?.is_some() {}
        // The rest is freed by the kernel, which is faster.
        wrun_sys::exit_now(0)
    })
}

struct Worker<'a> {
    prepared: &'a Prepared,
    sealed: &'a Sealed,
    orders: Receiver,
    says: Sender,
    /// Whether the walls are as tight as possible.
    tight: bool,
    /// What this process used for tasks before this one.
    used: Usage,
    /// The next task's sandbox, if it is made already.
    warm: Option<WarmInstance>,
}

impl Worker<'_> {
    /// The next order; `None` if the runner closed its end. Cancel safe.
    async fn next(&mut self) -> io::Result<Option<Order>> {
        match self.orders.next_with_descriptors().await {
            Ok(order) => Ok(Some(order)),
            Err(ChannelError::Closed) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Makes the walls tight for the first task; later ones have no grants.
    fn tighten_for(&mut self, spec: &Spec, dirs: &[OwnedFd]) -> Result<(), String> {
        let dirs: Vec<_> = dirs
            .iter()
            .zip(&spec.dirs)
            .map(|(dir, grant)| (dir.as_fd(), grant.read_only))
            .collect();
        let tcp_ports: Vec<_> = spec
            .tcp
            .iter()
            .flat_map(|grant| grant.addresses.iter().map(|address| address.port()))
            .collect();
        let memory = crate::memory_of_a_process(spec);
        self.tighten(memory, &spec.limits, &dirs, &tcp_ports)
    }

    fn tighten(
        &mut self,
        memory: u64,
        limits: &Limits,
        dirs: &[(BorrowedFd<'_>, bool)],
        tcp_ports: &[u16],
    ) -> Result<(), String> {
        if self.tight {
            return Ok(());
        }
        let walls = TaskWalls {
            dirs,
            tcp_ports,
            memory,
            reserved: self.prepared.reserved(limits),
            cpu: None,
        };
        self.tight = true;
        self.sealed
            .tighten(&walls)
            .map_err(|error| format!("cannot tighten the jail: {error}"))
    }

    async fn run(&mut self, order: RunOrder, last: bool) -> io::Result<()> {
        let descriptors = self.orders.take(order.descriptors())?;
        let Given {
            stdin,
            stdout,
            stderr,
            dirs,
            port,
        } = Given::new(&order, descriptors)?;
        if let Err(message) = self.tighten_for(&order.spec, &dirs) {
            let grant = false;
            return self.say(&WorkerSays::Failed { message, grant }).await;
        }

        let shape = self.prepared.shape();
        let mut outputs = Outputs::new(&order, shape.prints_output(), stdout, stderr)?;
        let events = Arc::new(GuestEvents::default());
        let input = input_of(order.input, stdin, &events)?;
        let (services, mut requester) = Requester::new();
        let (exchange, mut answering) = match order.request.map(Answering::new).transpose() {
            Ok(both) => both
                .map(|(exchange, answering)| (Box::new(exchange), answering))
                .unzip(),
            Err(why) => return Err(io::Error::other(why)),
        };
        let cancel = Token::new();
        let noted = events.clone();
        let task = Run {
            spec: &order.spec,
            context: TaskContext {
                task_id: order.task_id,
                attempt: order.attempt,
                mode: Mode::Process,
                name: order.spec.name.clone(),
                deadline: order.remaining.and_then(Deadline::after),
                cancel: cancel.clone(),
                progress: Some(Arc::new(move |progress| noted.note(progress))),
                ports: Ports::new(Transport::Socket, port),
                services,
            },
            granted: Granted::Opened(&dirs),
            stdin: Source::new(input, order.spec.limits.input_budget(shape)),
            stdout: outputs.stdout.clone(),
            stderr: outputs.stderr.clone(),
            exchange,
            // To kill the task, a runner kills the process.
            kill: Token::new(),
            // The forwarding of a stream waits for its last sink to be dropped.
            thread: match last && outputs.has_framed_stderr() && !shape.prints_output() {
                true => OnThread::OwnAndLast,
                false => OnThread::Own,
            },
            warm: self.warm.take(),
        };
        let running = Running {
            orders: &mut self.orders,
            says: &mut self.says,
            events: &events,
            requester: &mut requester,
            outputs: &mut outputs,
            answering: &mut answering,
            fetching: Fetching::new(),
            task_id: order.task_id,
            cancel: &cancel,
            progress_said: None,
        };
        let result = running
            .drive(wrun_sandbox::run(self.prepared, task))
            .await?;
        if let Some(progress) = events.progress() {
            self.say(&WorkerSays::Progress(progress)).await?;
        }
        match result {
            Ok(result) => self.finish(result, outputs).await,
            Err(error) => {
                let failed = WorkerSays::Failed {
                    message: error.to_string(),
                    grant: matches!(error, RunError::Grant(_)),
                };
                self.say(&failed).await
            }
        }
    }

    /// Reports how the guest ended, after its output; output by pipes may end later.
    async fn finish(&mut self, result: RunResult, outputs: Outputs) -> io::Result<()> {
        let mut rest = outputs.end();
        rest.say_framed(&mut self.says).await?;
        let output = rest.say_returned(&mut self.says).await?;
        let used = wrun_sys::own_usage();
        let usage = used.since(&self.used);
        self.used = used;
        let done = Done {
            result,
            output,
            stdout_len: rest.piped_stdout(),
            stderr_len: rest.piped_stderr(),
            usage,
            spent: preempt::has_abandoned(),
        };
        self.say(&WorkerSays::Done(Box::new(done))).await?;
        rest.end_pipes().await;
        Ok(())
    }

    async fn say(&mut self, message: &WorkerSays) -> io::Result<()> {
        self.says.say(message).await
    }
}
