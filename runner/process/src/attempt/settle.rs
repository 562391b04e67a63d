//! The result of a task whose worker need not be watched any more.

use super::order::Streams;
use super::watch::GRACE;
use super::{Attempt, Seen, Terms};
use crate::child::REAP_TIMEOUT;
use crate::http::{Fetches, Responding};
use crate::pool::bounded;
use crate::requests::Responder;
use crate::trace;
use crate::wire::Done;
use crate::worker::{Life, Worker, crash_of};
use bytes::Bytes;
use wrun_sandbox::deadline::{Deadline, timeout, until};
use wrun_sandbox::token::Token;
use wrun_sandbox::{RunResult, Sink};
use wrun_sys::shortage;
use wrun_types::error::{Error, ErrorKind};
use wrun_types::limits::Limit;
use wrun_types::outcome::{Crash, Outcome};
use wrun_types::report::Usage;

/// The result of a task.
pub(super) struct Supervised {
    pub(super) result: RunResult,
    /// As reported by the worker for a task that ended, from its wait status if it died.
    pub(super) usage: Option<Usage>,
    /// The worker's process number.
    pub(super) pid: Option<u32>,
    /// It has kept every rule, and may get another task.
    pub(super) reusable: Option<Worker>,
}

impl Attempt<'_> {
    /// Turns whatever was seen into one outcome, or a failure of the runner; the worker is
    /// killed, unless another task may have it.
    pub(super) async fn settle(mut self, seen: Seen) -> Result<Supervised, Error> {
        // It can be gone before its zygote's message about it was read.
        self.pid = self.pid.or(self.worker.says.speaker());
        let outcome = match seen {
            Seen::Done(done) => return Ok(self.done(*done).await),
            Seen::Failed { message, grant } => return Err(self.failed(message, grant).await),
            Seen::Unsent(error) => {
                end(&mut self.worker.life).await;
                return Err(Error::new(
                    ErrorKind::System,
                    format!("cannot pass descriptors to or from a worker: {error}"),
                ));
            }
            Seen::Killed => Outcome::Cancelled,
            Seen::Exceeded => Outcome::LimitExceeded(Limit::Output),
            Seen::Overdue => {
                let Terms {
                    task_id, attempt, ..
                } = self.job;
                trace::killed_late(task_id, attempt, self.pid, GRACE);
                Outcome::LimitExceeded(Limit::Deadline)
            }
            Seen::Broken(what) => Outcome::Crashed(Crash::Protocol(what)),
            Seen::Stopped(signal) => Outcome::Crashed(Crash::Signal(signal)),
            Seen::Silent => {
                Outcome::Crashed(match timeout(REAP_TIMEOUT, self.worker.life.wait()).await {
                    Ok(exit) => crash_of(exit),
                    Err(_) => Crash::Protocol("it closed its socket but did not end".into()),
                })
            }
        };
        Ok(self.imposed(outcome).await)
    }

    /// The worker reports that its side of the host failed.
    async fn failed(mut self, message: String, grant: bool) -> Error {
        end(&mut self.worker.life).await;
        let kind = if grant {
            ErrorKind::InvalidTask
        } else {
            ErrorKind::System
        };
        let mut message = bounded(message);
        if kind == ErrorKind::System {
            message.push_str(&shortage::hint_of(&message));
        }
        Error::new(kind, message)
    }

    /// The worker did not report how its task ended.
    async fn imposed(self, outcome: Outcome) -> Supervised {
        let Attempt {
            job,
            worker,
            pid,
            mut streams,
            ..
        } = self;
        let mut life = worker.life;
        life.kill();
        // Including descriptors that it may have sent: a pipe ends when the last one is closed.
        drop(worker.says);
        let exit = timeout(REAP_TIMEOUT, life.wait()).await;
        let outcome = match outcome {
            Outcome::Crashed(how) => Outcome::Crashed(life.crashed(how)),
            other => other,
        };
        // All output that it wrote before it died is in the pipes. The reader sets the pace,
        // and may be given up.
        let rest = async {
            tokio::join!(
                streams.stdout.deliver(u64::MAX),
                streams.stderr.deliver(u64::MAX)
            )
        };
        let _ = or_stopped(rest, job.kill, job.deadline).await;
        Supervised {
            result: RunResult::imposed(outcome),
            usage: exit.ok().flatten().and_then(|exit| exit.usage),
            pid,
            reusable: None,
        }
    }

    /// The worker reports how its task ended, which is checked as far as possible.
    async fn done(mut self, done: Done) -> Supervised {
        let job = self.job;
        let lengths = (done.stdout_len, done.stderr_len);
        let delivery = self.streams.deliver(job.stdout, done.output, lengths);
        let delivered = or_stopped(delivery, job.kill, job.deadline).await;
        let mut result = done.result.distrusted(self.ordered.elapsed());
        let kept_to_rules = matches!(delivered, Ok(true)) && !done.spent && self.leaves_nothing();
        let answered = self.response.as_ref().is_none_or(Responding::is_whole);
        match delivered {
            Ok(true) if !answered && matches!(result.outcome, Outcome::Completed(_)) => {
                let what = "it said that it was done in the middle of its HTTP response".into();
                result = RunResult::imposed(Outcome::Crashed(Crash::Protocol(what)));
            }
            _ if job.stdout.exceeded() || job.stderr.exceeded() => {
                result.outcome = Outcome::LimitExceeded(Limit::Output);
            }
            Ok(true) => {}
            Ok(false) => {
                let what = "it promised more output than it wrote".into();
                result = RunResult::imposed(Outcome::Crashed(Crash::Protocol(what)));
            }
            Err(outcome) => result.outcome = outcome,
        }
        // A worker that may run more tasks waits for them; the others end by themselves, or are
        // killed.
        let worker = self.worker;
        let reusable = kept_to_rules.then(|| Worker {
            tasks: worker.tasks + 1,
            ..worker
        });
        Supervised {
            result,
            usage: Some(done.usage),
            pid: self.pid,
            reusable,
        }
    }

    /// Whether nothing of the task can still reach its worker, or be in it.
    fn leaves_nothing(&self) -> bool {
        // A response may be on its way, and another process could hold its children's ports or
        // regions.
        let is_waiting = self.requests.as_ref().is_some_and(Responder::is_waiting);
        let has_asked = is_waiting || self.job.services.children_started() > 0;
        let is_quiet = self.response.as_ref().is_none_or(Responding::is_quiet);
        let is_quiet = is_quiet && self.fetches.as_ref().is_none_or(Fetches::is_quiet);
        self.self_contained && !has_asked && is_quiet
    }
}

impl Streams {
    /// Waits for as much output as the worker has reported, and for its result to be taken;
    /// returns whether all of it arrived.
    ///
    /// A task keeps its permit until its output has left its worker, as in thread mode,
    /// where the task waits itself. Output that the worker has counted but that does not
    /// arrive in time was never written.
    async fn deliver(&mut self, sink: &Sink, output: Bytes, lengths: (u64, u64)) -> bool {
        let (stdout_len, stderr_len) = lengths;
        let Streams {
            stdout,
            stderr,
            joined,
            ..
        } = self;
        let inline = async {
            // Printed output comes before the result.
            let printed = !*joined || stdout.deliver(stdout_len).await;
            if !output.is_empty() {
                sink.put(output).await;
            }
            printed && stdout.deliver(stdout_len).await
        };
        tokio::join!(inline, stderr.deliver(stderr_len)) == (true, true)
    }
}

/// Kills a worker, and waits for a while until it is reaped.
async fn end(life: &mut Life) {
    life.kill();
    let _ = timeout(REAP_TIMEOUT, life.wait()).await;
}

/// Waits for `work`, unless the task is killed or its deadline passes.
async fn or_stopped<T>(
    work: impl Future<Output = T>,
    kill: &Token,
    deadline: Option<Deadline>,
) -> Result<T, Outcome> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = kill.cancelled() => Err(Outcome::Cancelled),
        () = until(deadline) => Err(Outcome::LimitExceeded(Limit::Deadline)),
    }
}
