//! One task in one worker, from order to outcome: the supervisor's side.
//!
//! One future watches everything about the worker at once: what it says, its
//! output, its input, the kill, the backstop of the deadline. Invariant: it ends
//! with exactly one outcome, whatever the worker does, and the worker is then
//! killed and reaped.

use super::asks::{Answers, Asked};
use super::channel::{ChannelError, Receiver, Sender, is_want};
use super::child::{LINGER, LOOK_EVERY};
use super::error::ProcessError;
use super::owners;
use super::plain::{Plain, Told};
use super::pool::{NoWorker, Pool, Taken, bounded};
use super::stream::Stream;
use super::trace;
use super::worker::{Life, Worker, crash_of};
use crate::wire::{Done, Input, Order, Output, RunOrder, WorkerSays};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wrun_sandbox::Budgets;
use wrun_sandbox::InputKind;
use wrun_sandbox::deadline::{Deadline, timeout, until};
use wrun_sandbox::executor::{Executed, Job};
use wrun_sandbox::port::Port;
use wrun_sandbox::turn::Turn;
use wrun_sandbox::{CodeError, LoadError, RunResult, Sink, Source};
use wrun_sys::shortage;
use wrun_types::error::{Error, ErrorKind};
use wrun_types::limits::Limit;
use wrun_types::outcome::{Crash, Outcome};
use wrun_types::report::Usage;

/// How long after the deadline a worker may take to say so itself, before it is
/// killed.
const GRACE: Duration = Duration::from_secs(1);
/// Input up to this size travels with the order.
const INLINE_INPUT: usize = 256 << 10;

/// Runs `job` in a worker of `pool`; with `asks` it may ask for the runner's services;
/// `renew` has the code compiled anew when the
/// worker's engine refuses what it was given.
pub(super) async fn run(
    pool: &Arc<Pool>,
    job: Job,
    asks: bool,
    renew: impl FnOnce(CodeError) -> Result<(), LoadError> + Send + 'static,
) -> Result<Executed, Error> {
    let began = Instant::now();
    let stopped = |result| Executed {
        overhead: began.elapsed(),
        ..Executed::new(result)
    };
    let mut renew = Some(renew);
    let plain = Plain::of(&job);
    let Taken { worker, note } = loop {
        let taken = tokio::select! {
            biased;
            taken = pool.take(&job.spec, plain.as_ref()) => taken,
            () = job.kill.cancelled() => {
                return Ok(stopped(RunResult::imposed(Outcome::Cancelled)));
            }
            () = until(job.deadline) => {
                let outcome = Outcome::LimitExceeded(Limit::Deadline);
                return Ok(stopped(RunResult::imposed(outcome)));
            }
        };
        match taken {
            Ok(taken) => break taken,
            Err(NoWorker::Error(error)) => return Err(error.into()),
            Err(NoWorker::Stale(message)) => {
                let Some(renew) = renew.take() else {
                    let message = format!("the worker cannot load the task: {message}");
                    return Err(ProcessError::Refused { message }.into());
                };
                trace::refused(job.task_id, &message);
                let renewed =
                    tokio::task::spawn_blocking(move || renew(CodeError::Engine(message)));
                renewed
                    .await
                    .map_err(|_| Error::new(ErrorKind::System, "compiling was interrupted"))??;
            }
        }
    };
    let start = worker.life.start();
    let jail = worker.life.jail();
    let overhead = began.elapsed();
    let (task, attempt) = (job.task_id, job.attempt);
    trace::started(attempt, worker.life.id(), start, overhead);
    pool.tend();
    let supervised = supervise(worker, job, asks).await;
    let ended = began.elapsed();
    let supervised = supervised.inspect_err(|_| pool.tend())?;
    let Supervised {
        result,
        usage,
        pid,
        reusable,
    } = supervised;
    if let Outcome::Crashed(crash) = &result.outcome {
        trace::crashed(task, attempt, pid, crash);
    }
    // What it did while nobody had looked at it is its task's time.
    let of_task = result.start.saturating_add(result.run);
    let overhead = overhead.min(ended.saturating_sub(of_task));
    if !matches!(result.outcome, Outcome::Crashed(_)) {
        pool.give_back(reusable);
    }
    pool.tend();
    Ok(Executed {
        overhead,
        worker_pid: pid,
        usage,
        jail: Some(jail),
        start: Some(start),
        notes: note.into_iter().collect(),
        ..Executed::new(result)
    })
}

/// What a worker did that asks for a task which cannot.
const NOT_IMPORTED: &str = "it asks for what its task does not import";

/// The next that a worker says, with what came along.
async fn heard(
    says: &mut Receiver,
    asks: bool,
) -> Result<(WorkerSays, Vec<OwnedFd>), ChannelError> {
    if !asks {
        return Ok((says.next().await?, Vec::new()));
    }
    let said = says.next_with_descriptors().await?;
    let count = match &said {
        WorkerSays::Ask { ask, .. } => ask.descriptors(),
        _ => 0,
    };
    let along = says.take(count).map_err(|error| match is_want(&error) {
        true => ChannelError::Io(error),
        false => ChannelError::Descriptors,
    })?;
    Ok((said, along))
}

async fn next_answer(answers: &mut Option<Answers>) -> Option<(Order, Vec<OwnedFd>)> {
    match answers {
        Some(answers) => answers.next().await,
        None => None,
    }
}

/// Has asks answered; what was wrong with one.
async fn wrongly_asked(asked: &mut Option<Asked>) -> &'static str {
    match asked {
        Some(asked) => asked.answer().await,
        None => std::future::pending().await,
    }
}

/// How watching ended.
enum Seen {
    Done(Box<Done>),
    Failed {
        message: String,
        grant: bool,
    },
    /// The worker's end is to be looked at: it closed its socket.
    Silent,
    Broken(String),
    Killed,
    Overdue,
    /// It said more than its task may say; a worker that can be trusted does not.
    Exceeded,
    /// Somebody stopped it with this signal.
    Stopped(i32),
    /// The system does not take what is to be sent to it, or what it sent: it would wait
    /// for ever.
    Unsent(io::Error),
}

/// What came of a task.
struct Supervised {
    result: RunResult,
    /// By the worker's word for a task that ended, by its wait status for one
    /// that died.
    usage: Option<Usage>,
    /// The worker's process number.
    pid: Option<u32>,
    /// It kept to every rule, and may get another task.
    reusable: Option<Worker>,
}

async fn supervise(worker: Worker, job: Job, asks: bool) -> Result<Supervised, Error> {
    let Worker {
        mut life,
        mut orders,
        mut says,
        tasks,
        spare,
        memory,
        told,
    } = worker;
    let pid = life.id();
    let memory = memory.or(Some(crate::memory_of_a_process(&job.spec)));
    let system = |error: io::Error| {
        Error::new(
            ErrorKind::System,
            format!("cannot make pipes for a task: {error}"),
        )
    };
    let is_command = job.artifact.shape().is_command();
    let mut theirs = Vec::new();

    let (input, feed) = match job.stdin {
        InputKind::Bytes(bytes) if bytes.len() <= INLINE_INPUT => (Input::Inline(bytes), None),
        // The worker enforces the limit, with the code that thread mode uses.
        other => {
            let (sender, receiver) = pipe::pipe().map_err(system)?;
            theirs.push(receiver.into_blocking_fd().map_err(system)?);
            (Input::Pipe, Some((Source::new(other, None), sender)))
        }
    };
    let limits = &job.spec.limits;
    let mut output = |sink: &Sink, piped: bool| -> Result<_, Error> {
        let budget = limits.output_budget(sink.is_capture());
        if !piped {
            return Ok((Output { piped, budget }, None));
        }
        let (sender, receiver) = pipe::pipe().map_err(system)?;
        theirs.push(sender.into_blocking_fd().map_err(system)?);
        Ok((Output { piped, budget }, Some(receiver)))
    };
    // Whoever reads a stream sets the pace, and must not hold up what else the
    // worker has to say; what is kept here, or thrown away, never waits.
    let (stdout, stdout_pipe) = output(&job.stdout, is_command || job.stdout.is_channel())?;
    // What is to keep its order comes by one pipe.
    let joined = job.stderr.joins(&job.stdout);
    let piped = !joined && (is_command || job.stderr.is_channel());
    let (stderr, stderr_pipe) = output(&job.stderr, piped)?;
    let owners = life.owners();
    for grant in &job.spec.dirs {
        let cannot = |what: &str, error: io::Error| {
            let path = grant.host.display();
            Error::new(
                ErrorKind::InvalidTask,
                format!("cannot {what} {path}: {error}"),
            )
        };
        let opened = owners::open(&grant.host);
        let opened = opened.map_err(|error| cannot("open the granted directory", error))?;
        theirs.push(match &owners {
            // It could be a moment ago.
            Some(owners) => owners
                .map(opened.as_fd())
                .map_err(|error| cannot("map the owners of the granted directory", error))?,
            None => opened,
        });
    }
    let port = match job.port.map(Port::into_parts) {
        Some(Some((parts, descriptors))) => {
            theirs.extend(descriptors);
            Some(parts)
        }
        Some(None) => {
            let in_use = io::Error::other("its port is in use");
            return Err(system(in_use));
        }
        None => None,
    };
    let piped_input = matches!(input, Input::Pipe);
    // What it has of ports could be with others.
    let talks = port.is_some();
    let granted = !job.spec.dirs.is_empty() || !job.spec.tcp.is_empty();
    let told = match told {
        Some(told) => told,
        None => {
            let order = Order::Run(Box::new(RunOrder {
                task_id: job.task_id,
                attempt: job.attempt,
                spec: (*job.spec).clone(),
                remaining: job.deadline.map(Deadline::left),
                input,
                stdout,
                stderr,
                joined,
                port,
            }));
            let frame = Sender::frame(&order).map_err(|error| {
                Error::new(ErrorKind::InvalidTask, format!("the task: {error}"))
            })?;
            let at = Instant::now();
            Told { frame, sent: 0, at }
        }
    };
    let cancel = job.cancel;
    let (failed, mut failures) = mpsc::channel::<String>(1);
    let mut cancelled = false;
    let tasks_of_tree = job.spec.limits.max_tasks;
    let services = job.services.clone();
    let (mut asked, mut answers) = match asks {
        true => {
            let (asked, answers) = Asked::new(services.clone(), tasks_of_tree);
            (Some(asked), Some(answers))
        }
        false => (None, None),
    };
    let ordering = async {
        let descriptors: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        let rest = &told.frame[told.sent..];
        let mut sent = orders.send(rest, &descriptors).await;
        drop(descriptors);
        theirs.clear();
        if sent.is_ok() {
            sent = loop {
                let order = tokio::select! {
                    () = cancel.cancelled(), if !cancelled => {
                        cancelled = true;
                        Order::Cancel
                    }
                    Some(why) = failures.recv() => Order::InputFailed(why),
                    Some((answer, along)) = next_answer(&mut answers) => {
                        let frame = match Sender::frame(&answer) {
                            Ok(frame) => frame,
                            Err(error) => break Err(io::Error::other(error)),
                        };
                        let lent: Vec<_> = along.iter().map(AsFd::as_fd).collect();
                        if let Err(error) = orders.send(&frame, &lent).await {
                            break Err(error);
                        }
                        if let Some(answers) = &answers {
                            answers.sent();
                        }
                        continue;
                    }
                    else => break Ok(()),
                };
                if let Err(error) = orders.say(&order).await {
                    break Err(error);
                }
            };
        }
        match sent {
            Err(error) if !is_of_the_other_end(&error) => error,
            // A worker that does not read its orders is noticed by its silence.
            _ => std::future::pending().await,
        }
    };

    let mut out = Stream::new(stdout_pipe, &job.stdout, joined.then_some(&job.stderr));
    let mut err = Stream::new(stderr_pipe, &job.stderr, None);
    let mut feeding: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = None;
    let mut waiting_input = feed;
    let mut along = Vec::new();

    let ordered = told.at;
    let overdue_at = job.deadline.and_then(|deadline| deadline.later(GRACE));
    let seen = {
        let mut ordering = std::pin::pin!(ordering);
        let mut killed = std::pin::pin!(job.kill.cancelled());
        let mut overdue = std::pin::pin!(until(overdue_at));
        loop {
            tokio::select! {
                biased;
                // First what must not have to wait for a worker that says much.
                () = &mut killed => break Seen::Killed,
                () = &mut overdue => break Seen::Overdue,
                said = heard(&mut says, asks) => match said.map(|(said, fds)| {
                    along = fds;
                    said
                }) {
                    Ok(WorkerSays::Ask { id, ask }) => {
                        let taken = match &mut asked {
                            Some(asked) => asked.take(id, ask, std::mem::take(&mut along)),
                            None => Err(NOT_IMPORTED),
                        };
                        if let Err(why) = taken {
                            break Seen::Broken(why.into());
                        }
                    }
                    Ok(WorkerSays::Tell(word)) => {
                        let told = match &mut asked {
                            Some(asked) => asked.told(word),
                            None => Err(NOT_IMPORTED),
                        };
                        if let Err(why) = told {
                            break Seen::Broken(why.into());
                        }
                    }
                    Ok(WorkerSays::Done(done)) => break Seen::Done(done),
                    Ok(WorkerSays::Progress(progress)) => (job.progress)(progress),
                    Ok(WorkerSays::WantInput) => match waiting_input.take() {
                        Some((source, stdin)) => {
                            feeding = Some(Box::pin(feed_input(source, stdin, failed.clone())));
                        }
                        None => break Seen::Broken("it asked for input again".into()),
                    },
                    Ok(WorkerSays::Failed { message, grant }) => {
                        break Seen::Failed { message, grant };
                    }
                    Ok(WorkerSays::Stdout(bytes)) if !stdout.piped => {
                        if !job.stdout.put(bytes).await {
                            break Seen::Exceeded;
                        }
                    }
                    Ok(WorkerSays::Stderr(bytes)) if !stderr.piped && !joined => {
                        if !job.stderr.put(bytes).await {
                            break Seen::Exceeded;
                        }
                    }
                    Ok(WorkerSays::Stdout(_) | WorkerSays::Stderr(_)) => {
                        break Seen::Broken("it sent output that has a pipe".into());
                    }
                    // Its runner has no room for what it sent: no fault of its own.
                    Err(ChannelError::Io(error)) if is_want(&error) => break Seen::Unsent(error),
                    Err(ChannelError::Closed | ChannelError::Io(_)) => break Seen::Silent,
                    Err(error) => break Seen::Broken(error.to_string()),
                },
                error = &mut ordering => break Seen::Unsent(error),
                why = wrongly_asked(&mut asked) => break Seen::Broken(why.into()),
                signal = stopped(&mut life) => break Seen::Stopped(signal),
                () = out.run(), if !out.is_over() => {}
                () = err.run(), if !err.is_over() => {}
                () = async {
                    match &mut feeding {
                        Some(feeding) => feeding.await,
                        None => std::future::pending().await,
                    }
                } => feeding = None,
            }
        }
    };
    drop(feeding);

    // It can be gone before its zygote's word of it was heard.
    let pid = pid.or(says.speaker());
    let done = match seen {
        Seen::Done(done) => *done,
        Seen::Failed { message, grant } => {
            life.kill();
            let _ = timeout(LINGER, life.wait()).await;
            let kind = if grant {
                ErrorKind::InvalidTask
            } else {
                ErrorKind::System
            };
            let mut message = bounded(message);
            if kind == ErrorKind::System {
                message.push_str(&shortage::hint_of(&message));
            }
            return Err(Error::new(kind, message));
        }
        Seen::Unsent(error) => {
            life.kill();
            let _ = timeout(LINGER, life.wait()).await;
            return Err(Error::new(
                ErrorKind::System,
                format!("cannot pass descriptors to or from a worker: {error}"),
            ));
        }
        other => {
            let outcome = match other {
                Seen::Killed => Outcome::Cancelled,
                Seen::Exceeded => Outcome::LimitExceeded(Limit::Output),
                Seen::Overdue => {
                    trace::killed_late(job.task_id, job.attempt, pid, GRACE);
                    Outcome::LimitExceeded(Limit::Deadline)
                }
                Seen::Broken(what) => Outcome::Crashed(Crash::Protocol(what)),
                Seen::Stopped(signal) => Outcome::Crashed(Crash::Signal(signal)),
                _ => Outcome::Crashed(match timeout(LINGER, life.wait()).await {
                    Ok(exit) => crash_of(exit),
                    Err(_) => Crash::Protocol("it closed its socket and lived on".into()),
                }),
            };
            life.kill();
            // With descriptors that it may have sent: a pipe ends when none is left.
            drop(says);
            let exit = timeout(LINGER, life.wait()).await;
            let outcome = match outcome {
                Outcome::Crashed(how) => Outcome::Crashed(life.crashed(how)),
                other => other,
            };
            // What it wrote before it died is in the pipes, whole. Whoever reads
            // it sets the pace, and may be given up.
            let rest = async { tokio::join!(out.deliver(u64::MAX), err.deliver(u64::MAX)) };
            let _ = or_stopped(rest, &job.kill, job.deadline).await;
            return Ok(Supervised {
                result: RunResult::imposed(outcome),
                usage: exit.ok().flatten().and_then(|exit| exit.usage),
                pid,
                reusable: None,
            });
        }
    };

    // A task keeps its place until its output has left its worker, as in thread
    // mode, where it waits itself. The worker's count of its output is a promise:
    // what it does not keep in time was a lie.
    let delivery = async {
        let inline = async {
            // What it printed came before what it returns.
            let printed = !joined || out.deliver(done.stdout_len).await;
            if !done.output.is_empty() {
                job.stdout.put(done.output).await;
            }
            printed && out.deliver(done.stdout_len).await
        };
        tokio::join!(inline, err.deliver(done.stderr_len))
    };
    let delivered = or_stopped(delivery, &job.kill, job.deadline).await;
    let mut result = done.result.distrusted(ordered.elapsed());
    // An answer may be on its way to one that asked; and what it has of children could
    // be another's.
    let is_waiting = asked.as_ref().is_some_and(Asked::is_waiting);
    let has_asked = is_waiting || services.children_started() > 0;
    let kept_to_rules =
        matches!(delivered, Ok((true, true))) && !piped_input && !granted && !talks && !has_asked;
    match delivered {
        _ if job.stdout.exceeded() || job.stderr.exceeded() => {
            result.outcome = Outcome::LimitExceeded(Limit::Output);
        }
        Ok((true, true)) => {}
        Ok(_) => {
            let what = "it promised more output than it wrote".into();
            result = RunResult::imposed(Outcome::Crashed(Crash::Protocol(what)));
        }
        Err(outcome) => result.outcome = outcome,
    }
    // One that may run more tasks waits for them; the others end of themselves,
    // or are made to.
    let reusable = kept_to_rules.then(|| Worker {
        life,
        orders,
        says,
        tasks: tasks + 1,
        spare,
        memory,
        told: None,
    });
    Ok(Supervised {
        result,
        usage: Some(done.usage),
        pid,
        reusable,
    })
}

/// Whether sending failed because the worker does not listen any more.
fn is_of_the_other_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

/// Waits until somebody stops the worker, where only this looks for it; its
/// signal.
async fn stopped(life: &mut Life) -> i32 {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        life.overhear();
        if let Some(signal) = life.stopped_by() {
            return signal;
        }
    }
}

/// Waits for `work`, unless the task is killed or its deadline passes.
async fn or_stopped<T>(
    work: impl Future<Output = T>,
    kill: &CancellationToken,
    deadline: Option<Deadline>,
) -> Result<T, Outcome> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = kill.cancelled() => Err(Outcome::Cancelled),
        () = until(deadline) => Err(Outcome::LimitExceeded(Limit::Deadline)),
    }
}

/// Moves input to a worker until it ends, or the worker takes no more.
async fn feed_input(source: Source, mut stdin: pipe::Sender, failed: mpsc::Sender<String>) {
    let mut turn = Turn::new();
    while let Some(chunk) = source.next_chunk().await {
        if stdin.write_all(&chunk).await.is_err() {
            return;
        }
        turn.spend(chunk.len());
        turn.give_way().await;
    }
    if let Some(error) = source.failure().await {
        // The pipe stays open: its end would look like the input's.
        let _ = failed.send(error.to_string()).await;
        std::future::pending::<()>().await;
    }
}
