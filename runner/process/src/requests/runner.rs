//! The runner's end: requests as they come from a worker, checked, answered by the services
//! of the task, and the answers on their way back.

use super::INLINE;
use crate::wire::{Data, Order, WireAnswer, WireAsk};
use bytes::Bytes;
use rustix::io::{Errno, pread};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use wrun_sandbox::InputKind;
use wrun_sandbox::port::{PARTS, Port, Unsealed, is_sealed};
use wrun_sandbox::services::{Answer, Ask, Services, Word};
use wrun_sandbox::turn::Turn;
use wrun_sys::Unpoisoned;
use wrun_types::outcome::{Crash, Outcome, Output};

/// Requests that are open at a time, beside one for each child that is waited for.
const MOST: usize = 64;
/// Bytes of a name in a request, at most.
const MAX_NAME: usize = wrun_types::spec::MAX_TASK_NAME;
/// What is read of a file at a time.
const PIECE: usize = 64 << 10;

/// The requests of one task, as its supervisor has them.
pub(crate) struct Responder {
    services: Arc<dyn Services>,
    most: usize,
    last: u64,
    /// Responder, and the answer not sent yet.
    open: Arc<AtomicUsize>,
    running: JoinSet<(u64, Reply)>,
    /// Those that wait for a lock, and what makes them give up.
    waiting: HashMap<u64, oneshot::Sender<()>>,
    outputs: Arc<Outputs>,
    answers: mpsc::Sender<(u64, Reply)>,
}

/// The answers that are to be sent, and what to do once one is.
pub(crate) struct Answers {
    answers: mpsc::Receiver<(u64, Reply)>,
    open: Arc<AtomicUsize>,
}

/// An answer as it is sent.
enum Reply {
    Answer(Answer),
    /// A child completed, with this many bytes of output, which the file has.
    Output(OwnedFd, u64),
}

/// The outputs of children that are too large for a frame, each in one memory file while
/// its child is not let go of: one for each time that it is asked for would be as much
/// memory as the worker likes.
#[derive(Default)]
struct Outputs {
    /// None until it was made.
    files: Mutex<HashMap<u64, Option<OwnedFd>>>,
    /// Held while one is made.
    making: tokio::sync::Mutex<()>,
}

impl Outputs {
    fn files(&self) -> MutexGuard<'_, HashMap<u64, Option<OwnedFd>>> {
        self.files.lock().unpoisoned()
    }

    /// What is to be sent for the end of a child.
    async fn reply(&self, child: u64, answer: Answer) -> Reply {
        let Answer::End(Outcome::Completed(Output(output))) = &answer else {
            return Reply::Answer(answer);
        };
        if output.len() <= INLINE {
            return Reply::Answer(answer);
        }
        match self.file(child, output).await {
            Ok(file) => Reply::Output(file, output.len() as u64),
            Err(error) => {
                let why = format!("its output cannot be handed over: {error}");
                Reply::Answer(Answer::End(Outcome::Crashed(Crash::Runner(why))))
            }
        }
    }

    async fn file(&self, child: u64, output: &Bytes) -> io::Result<OwnedFd> {
        let _one_at_a_time = self.making.lock().await;
        if let Some(Some(file)) = self.files().get(&child) {
            return file.try_clone();
        }
        let mut file = Unsealed::new()?;
        let mut turn = Turn::new();
        for piece in output.chunks(PIECE) {
            file.write(piece)?;
            turn.spend(piece.len());
            turn.give_way().await;
        }
        let file = file.seal()?;
        let given = file.try_clone()?;
        // Unless it was let go of meanwhile.
        if let Some(kept) = self.files().get_mut(&child) {
            *kept = Some(file);
        }
        Ok(given)
    }
}

impl Responder {
    /// For a task with this many others in its tree, at most.
    pub(crate) fn new(services: Arc<dyn Services>, tasks: u32) -> (Self, Answers) {
        let most = MOST + tasks as usize;
        let (sender, answers) = mpsc::channel(most);
        let open = Arc::new(AtomicUsize::new(0));
        let responder = Responder {
            services,
            most,
            last: 0,
            open: open.clone(),
            running: JoinSet::new(),
            waiting: HashMap::new(),
            outputs: Arc::default(),
            answers: sender,
        };
        (responder, Answers { answers, open })
    }

    /// Whether the answer to anything was not sent yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0
    }

    /// Takes an ask; or what is wrong with it.
    pub(crate) fn take(
        &mut self,
        id: u64,
        ask: WireAsk,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), &'static str> {
        if self.last.checked_add(1) != Some(id) {
            return Err("its asks have other numbers");
        }
        self.last = id;
        if self.open.fetch_add(1, Ordering::AcqRel) >= self.most {
            return Err("it asks for too much at once");
        }
        let ask = ask_of(ask, descriptors)?;
        let services = self.services.clone();
        let mut answering: Pin<Box<dyn Future<Output = (u64, Reply)> + Send>> = match ask {
            Ask::Lock {
                if_available: false,
                ..
            } => {
                let (withdraw, withdrawn) = oneshot::channel();
                self.waiting.insert(id, withdraw);
                Box::pin(async move {
                    let answer = tokio::select! {
                        biased;
                        // What was not withdrawn is not by being forgotten.
                        Ok(()) = withdrawn => Answer::NotAvailable,
                        answer = services.ask(ask) => answer,
                    };
                    (id, Reply::Answer(answer))
                })
            }
            Ask::End(child) => {
                let outputs = self.outputs.clone();
                outputs.files().entry(child).or_default();
                Box::pin(async move {
                    let answer = services.ask(ask).await;
                    (id, outputs.reply(child, answer).await)
                })
            }
            ask => Box::pin(async move { (id, Reply::Answer(services.ask(ask).await)) }),
        };
        // In the order in which it speaks: what it tells next can be that it wants to
        // know no more.
        let mut now = Context::from_waker(Waker::noop());
        match answering.as_mut().poll(&mut now) {
            Poll::Ready(answer) => self.running.spawn(std::future::ready(answer)),
            Poll::Pending => self.running.spawn(answering),
        };
        Ok(())
    }

    /// Passes on what is told; or what is wrong with it.
    pub(crate) fn told(&mut self, word: Word) -> Result<(), &'static str> {
        if let Word::Withdraw(id) = word {
            if !(1..=self.last).contains(&id) {
                return Err("it withdraws what it has not asked");
            }
            // The answer may be on its way.
            if let Some(waiting) = self.waiting.remove(&id) {
                let _ = waiting.send(());
            }
            return Ok(());
        }
        if let Word::Release(child) = word {
            self.outputs.files().remove(&child);
        }
        if self.services.tell(word) {
            Ok(())
        } else {
            Err("it tells of what it has not")
        }
    }

    /// Sees to answers for ever, until one is wrong to ask for. Cancel safe.
    pub(crate) async fn answer(&mut self) -> &'static str {
        loop {
            match self.running.join_next().await {
                None => std::future::pending().await,
                Some(Ok((_, Reply::Answer(Answer::Refused)))) => {
                    return "it asks about what it has not";
                }
                // There is room for as many as may be open.
                Some(Ok(answer)) => {
                    self.waiting.remove(&answer.0);
                    if self.answers.try_send(answer).is_err() {
                        return "it has more answers than asks";
                    }
                }
                Some(Err(_)) => return "its ask could not be answered",
            }
        }
    }
}

impl Answers {
    /// The next answer to send, with what comes along. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<(Order, Vec<OwnedFd>)> {
        let (id, reply) = self.answers.recv().await?;
        let mut along = Vec::new();
        let answer = match reply {
            Reply::Output(file, len) => {
                along.push(file);
                WireAnswer::Output(len)
            }
            Reply::Answer(answer) => to_wire(answer, &mut along),
        };
        Some((Order::Answer { id, answer }, along))
    }

    /// One was sent.
    pub(crate) fn sent(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer for a frame, and the descriptors that are to come along.
fn to_wire(answer: Answer, along: &mut Vec<OwnedFd>) -> WireAnswer {
    match answer {
        Answer::Spawned(child) => WireAnswer::Spawned(child),
        Answer::NotSpawned { error, .. } => WireAnswer::NotSpawned(error),
        Answer::Ended | Answer::Refused => WireAnswer::Ended,
        Answer::End(end) => WireAnswer::End(end),
        Answer::Region(Ok((draft, bytes))) => {
            along.push(draft.into_file());
            WireAnswer::Region(bytes)
        }
        Answer::Region(Err(error)) => WireAnswer::NoRegion(error.errno()),
        Answer::RegionBytes(bytes) => WireAnswer::RegionBytes(bytes),
        Answer::Locked(ticket) => WireAnswer::Locked(ticket),
        Answer::NotAvailable => WireAnswer::NotAvailable,
        Answer::NotLocked => WireAnswer::NotLocked,
        Answer::Joined(port) => match port.into_parts() {
            Some((parts, descriptors)) => {
                along.extend(descriptors);
                WireAnswer::Joined(parts)
            }
            None => WireAnswer::NotJoined,
        },
        Answer::NotJoined => WireAnswer::NotJoined,
        Answer::Claimed { file, sole } => {
            along.push(file);
            WireAnswer::Claimed(sole)
        }
    }
}

/// An ask out of what somebody sent who is not trusted. Needs the context of a tokio
/// runtime.
fn ask_of(ask: WireAsk, descriptors: Vec<OwnedFd>) -> Result<Ask, &'static str> {
    let mut descriptors = descriptors.into_iter();
    match ask {
        WireAsk::Ended(id) => Ok(Ask::Ended(id)),
        WireAsk::End(id) => Ok(Ask::End(id)),
        WireAsk::Region { len, kind, room } => Ok(Ask::Region { len, kind, room }),
        WireAsk::RegionBytes => Ok(Ask::RegionBytes),
        WireAsk::Claim => descriptors
            .next()
            .map(Ask::Claim)
            .ok_or("it claims a descriptor that is not a region"),
        WireAsk::Spawn { name, .. } | WireAsk::Lock { name, .. } | WireAsk::Join(name)
            if name.len() > MAX_NAME =>
        {
            Err("it asks for a name that is too long")
        }
        WireAsk::Lock {
            name,
            mode,
            if_available,
        } => Ok(Ask::Lock {
            name,
            mode,
            if_available,
        }),
        WireAsk::Join(name) => Ok(Ask::Join(name)),
        WireAsk::Spawn { name, input, port } => {
            let (input, len) = match input {
                Data::Inline(bytes) if bytes.len() > INLINE => {
                    return Err("its frames have too much data");
                }
                Data::Inline(bytes) => {
                    let len = bytes.len() as u64;
                    (InputKind::Bytes(bytes), len)
                }
                Data::File(len) => {
                    let file = descriptors.next().filter(|file| is_sealed(file, len));
                    let file = file.ok_or("it sent a descriptor that is not a file")?;
                    (InputKind::Reader(Box::new(Sealed { file, at: 0 })), len)
                }
            };
            let port = match port {
                None => None,
                Some(parts) => {
                    let pair = [(); PARTS].map(|()| descriptors.next());
                    let [Some(messages), Some(credit), Some(arena)] = pair else {
                        return Err("it sends half a port");
                    };
                    let port = Port::from_parts(parts, [messages, credit, arena]);
                    let port = port.map_err(|_| "it sent a descriptor that is not a port")?;
                    Some(Box::new(port))
                }
            };
            Ok(Ask::Spawn {
                name,
                input,
                len,
                port,
            })
        }
    }
}

/// What is in a memory file that nobody can change: reading it never waits.
struct Sealed {
    file: OwnedFd,
    at: u64,
}

impl AsyncRead for Sealed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let len = buf.remaining().min(PIECE);
        let into = buf.initialize_unfilled_to(len);
        let read = loop {
            match pread(&self.file, &mut *into, self.at) {
                Err(Errno::INTR) => {}
                read => break read?,
            }
        };
        buf.advance(read);
        self.at += read as u64;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
