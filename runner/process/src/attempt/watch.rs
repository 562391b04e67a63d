//! Watches everything about a worker that has a task, until it is clear how the task ended.

use super::Terms;
use super::order::{Feed, Streams};
use crate::channel::{ChannelError, Receiver, is_want};
use crate::child::LOOK_EVERY;
use crate::http::{Fetches, Responding, Wrong};
use crate::requests::Responder;
use crate::wire::{Done, OWN, WorkerSays};
use crate::worker::Life;
use bytes::Bytes;
use std::io;
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use wrun_sandbox::deadline::until;
use wrun_sandbox::turn::Turn;
use wrun_sandbox::{Sink, Source};

/// How long after the deadline a worker may take to report it, before it is killed.
pub(super) const GRACE: Duration = Duration::from_secs(1);
/// Why a message is a violation if the task imports no interface that needs it.
const NOT_IMPORTED: &str = "its message needs an interface that its task does not import";

/// How watching ended.
pub(super) enum Seen {
    Done(Box<Done>),
    Failed {
        message: String,
        grant: bool,
    },
    /// It closed its socket: find out how it ended.
    Silent,
    Broken(String),
    Killed,
    Overdue,
    /// It sent more than its task may; an honest worker does not.
    Exceeded,
    /// It was stopped by this signal.
    Stopped(i32),
    /// The system refuses to send or receive a message: waiting would not help.
    Unsent(io::Error),
}

pub(super) struct Watch<'a> {
    pub(super) job: Terms<'a>,
    pub(super) life: &'a mut Life,
    pub(super) says: &'a mut Receiver,
    pub(super) streams: &'a mut Streams,
    pub(super) requests: &'a mut Option<Responder>,
    pub(super) response: &'a mut Option<Responding>,
    pub(super) fetches: &'a mut Option<Fetches>,
    pub(super) input: Feeding,
    /// Output that waits for its reader.
    pub(super) putting: Option<Putting>,
}

type Putting = Pin<Box<dyn Future<Output = bool> + Send>>;

impl Watch<'_> {
    /// Watches, while `sending` runs, which ends with an error of the system.
    pub(super) async fn run(mut self, sending: impl Future<Output = io::Error>) -> Seen {
        let job = self.job;
        let overdue_at = job.deadline.and_then(|deadline| deadline.later(GRACE));
        let mut sending = std::pin::pin!(sending);
        let mut killed = std::pin::pin!(job.kill.cancelled());
        let mut overdue = std::pin::pin!(until(overdue_at));
        let seen = loop {
            if self.putting.is_some() || !self.says.has_message() {
                self.deliver();
            }
            let stdout = &mut self.streams.stdout;
            let stderr = &mut self.streams.stderr;
            let next = tokio::select! {
                biased;
                // First what must not wait for a worker that sends much.
                () = &mut killed => Break(Seen::Killed),
                () = &mut overdue => Break(Seen::Overdue),
                taken = taken(&mut self.putting) => {
                    self.putting = None;
                    if taken { Continue(()) } else { Break(Seen::Exceeded) }
                }
                said = heard(self.says, self.requests.is_some()), if self.putting.is_none() => {
                    self.hear(said)
                }
                error = &mut sending => Break(Seen::Unsent(error)),
                why = wrong_request(self.requests) => Break(Seen::Broken(why.into())),
                signal = stopped(self.life) => Break(Seen::Stopped(signal)),
                () = stdout.run(), if !stdout.is_over() => Continue(()),
                () = stderr.run(), if !stderr.is_over() => Continue(()),
                () = self.input.run() => Continue(()),
            };
            if let Break(seen) = next {
                break seen;
            }
        };
        self.deliver();
        seen
    }

    /// Gives the response to an HTTP request to its client.
    fn deliver(&mut self) {
        if let Some(response) = self.response {
            response.deliver();
        }
    }

    /// Handles a received message.
    fn hear(
        &mut self,
        said: Result<(WorkerSays, Vec<OwnedFd>), ChannelError>,
    ) -> ControlFlow<Seen> {
        match said {
            Ok((said, along)) => self.take(said, along),
            // The runner has no room for its descriptors, which is not a fault of the worker.
            Err(ChannelError::Io(error)) if is_want(&error) => Break(Seen::Unsent(error)),
            Err(ChannelError::Closed | ChannelError::Io(_)) => Break(Seen::Silent),
            Err(error) => Break(Seen::Broken(error.to_string())),
        }
    }

    fn take(&mut self, said: WorkerSays, along: Vec<OwnedFd>) -> ControlFlow<Seen> {
        let Streams {
            stdout_piped,
            stderr_piped,
            joined,
            ..
        } = *self.streams;
        match said {
            WorkerSays::Request { id, request } => {
                self.pass_on(|responder| responder.take(id, request, along))
            }
            WorkerSays::Notify(notification) => {
                self.pass_on(|responder| responder.notified(notification))
            }
            WorkerSays::Done(done) => Break(Seen::Done(done)),
            WorkerSays::Progress(progress) => {
                if let Some(tell) = self.job.progress {
                    tell(progress);
                }
                Continue(())
            }
            WorkerSays::WantInput => self.input.begin(),
            WorkerSays::Failed { message, grant } => Break(Seen::Failed { message, grant }),
            WorkerSays::HttpHead(head) => self.respond(|it| it.head(head).map(|()| true)),
            WorkerSays::Http {
                exchange: OWN,
                part,
            } => self.respond(|it| it.part(part)),
            WorkerSays::Http { exchange, part } => self.fetch(|it| it.part(exchange, part)),
            WorkerSays::Fetch { exchange, head } => self.fetch(|it| it.begin(exchange, head)),
            WorkerSays::Stdout(bytes) if !stdout_piped => {
                let also = joined.then_some(self.job.stderr);
                self.put(self.job.stdout, also, bytes)
            }
            WorkerSays::Stderr(bytes) if !stderr_piped && !joined => {
                self.put(self.job.stderr, None, bytes)
            }
            WorkerSays::Stdout(_) | WorkerSays::Stderr(_) => {
                Break(Seen::Broken("it sent output that has a pipe".into()))
            }
        }
    }

    /// Puts output into a sink, whose reader may make it wait: nothing else is heard of the
    /// worker until then, and its guest waits as soon as the socket is full.
    fn put(&mut self, sink: &Sink, also: Option<&Sink>, bytes: Bytes) -> ControlFlow<Seen> {
        let (sink, also) = (sink.clone(), also.cloned());
        self.putting = Some(Box::pin(async move {
            sink.put_joined(also.as_ref(), bytes).await
        }));
        Continue(())
    }

    /// Passes on what arrives of a response to an HTTP request.
    fn respond(
        &mut self,
        pass: impl FnOnce(&mut Responding) -> Result<bool, Wrong>,
    ) -> ControlFlow<Seen> {
        let passed = match self.response {
            Some(response) => pass(response),
            None => Err("it answers an HTTP request that its task does not have"),
        };
        match passed {
            Ok(true) => Continue(()),
            Ok(false) => Break(Seen::Exceeded),
            Err(why) => Break(Seen::Broken(why.into())),
        }
    }

    /// Passes on what arrives of the HTTP requests of a task that may send some.
    fn fetch(&mut self, pass: impl FnOnce(&mut Fetches) -> Result<(), Wrong>) -> ControlFlow<Seen> {
        let passed = match self.fetches {
            Some(fetches) => pass(fetches),
            None => Err("it sends an HTTP request that its task may not send"),
        };
        match passed {
            Ok(()) => Continue(()),
            Err(why) => Break(Seen::Broken(why.into())),
        }
    }

    /// Passes on a request or notification, if the task may send any.
    fn pass_on(
        &mut self,
        pass: impl FnOnce(&mut Responder) -> Result<(), &'static str>,
    ) -> ControlFlow<Seen> {
        let passed = match self.requests {
            Some(requests) => pass(requests),
            None => Err(NOT_IMPORTED),
        };
        match passed {
            Ok(()) => Continue(()),
            Err(why) => Break(Seen::Broken(why.into())),
        }
    }
}

/// Waits until the sink took what was put into it; `false` if it takes no more.
async fn taken(putting: &mut Option<Putting>) -> bool {
    match putting {
        Some(taken) => taken.await,
        None => std::future::pending().await,
    }
}

/// The next message of a worker, with its descriptors.
async fn heard(
    says: &mut Receiver,
    may_request: bool,
) -> Result<(WorkerSays, Vec<OwnedFd>), ChannelError> {
    if !may_request {
        return Ok((says.next().await?, Vec::new()));
    }
    let said = says.next_with_descriptors().await?;
    let count = match &said {
        WorkerSays::Request { request, .. } => request.descriptors(),
        _ => 0,
    };
    let along = says.take(count).map_err(|error| match is_want(&error) {
        true => ChannelError::Io(error),
        false => ChannelError::Descriptors,
    })?;
    Ok((said, along))
}

/// Serves the requests until one is invalid; returns why.
async fn wrong_request(requests: &mut Option<Responder>) -> &'static str {
    match requests {
        Some(requests) => requests.serve().await,
        None => std::future::pending().await,
    }
}

/// Waits until the worker is stopped, if nothing else checks that; returns the signal.
async fn stopped(life: &mut Life) -> i32 {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        life.read_stderr();
        if let Some(signal) = life.stopped_by() {
            return signal;
        }
    }
}

/// The input of a task, which is sent once the worker requests it.
pub(super) struct Feeding {
    waiting: Option<Feed>,
    running: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    failed: mpsc::Sender<String>,
}

impl Feeding {
    /// `failed` gets the reason if the rest of the input cannot be read.
    pub(super) fn new(feed: Option<Feed>, failed: mpsc::Sender<String>) -> Self {
        Feeding {
            waiting: feed,
            running: None,
            failed,
        }
    }

    /// The worker requests its input: allowed once, if it has a pipe.
    fn begin(&mut self) -> ControlFlow<Seen> {
        let Some((source, stdin)) = self.waiting.take() else {
            return Break(Seen::Broken("it requested its input again".into()));
        };
        self.running = Some(Box::pin(feed(source, stdin, self.failed.clone())));
        Continue(())
    }

    /// Moves input if it is requested; ends with the input. Cancel safe.
    async fn run(&mut self) {
        match &mut self.running {
            Some(running) => running.await,
            None => std::future::pending().await,
        }
        self.running = None;
    }
}

/// Moves input to a worker until it ends, or the worker reads no more.
async fn feed(source: Source, mut stdin: pipe::Sender, failed: mpsc::Sender<String>) {
    let mut turn = Turn::new();
    while let Some(chunk) = source.next_chunk().await {
        if stdin.write_all(&chunk).await.is_err() {
            return;
        }
        turn.spend(chunk.len());
        turn.give_way().await;
    }
    if let Some(error) = source.failure().await {
        // The pipe stays open: closing it would look like the end of the input.
        let _ = failed.send(error.to_string()).await;
        std::future::pending::<()>().await;
    }
}
