//! The runner's end: checks the requests of a worker, has the services of the task serve
//! them, and keeps the responses until they are sent.

use super::INLINE;
use crate::wire::{Data, Order, WireRequest, WireResponse};
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
use wrun_sandbox::services::{Notification, ServiceRequest, ServiceResponse, Services};
use wrun_sandbox::turn::Turn;
use wrun_sys::Unpoisoned;
use wrun_types::outcome::{Crash, Outcome, Output};

/// Maximum of open requests, beside one for each child that is waited for.
const MOST: usize = 64;
/// Maximum length of a name in a request, in bytes.
const MAX_NAME: usize = wrun_types::spec::MAX_TASK_NAME;
/// Bytes that are read from a file at a time.
const PIECE: usize = 64 << 10;

/// The requests of one task, in its supervisor.
pub(crate) struct Responder {
    services: Arc<dyn Services>,
    most: usize,
    last: u64,
    /// Requests whose response was not sent yet.
    open: Arc<AtomicUsize>,
    running: JoinSet<(u64, Reply)>,
    /// Requests that wait for a lock, and the senders that withdraw them.
    waiting: HashMap<u64, oneshot::Sender<()>>,
    outputs: Arc<Outputs>,
    responses: mpsc::Sender<(u64, Reply)>,
}

/// The responses that are to be sent.
pub(crate) struct Responses {
    responses: mpsc::Receiver<(u64, Reply)>,
    open: Arc<AtomicUsize>,
}

/// A response as it is sent.
enum Reply {
    Response(ServiceResponse),
    /// A child completed, with this many bytes of output in the file.
    Output(OwnedFd, u64),
}

/// The outputs of children that are too large for a frame, each in one memory file until
/// the child is released. A file for each request would let the worker use any amount of
/// memory.
#[derive(Default)]
struct Outputs {
    /// By child; `None` until the file is made.
    files: Mutex<HashMap<u64, Option<OwnedFd>>>,
    /// Held while a file is made.
    making: tokio::sync::Mutex<()>,
}

impl Outputs {
    fn files(&self) -> MutexGuard<'_, HashMap<u64, Option<OwnedFd>>> {
        self.files.lock().unpoisoned()
    }

    /// The reply to a request for the end of a child.
    async fn reply(&self, child: u64, response: ServiceResponse) -> Reply {
        let ServiceResponse::End(Outcome::Completed(Output(output))) = &response else {
            return Reply::Response(response);
        };
        if output.len() <= INLINE {
            return Reply::Response(response);
        }
        match self.file(child, output).await {
            Ok(file) => Reply::Output(file, output.len() as u64),
            Err(error) => {
                let why = format!("cannot pass on its output: {error}");
                Reply::Response(ServiceResponse::End(Outcome::Crashed(Crash::Runner(why))))
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
        // Unless the child was released meanwhile.
        if let Some(kept) = self.files().get_mut(&child) {
            *kept = Some(file);
        }
        Ok(given)
    }
}

impl Responder {
    /// For a task with at most this many others in its tree.
    pub(crate) fn new(services: Arc<dyn Services>, tasks: u32) -> (Self, Responses) {
        let most = MOST + tasks as usize;
        let (sender, responses) = mpsc::channel(most);
        let open = Arc::new(AtomicUsize::new(0));
        let responder = Responder {
            services,
            most,
            last: 0,
            open: open.clone(),
            running: JoinSet::new(),
            waiting: HashMap::new(),
            outputs: Arc::default(),
            responses: sender,
        };
        (responder, Responses { responses, open })
    }

    /// Whether the response to any request was not sent yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0
    }

    /// Takes a request.
    ///
    /// # Errors
    ///
    /// Why the request is a violation.
    pub(crate) fn take(
        &mut self,
        id: u64,
        request: WireRequest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), &'static str> {
        if self.last.checked_add(1) != Some(id) {
            return Err("its requests are not numbered in sequence");
        }
        self.last = id;
        if self.open.fetch_add(1, Ordering::AcqRel) >= self.most {
            return Err("it has too many open requests");
        }
        let request = service_request(request, descriptors)?;
        let services = self.services.clone();
        let mut serving: Pin<Box<dyn Future<Output = (u64, Reply)> + Send>> = match request {
            ServiceRequest::Lock {
                if_available: false,
                ..
            } => {
                let (withdraw, withdrawn) = oneshot::channel();
                self.waiting.insert(id, withdraw);
                Box::pin(async move {
                    let response = tokio::select! {
                        biased;
                        // A dropped sender does not withdraw the request.
                        Ok(()) = withdrawn => ServiceResponse::NotAvailable,
                        response = services.request(request) => response,
                    };
                    (id, Reply::Response(response))
                })
            }
            ServiceRequest::End(child) => {
                let outputs = self.outputs.clone();
                outputs.files().entry(child).or_default();
                Box::pin(async move {
                    let response = services.request(request).await;
                    (id, outputs.reply(child, response).await)
                })
            }
            request => {
                Box::pin(async move { (id, Reply::Response(services.request(request).await)) })
            }
        };
        // In the order of its messages: the next one may release the child.
        let mut now = Context::from_waker(Waker::noop());
        match serving.as_mut().poll(&mut now) {
            Poll::Ready(reply) => self.running.spawn(std::future::ready(reply)),
            Poll::Pending => self.running.spawn(serving),
        };
        Ok(())
    }

    /// Passes on a notification.
    ///
    /// # Errors
    ///
    /// Why the notification is a violation.
    pub(crate) fn notified(&mut self, notification: Notification) -> Result<(), &'static str> {
        if let Notification::Withdraw(id) = notification {
            if !(1..=self.last).contains(&id) {
                return Err("it withdraws an unknown request");
            }
            // The response may be on its way.
            if let Some(waiting) = self.waiting.remove(&id) {
                let _ = waiting.send(());
            }
            return Ok(());
        }
        if let Notification::Release(child) = notification {
            self.outputs.files().remove(&child);
        }
        if self.services.notify(notification) {
            Ok(())
        } else {
            Err("its notification names an unknown child or lock")
        }
    }

    /// Serves requests until one is a violation; returns why. Cancel safe.
    pub(crate) async fn serve(&mut self) -> &'static str {
        loop {
            match self.running.join_next().await {
                None => std::future::pending().await,
                Some(Ok((_, Reply::Response(ServiceResponse::Refused)))) => {
                    return "its request names an unknown child";
                }
                // The channel has room for the responses to all open requests.
                Some(Ok(reply)) => {
                    self.waiting.remove(&reply.0);
                    if self.responses.try_send(reply).is_err() {
                        return "it has more responses than requests";
                    }
                }
                Some(Err(_)) => return "its request could not be served",
            }
        }
    }
}

impl Responses {
    /// The next response to send, with its descriptors. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<(Order, Vec<OwnedFd>)> {
        let (id, reply) = self.responses.recv().await?;
        let mut along = Vec::new();
        let response = match reply {
            Reply::Output(file, len) => {
                along.push(file);
                WireResponse::Output(len)
            }
            Reply::Response(response) => to_wire(response, &mut along),
        };
        Some((Order::Response { id, response }, along))
    }

    /// A response was sent.
    pub(crate) fn sent(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A response for a frame; its descriptors are added to `along`.
fn to_wire(response: ServiceResponse, along: &mut Vec<OwnedFd>) -> WireResponse {
    match response {
        ServiceResponse::Spawned(child) => WireResponse::Spawned(child),
        ServiceResponse::NotSpawned { error, .. } => WireResponse::NotSpawned(error),
        ServiceResponse::Ended | ServiceResponse::Refused => WireResponse::Ended,
        ServiceResponse::End(end) => WireResponse::End(end),
        ServiceResponse::Region(Ok((draft, bytes))) => {
            along.push(draft.into_file());
            WireResponse::Region(bytes)
        }
        ServiceResponse::Region(Err(error)) => WireResponse::NoRegion(error.errno()),
        ServiceResponse::RegionBytes(bytes) => WireResponse::RegionBytes(bytes),
        ServiceResponse::Locked(ticket) => WireResponse::Locked(ticket),
        ServiceResponse::NotAvailable => WireResponse::NotAvailable,
        ServiceResponse::NotLocked => WireResponse::NotLocked,
        ServiceResponse::Joined(port) => match port.into_parts() {
            Some((parts, descriptors)) => {
                along.extend(descriptors);
                WireResponse::Joined(parts)
            }
            None => WireResponse::NotJoined,
        },
        ServiceResponse::NotJoined => WireResponse::NotJoined,
        ServiceResponse::Claimed { file, sole } => {
            along.push(file);
            WireResponse::Claimed(sole)
        }
    }
}

/// Checks a request of a worker, which is not trusted. Needs the context of a tokio
/// runtime.
fn service_request(
    request: WireRequest,
    descriptors: Vec<OwnedFd>,
) -> Result<ServiceRequest, &'static str> {
    let mut descriptors = descriptors.into_iter();
    match request {
        WireRequest::Ended(id) => Ok(ServiceRequest::Ended(id)),
        WireRequest::End(id) => Ok(ServiceRequest::End(id)),
        WireRequest::Region { len, kind, room } => Ok(ServiceRequest::Region { len, kind, room }),
        WireRequest::RegionBytes => Ok(ServiceRequest::RegionBytes),
        WireRequest::Claim => descriptors
            .next()
            .map(ServiceRequest::Claim)
            .ok_or("it claims a descriptor that is not a region"),
        WireRequest::Spawn { name, .. }
        | WireRequest::Lock { name, .. }
        | WireRequest::Join(name)
            if name.len() > MAX_NAME =>
        {
            Err("the name in its request is too long")
        }
        WireRequest::Lock {
            name,
            mode,
            if_available,
        } => Ok(ServiceRequest::Lock {
            name,
            mode,
            if_available,
        }),
        WireRequest::Join(name) => Ok(ServiceRequest::Join(name)),
        WireRequest::Spawn { name, input, port } => {
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
            Ok(ServiceRequest::Spawn {
                name,
                input,
                len,
                port,
            })
        }
    }
}

/// The content of a memory file that is sealed against writing: reading it never waits.
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
