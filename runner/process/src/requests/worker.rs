//! The worker's end: sends the requests of the running guest to the runner, and hands on
//! the responses.

use super::INLINE;
use crate::channel::Sender;
#[cfg(feature = "http")]
use crate::http::Slots;
use crate::http::{Fetching, Unsent};
use crate::wire::{Data, WireRequest, WireResponse, WorkerSays};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use wrun_sandbox::InputKind;
#[cfg(feature = "http")]
use wrun_sandbox::http::{Body, Fetch, FetchError};
use wrun_sandbox::port::{PARTS, Port, contents, in_memory};
use wrun_sandbox::region::{Draft, Kind, RegionError};
use wrun_sandbox::services::{Notification, ServiceRequest, ServiceResponse, Services, SpawnError};
use wrun_types::outcome::{Outcome, Output};

/// The services of a task, in its worker.
pub(crate) struct Client {
    outgoing: mpsc::UnboundedSender<Outgoing>,
    #[cfg(feature = "http")]
    fetches: Slots,
}

/// What the running guest has to send to the runner.
pub(crate) enum Outgoing {
    Request(ServiceRequest, oneshot::Sender<ServiceResponse>),
    Notify(Notification),
    /// An HTTP request.
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "without HTTP no guest sends any")
    )]
    Fetch(Box<Unsent>),
    /// A wait for a lock was given up.
    Withdraw,
}

/// A wait for a lock; dropping it withdraws the request.
struct LockWait<'a>(Option<&'a mpsc::UnboundedSender<Outgoing>>);

impl Drop for LockWait<'_> {
    fn drop(&mut self) {
        if let Some(outgoing) = self.0 {
            let _ = outgoing.send(Outgoing::Withdraw);
        }
    }
}

#[async_trait::async_trait]
impl Services for Client {
    async fn request(&self, request: ServiceRequest) -> ServiceResponse {
        let waits = waits_for_a_lock(&request);
        let (response, answered) = oneshot::channel();
        if self
            .outgoing
            .send(Outgoing::Request(request, response))
            .is_err()
        {
            return ServiceResponse::Refused;
        }
        // Dropped after the receiver of the response.
        let mut waiting = LockWait(waits.then_some(&self.outgoing));
        let response = answered.await.unwrap_or(ServiceResponse::Refused);
        waiting.0 = None;
        response
    }

    fn notify(&self, notification: Notification) -> bool {
        self.outgoing.send(Outgoing::Notify(notification)).is_ok()
    }

    #[cfg(feature = "http")]
    async fn fetch(&self, fetch: Fetch) -> Result<http::Response<Body>, FetchError> {
        let send = |unsent| {
            let sent = self.outgoing.send(Outgoing::Fetch(Box::new(unsent)));
            sent.map_err(|_| FetchError::Runner)
        };
        self.fetches.fetch(fetch, send).await
    }
}

/// The requests of this worker that have no response yet.
///
/// The queue needs no bound of its own: a guest waits for each response, except for the
/// end of a child, which is requested once for each handle. It sends at most two
/// notifications for each child and two for each lock.
pub(crate) struct Requester {
    outgoing: mpsc::UnboundedReceiver<Outgoing>,
    last: u64,
    open: HashMap<u64, Open>,
}

struct Open {
    response: oneshot::Sender<ServiceResponse>,
    /// Returned to the guest if no child was started.
    port: Option<Box<Port>>,
    /// Length and kind of the requested region.
    region: Option<(u64, Kind)>,
    /// It is for a lock, and was not withdrawn.
    waits: bool,
}

/// A request as it is sent, with its descriptors.
struct Parcel {
    request: WireRequest,
    file: Option<OwnedFd>,
    port: Option<Box<Port>>,
    region: Option<(u64, Kind)>,
}

impl Parcel {
    /// The parcel, or the response if nothing can be sent.
    fn of(request: ServiceRequest) -> io::Result<Result<Self, ServiceResponse>> {
        let mut file = None;
        let mut region = None;
        let (request, port) = match request {
            ServiceRequest::Region { len, kind, room } => {
                region = Some((len, kind));
                (WireRequest::Region { len, kind, room }, None)
            }
            ServiceRequest::RegionBytes => (WireRequest::RegionBytes, None),
            ServiceRequest::Claim(region) => {
                file = Some(region);
                (WireRequest::Claim, None)
            }
            ServiceRequest::Ended(id) => (WireRequest::Ended(id), None),
            ServiceRequest::End(id) => (WireRequest::End(id), None),
            ServiceRequest::Lock {
                name,
                mode,
                if_available,
            } => {
                let lock = WireRequest::Lock {
                    name,
                    mode,
                    if_available,
                };
                (lock, None)
            }
            ServiceRequest::Join(name) => (WireRequest::Join(name), None),
            ServiceRequest::Spawn {
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
                            return Ok(Err(ServiceResponse::NotSpawned { error, port }));
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
                let spawn = WireRequest::Spawn {
                    name,
                    input,
                    port: parts,
                };
                (spawn, port)
            }
        };
        Ok(Ok(Parcel {
            request,
            file,
            port,
            region,
        }))
    }
}

fn waits_for_a_lock(request: &ServiceRequest) -> bool {
    matches!(
        request,
        ServiceRequest::Lock {
            if_available: false,
            ..
        }
    )
}

impl Requester {
    pub(crate) fn new() -> (Arc<Client>, Self) {
        let (sender, outgoing) = mpsc::unbounded_channel();
        let requester = Requester {
            outgoing,
            last: 0,
            open: HashMap::new(),
        };
        let client = Client {
            outgoing: sender,
            #[cfg(feature = "http")]
            fetches: Slots::new(),
        };
        (Arc::new(client), requester)
    }

    /// The next to send; `None` when every [`Client`] is gone. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Outgoing> {
        self.outgoing.recv().await
    }

    pub(crate) async fn send(
        &mut self,
        outgoing: Outgoing,
        fetching: &mut Fetching,
        says: &mut Sender,
    ) -> io::Result<()> {
        let (request, response) = match outgoing {
            Outgoing::Fetch(unsent) => return says.say(&fetching.begin(*unsent)).await,
            Outgoing::Notify(notification) => {
                return says.say(&WorkerSays::Notify(notification)).await;
            }
            Outgoing::Withdraw => return self.withdraw(says).await,
            Outgoing::Request(request, response) => (request, response),
        };
        let waits = waits_for_a_lock(&request);
        if waits && response.is_closed() {
            return Ok(());
        }
        let claims = matches!(request, ServiceRequest::Claim(_));
        let Parcel {
            request,
            file,
            port,
            region,
        } = match Parcel::of(request)? {
            Ok(parcel) => parcel,
            Err(answered) => {
                let _ = response.send(answered);
                return Ok(());
            }
        };
        self.last += 1;
        let id = self.last;
        let frame =
            Sender::frame(&WorkerSays::Request { id, request }).map_err(io::Error::other)?;
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
            // The user has too many descriptors in sockets; nothing was sent.
            Err(error) if error.raw_os_error() == Some(Errno::TOOMANYREFS.raw_os_error()) => {
                self.last -= 1;
                let answered = match (claims, file) {
                    (true, Some(file)) => ServiceResponse::Claimed { file, sole: false },
                    _ => ServiceResponse::NotSpawned {
                        error: SpawnError::Limit,
                        port,
                    },
                };
                let _ = response.send(answered);
                return Ok(());
            }
            sent => sent?,
        }
        let open = Open {
            response,
            port,
            region,
            waits,
        };
        self.open.insert(id, open);
        Ok(())
    }

    /// Withdraws each request for a lock whose caller has stopped waiting.
    async fn withdraw(&mut self, says: &mut Sender) -> io::Result<()> {
        for (id, open) in &mut self.open {
            if open.waits && open.response.is_closed() {
                open.waits = false;
                says.say(&WorkerSays::Notify(Notification::Withdraw(*id)))
                    .await?;
            }
        }
        Ok(())
    }

    /// Hands on a response. Returns the notification to send if the caller has stopped
    /// waiting for it.
    pub(crate) fn answered(
        &mut self,
        id: u64,
        response: WireResponse,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Option<Notification>> {
        let Some(open) = self.open.remove(&id) else {
            return Err(io::Error::other("unknown request"));
        };
        let Open {
            response: to,
            port,
            region,
            waits: _,
        } = open;
        let response = match response {
            WireResponse::Spawned(id) => {
                if let Some(port) = port {
                    port.handed_over();
                }
                ServiceResponse::Spawned(id)
            }
            WireResponse::NotSpawned(error) => ServiceResponse::NotSpawned { error, port },
            WireResponse::Ended => ServiceResponse::Ended,
            WireResponse::End(end) => ServiceResponse::End(end),
            WireResponse::Output(len) => {
                let bad = || io::Error::other("no output came along");
                let len = usize::try_from(len).map_err(io::Error::other)?;
                let file = descriptors.into_iter().next().ok_or_else(bad)?;
                ServiceResponse::End(Outcome::Completed(Output(
                    contents(file, len).ok_or_else(bad)?,
                )))
            }
            WireResponse::Region(bytes) => {
                let bad = || io::Error::other("no region came along");
                let file = descriptors.into_iter().next().ok_or_else(bad)?;
                let (len, kind) = region.ok_or_else(bad)?;
                ServiceResponse::Region(
                    Draft::from_runner(file, len, kind).map(|draft| (draft, bytes)),
                )
            }
            WireResponse::NoRegion(errno) => ServiceResponse::Region(Err(RegionError::System {
                what: "cannot make a region",
                error: io::Error::from_raw_os_error(errno),
            })),
            WireResponse::RegionBytes(bytes) => ServiceResponse::RegionBytes(bytes),
            WireResponse::Locked(ticket) => ServiceResponse::Locked(ticket),
            WireResponse::NotAvailable => ServiceResponse::NotAvailable,
            WireResponse::NotLocked => ServiceResponse::NotLocked,
            WireResponse::Joined(parts) => {
                let pair = <[OwnedFd; PARTS]>::try_from(descriptors);
                let pair = pair.map_err(|_| io::Error::other("no port came along"))?;
                ServiceResponse::Joined(Port::from_parts(parts, pair)?)
            }
            WireResponse::NotJoined => ServiceResponse::NotJoined,
            WireResponse::Claimed(sole) => {
                let file = descriptors.into_iter().next();
                let file = file.ok_or_else(|| io::Error::other("no region came along"))?;
                ServiceResponse::Claimed { file, sole }
            }
        };
        Ok(match to.send(response) {
            // The task was cancelled while it waited, and the lock was already granted.
            Err(ServiceResponse::Locked(ticket)) => Some(Notification::Unlock(ticket)),
            _ => None,
        })
    }
}
