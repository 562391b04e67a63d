//! What a task in a worker asks its runner for: both ends.
//!
//! The worker is not trusted. Invariants: asks are numbered from 1 on, without a gap;
//! as many are open as [`MOST`] and its tree's tasks, and one more ends the worker;
//! what comes along is what was counted, and is checked before it is used. An answer
//! that the worker does not take holds up nobody but itself. A child's output lies in one
//! file, however often it is asked for. The end of a task drops what is open.

use super::channel::Sender;
use crate::wire::{Data, Order, WireAnswer, WireAsk, WorkerSays};
use bytes::Bytes;
use rustix::io::{Errno, pread};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use wrun_sandbox::InputKind;
use wrun_sandbox::port::{PARTS, Port, Unsealed, contents, in_memory, is_sealed};
use wrun_sandbox::region::{Draft, Kind, RegionError};
use wrun_sandbox::services::{Answer, Ask, Services, SpawnError, Word};
use wrun_sandbox::turn::Turn;
use wrun_types::outcome::{Crash, Outcome, Output};

/// Asks that are open at a time, beside one for each child that is waited for.
const MOST: usize = 64;
/// Data up to this size travels in a frame.
const INLINE: usize = 256 << 10;
/// Bytes of a name that is asked for, at most.
const MAX_NAME: usize = wrun_types::spec::MAX_TASK_NAME;
/// What is read of a file at a time.
const PIECE: usize = 64 << 10;

/// The services of a task, in its worker.
pub(super) struct Client(mpsc::UnboundedSender<Wish>);

/// What the running guest wants to have asked or told.
pub(super) enum Wish {
    Ask(Ask, oneshot::Sender<Answer>),
    Tell(Word),
    /// Somebody waits no longer for a lock.
    Withdraw,
}

/// Somebody who waits for a lock, and may give up.
struct Waiting<'a>(Option<&'a mpsc::UnboundedSender<Wish>>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(wishes) = self.0 {
            let _ = wishes.send(Wish::Withdraw);
        }
    }
}

#[async_trait::async_trait]
impl Services for Client {
    async fn ask(&self, ask: Ask) -> Answer {
        let waits = waits_for_a_lock(&ask);
        let (answer, answered) = oneshot::channel();
        if self.0.send(Wish::Ask(ask, answer)).is_err() {
            return Answer::Refused;
        }
        // Dropped after what the answer would come to.
        let mut waiting = Waiting(waits.then_some(&self.0));
        let answer = answered.await.unwrap_or(Answer::Refused);
        waiting.0 = None;
        answer
    }

    fn tell(&self, word: Word) -> bool {
        self.0.send(Wish::Tell(word)).is_ok()
    }
}

/// What was asked in this worker and not answered yet.
///
/// The queue has no bound of its own: a guest waits for each answer but the one about
/// a child's end, of which there is one for each handle, and tells two things of each
/// child and two of each lock, at most.
pub(super) struct Asking {
    wishes: mpsc::UnboundedReceiver<Wish>,
    last: u64,
    open: HashMap<u64, Open>,
}

struct Open {
    answer: oneshot::Sender<Answer>,
    /// Given back where no child took it.
    port: Option<Box<Port>>,
    /// The region that was asked for.
    region: Option<(u64, Kind)>,
    /// It is for a lock, and was not withdrawn.
    waits: bool,
}

fn waits_for_a_lock(ask: &Ask) -> bool {
    matches!(
        ask,
        Ask::Lock {
            if_available: false,
            ..
        }
    )
}

impl Asking {
    pub(super) fn new() -> (Arc<Client>, Self) {
        let (sender, wishes) = mpsc::unbounded_channel();
        let asking = Asking {
            wishes,
            last: 0,
            open: HashMap::new(),
        };
        (Arc::new(Client(sender)), asking)
    }

    /// The next wish; none when nobody is left to have one. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Wish> {
        self.wishes.recv().await
    }

    pub(super) async fn send(&mut self, wish: Wish, says: &mut Sender) -> io::Result<()> {
        let (ask, answer) = match wish {
            Wish::Tell(word) => return says.say(&WorkerSays::Tell(word)).await,
            Wish::Withdraw => return self.withdraw(says).await,
            Wish::Ask(ask, answer) => (ask, answer),
        };
        let waits = waits_for_a_lock(&ask);
        if waits && answer.is_closed() {
            return Ok(());
        }
        let claims = matches!(ask, Ask::Claim(_));
        let mut file = None;
        let mut region = None;
        let (ask, port) = match ask {
            Ask::Region { len, kind, room } => {
                region = Some((len, kind));
                (WireAsk::Region { len, kind, room }, None)
            }
            Ask::RegionBytes => (WireAsk::RegionBytes, None),
            Ask::Claim(region) => {
                file = Some(region);
                (WireAsk::Claim, None)
            }
            Ask::Ended(id) => (WireAsk::Ended(id), None),
            Ask::End(id) => (WireAsk::End(id), None),
            Ask::Lock {
                name,
                mode,
                if_available,
            } => {
                let lock = WireAsk::Lock {
                    name,
                    mode,
                    if_available,
                };
                (lock, None)
            }
            Ask::Join(name) => (WireAsk::Join(name), None),
            Ask::Spawn {
                name, input, port, ..
            } => {
                let InputKind::Bytes(input) = input else {
                    return Err(io::Error::other("a guest has no streams to give"));
                };
                let input = if input.len() > INLINE {
                    match in_memory(&input) {
                        Ok(made) => file = Some(made),
                        Err(_) => {
                            let error = SpawnError::Limit;
                            let _ = answer.send(Answer::NotSpawned { error, port });
                            return Ok(());
                        }
                    }
                    Data::File(input.len() as u64)
                } else {
                    Data::Inline(input)
                };
                let parts = port
                    .as_deref()
                    .and_then(Port::parts)
                    .map(|(parts, _)| parts);
                let spawn = WireAsk::Spawn {
                    name,
                    input,
                    port: parts,
                };
                (spawn, port)
            }
        };
        self.last += 1;
        let id = self.last;
        let frame = Sender::frame(&WorkerSays::Ask { id, ask }).map_err(io::Error::other)?;
        let mut descriptors: Vec<BorrowedFd<'_>> = Vec::new();
        descriptors.extend(file.as_ref().map(AsFd::as_fd));
        descriptors.extend(
            port.as_deref()
                .and_then(Port::parts)
                .into_iter()
                .flat_map(|(_, descriptors)| descriptors),
        );
        let sent = says.send(&frame, &descriptors).await;
        drop(descriptors);
        match sent {
            // Too many descriptors lie in sockets; nothing of it was sent.
            Err(error) if error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error()) => {
                self.last -= 1;
                let answered = match (claims, file) {
                    (true, Some(file)) => Answer::Claimed { file, sole: false },
                    _ => Answer::NotSpawned {
                        error: SpawnError::Limit,
                        port,
                    },
                };
                let _ = answer.send(answered);
                return Ok(());
            }
            sent => sent?,
        }
        let open = Open {
            answer,
            port,
            region,
            waits,
        };
        self.open.insert(id, open);
        Ok(())
    }

    /// Takes back the wish for each lock that nobody waits for any more.
    async fn withdraw(&mut self, says: &mut Sender) -> io::Result<()> {
        for (id, open) in &mut self.open {
            if open.waits && open.answer.is_closed() {
                open.waits = false;
                says.say(&WorkerSays::Tell(Word::Withdraw(*id))).await?;
            }
        }
        Ok(())
    }

    /// Hands on an answer; what is to be told now, where nobody wants it any more.
    pub(super) fn answered(
        &mut self,
        id: u64,
        answer: WireAnswer,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Option<Word>> {
        let Some(open) = self.open.remove(&id) else {
            return Err(io::Error::other("unknown request"));
        };
        let Open {
            answer: to,
            port,
            region,
            waits: _,
        } = open;
        let answer = match answer {
            WireAnswer::Spawned(id) => {
                if let Some(port) = port {
                    port.handed_over();
                }
                Answer::Spawned(id)
            }
            WireAnswer::NotSpawned(error) => Answer::NotSpawned { error, port },
            WireAnswer::Ended => Answer::Ended,
            WireAnswer::End(end) => Answer::End(end),
            WireAnswer::Output(len) => {
                let bad = || io::Error::other("no output came along");
                let len = usize::try_from(len).map_err(io::Error::other)?;
                let file = descriptors.into_iter().next().ok_or_else(bad)?;
                Answer::End(Outcome::Completed(Output(
                    contents(file, len).ok_or_else(bad)?,
                )))
            }
            WireAnswer::Region(bytes) => {
                let bad = || io::Error::other("no region came along");
                let file = descriptors.into_iter().next().ok_or_else(bad)?;
                let (len, kind) = region.ok_or_else(bad)?;
                Answer::Region(Draft::from_runner(file, len, kind).map(|draft| (draft, bytes)))
            }
            WireAnswer::NoRegion(errno) => Answer::Region(Err(RegionError::System {
                what: "cannot make a region",
                error: io::Error::from_raw_os_error(errno),
            })),
            WireAnswer::RegionBytes(bytes) => Answer::RegionBytes(bytes),
            WireAnswer::Locked(ticket) => Answer::Locked(ticket),
            WireAnswer::NotAvailable => Answer::NotAvailable,
            WireAnswer::NotLocked => Answer::NotLocked,
            WireAnswer::Joined(parts) => {
                let pair = <[OwnedFd; PARTS]>::try_from(descriptors);
                let pair = pair.map_err(|_| io::Error::other("no port came along"))?;
                Answer::Joined(Port::from_parts(parts, pair)?)
            }
            WireAnswer::NotJoined => Answer::NotJoined,
            WireAnswer::Claimed(sole) => {
                let file = descriptors.into_iter().next();
                let file = file.ok_or_else(|| io::Error::other("no region came along"))?;
                Answer::Claimed { file, sole }
            }
        };
        Ok(match to.send(answer) {
            // It was asked to stop while it waited, and the lock was on its way.
            Err(Answer::Locked(ticket)) => Some(Word::Unlock(ticket)),
            _ => None,
        })
    }
}

/// The asks of one task, as its supervisor has them.
pub(super) struct Asked {
    services: Arc<dyn Services>,
    most: usize,
    last: u64,
    /// Asked, and the answer not sent yet.
    open: Arc<AtomicUsize>,
    running: JoinSet<(u64, Reply)>,
    /// Those that wait for a lock, and what makes them give up.
    waiting: HashMap<u64, oneshot::Sender<()>>,
    outputs: Arc<Outputs>,
    answers: mpsc::Sender<(u64, Reply)>,
}

/// The answers that are to be sent, and what to do once one is.
pub(super) struct Answers {
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
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Asked {
    /// For a task with so many others in its tree, at most.
    pub(super) fn new(services: Arc<dyn Services>, tasks: u32) -> (Self, Answers) {
        let most = MOST + tasks as usize;
        let (sender, answers) = mpsc::channel(most);
        let open = Arc::new(AtomicUsize::new(0));
        let asked = Asked {
            services,
            most,
            last: 0,
            open: open.clone(),
            running: JoinSet::new(),
            waiting: HashMap::new(),
            outputs: Arc::default(),
            answers: sender,
        };
        (asked, Answers { answers, open })
    }

    /// Whether the answer to anything was not sent yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0
    }

    /// Takes an ask; or what is wrong with it.
    pub(super) fn take(
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
    pub(super) fn told(&mut self, word: Word) -> Result<(), &'static str> {
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
    pub(super) async fn answer(&mut self) -> &'static str {
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
    pub(super) async fn next(&mut self) -> Option<(Order, Vec<OwnedFd>)> {
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
    pub(super) fn sent(&self) {
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
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};
    use wrun_sandbox::port::Transport;
    use wrun_sandbox::services::NoServices;

    fn spawn(input: Data, port: Option<wrun_sandbox::port::PortParts>) -> WireAsk {
        let name = "x".to_owned();
        WireAsk::Spawn { name, input, port }
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_refused() {
        let sealed = || in_memory(b"12345").expect("a file");
        let open = memfd_create("open", MemfdFlags::ALLOW_SEALING).expect("a file");
        rustix::io::pwrite(&open, b"12345", 0).expect("written");
        let (pipe, _writer) = io::pipe().expect("a pipe");
        let (end, _far) = Transport::Socket.channel(1).expect("a channel");
        let (parts, [messages, credit, arena]) = end.into_parts().expect("parts");
        let long = WireAsk::Spawn {
            name: "x".repeat(MAX_NAME + 1),
            input: Data::Inline(Bytes::new()),
            port: None,
        };
        let nothing = || Data::Inline(Bytes::new());
        let bad = [
            (long, vec![]),
            (
                spawn(Data::Inline(vec![0; INLINE + 1].into()), None),
                vec![],
            ),
            (spawn(Data::File(4), None), vec![sealed()]),
            (spawn(Data::File(u64::MAX), None), vec![sealed()]),
            (spawn(Data::File(5), None), vec![open]),
            (spawn(Data::File(5), None), vec![pipe.into()]),
            (spawn(Data::File(5), None), vec![]),
            (spawn(nothing(), Some(parts)), vec![credit, messages, arena]),
            (
                spawn(nothing(), Some(parts)),
                vec![sealed(), sealed(), sealed()],
            ),
            (spawn(nothing(), Some(parts)), vec![]),
        ];
        for (ask, descriptors) in bad {
            let told = format!("{ask:?}");
            assert!(ask_of(ask, descriptors).is_err(), "{told}");
        }
        assert!(ask_of(spawn(Data::File(5), None), vec![sealed()]).is_ok());
    }

    /// The next answer, while what was asked goes on.
    async fn next(asked: &mut Asked, answers: &mut Answers) -> Option<Order> {
        next_along(asked, answers).await.map(|(order, _)| order)
    }

    async fn next_along(asked: &mut Asked, answers: &mut Answers) -> Option<(Order, Vec<OwnedFd>)> {
        tokio::select! {
            biased;
            why = asked.answer() => panic!("{why}"),
            answer = answers.next() => answer,
        }
    }

    #[tokio::test]
    async fn an_output_lies_in_one_file_until_its_child_is_let_go_of() {
        /// Every child has said much.
        struct Talkative;
        #[async_trait::async_trait]
        impl Services for Talkative {
            async fn ask(&self, _: Ask) -> Answer {
                Answer::End(Outcome::Completed(Output(vec![7; INLINE + 1].into())))
            }
            fn tell(&self, _: Word) -> bool {
                true
            }
        }
        let (mut asked, mut answers) = Asked::new(Arc::new(Talkative), 0);
        let mut inodes = Vec::new();
        for (id, child) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
            if id == 4 {
                asked.told(Word::Release(1)).expect("it has one");
            }
            asked.take(id, WireAsk::End(child), vec![]).expect("an ask");
            let (order, mut along) = next_along(&mut asked, &mut answers).await.expect("one");
            let len = match order {
                Order::Answer {
                    answer: WireAnswer::Output(len),
                    ..
                } => usize::try_from(len).expect("a length"),
                other => panic!("{other:?}"),
            };
            answers.sent();
            let file = along.pop().expect("a file");
            inodes.push(rustix::fs::fstat(&file).expect("a file").st_ino);
            let output = contents(file, len).expect("a sealed file");
            assert_eq!(output, vec![7; INLINE + 1]);
        }
        assert_eq!(inodes[0], inodes[1]);
        assert_ne!(inodes[0], inodes[2]);
        assert_ne!(inodes[0], inodes[3]);
    }

    #[tokio::test]
    async fn asks_are_numbered_and_counted() {
        let (mut asked, mut answers) = Asked::new(Arc::new(NoServices), 0);
        let ask = || spawn(Data::Inline(Bytes::new()), None);
        assert!(asked.take(2, ask(), vec![]).is_err());
        for id in 1..=MOST as u64 {
            asked.take(id, ask(), vec![]).expect("as many as may be");
        }
        assert!(asked.take(MOST as u64 + 1, ask(), vec![]).is_err());
        assert!(asked.take(1, ask(), vec![]).is_err());
        assert!(asked.told(Word::Kill(1)).is_err());
        for (id, right) in [(0, false), (1, true), (MOST as u64 + 2, false)] {
            assert_eq!(asked.told(Word::Withdraw(id)).is_ok(), right, "{id}");
        }
        assert!(matches!(
            next(&mut asked, &mut answers).await,
            Some(Order::Answer {
                answer: WireAnswer::NotSpawned(SpawnError::NotGranted),
                ..
            })
        ));
        let (mut asked, _answers) = Asked::new(Arc::new(NoServices), 0);
        asked.take(1, WireAsk::End(7), vec![]).expect("an ask");
        assert_eq!(asked.answer().await, "it asks about what it has not");
    }

    #[tokio::test]
    async fn a_lock_is_withdrawn_and_the_ask_answered() {
        use wrun_sandbox::lock_table::LockMode;
        /// Nobody ever gets it.
        struct Taken;
        #[async_trait::async_trait]
        impl Services for Taken {
            async fn ask(&self, _: Ask) -> Answer {
                std::future::pending().await
            }
            fn tell(&self, _: Word) -> bool {
                false
            }
        }
        let (mut asked, mut answers) = Asked::new(Arc::new(Taken), 0);
        let lock = WireAsk::Lock {
            name: "l".to_owned(),
            mode: LockMode::Shared,
            if_available: false,
        };
        asked.take(1, lock, vec![]).expect("an ask");
        for _ in 0..2 {
            asked.told(Word::Withdraw(1)).expect("it was asked");
        }
        assert!(matches!(
            next(&mut asked, &mut answers).await,
            Some(Order::Answer {
                id: 1,
                answer: WireAnswer::NotAvailable,
            })
        ));
        answers.sent();
        assert!(!asked.is_waiting() && asked.waiting.is_empty());
    }
}
