//! The worker's end: requests of the running guest on their way to the runner, and the
//! answers to them.

use super::INLINE;
use crate::channel::Sender;
use crate::wire::{Data, WireAnswer, WireAsk, WorkerSays};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use wrun_sandbox::InputKind;
use wrun_sandbox::port::{PARTS, Port, contents, in_memory};
use wrun_sandbox::region::{Draft, Kind, RegionError};
use wrun_sandbox::services::{Answer, Ask, Services, SpawnError, Word};
use wrun_types::outcome::{Outcome, Output};

/// The services of a task, in its worker.
pub(crate) struct Client(mpsc::UnboundedSender<Wish>);

/// What the running guest wants to have asked or told.
pub(crate) enum Wish {
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
pub(crate) struct Requester {
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

/// A request as it is sent, with what goes along.
struct Parcel {
    ask: WireAsk,
    file: Option<OwnedFd>,
    port: Option<Box<Port>>,
    region: Option<(u64, Kind)>,
}

impl Parcel {
    /// Or the answer, where nothing can be sent.
    fn of(ask: Ask) -> io::Result<Result<Self, Answer>> {
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
                            return Ok(Err(Answer::NotSpawned { error, port }));
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
        Ok(Ok(Parcel {
            ask,
            file,
            port,
            region,
        }))
    }
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

impl Requester {
    pub(crate) fn new() -> (Arc<Client>, Self) {
        let (sender, wishes) = mpsc::unbounded_channel();
        let requester = Requester {
            wishes,
            last: 0,
            open: HashMap::new(),
        };
        (Arc::new(Client(sender)), requester)
    }

    /// The next wish; none when nobody is left to have one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Wish> {
        self.wishes.recv().await
    }

    pub(crate) async fn send(&mut self, wish: Wish, says: &mut Sender) -> io::Result<()> {
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
        let Parcel {
            ask,
            file,
            port,
            region,
        } = match Parcel::of(ask)? {
            Ok(parcel) => parcel,
            Err(answered) => {
                let _ = answer.send(answered);
                return Ok(());
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
    pub(crate) fn answered(
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
