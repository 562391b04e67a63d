//! `wrun:task/ports`: channels to other tasks and to the host.

use super::bindings::wrun::task::ports::{
    Host as PortsHost, HostPort, Message as AbiMessage, PortError as AbiError, Unsent as AbiUnsent,
};
use super::regions::Handle;
use crate::epoch;
use crate::host::Host;
use crate::port::{Message, Moment, Port, PortError, Unsent, settle};
use crate::region::Region;
use crate::token::Token;
use std::sync::Arc;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

/// Maximum of ports that a task may have at a time. Each is three descriptors in process
/// mode.
pub(super) const MAX_HELD: u32 = 32;

/// A guest's handles for the regions and ports of a message.
type Handles = (Vec<Resource<Handle>>, Vec<Resource<GuestPort>>);

/// A port in a guest's table. It is shared only while the guest waits for a call
/// on it.
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub struct GuestPort(Arc<Port>);

impl From<PortError> for AbiError {
    fn from(error: PortError) -> Self {
        match error {
            PortError::Closed => AbiError::Closed,
            PortError::WouldBlock => AbiError::WouldBlock,
            PortError::TooLarge => AbiError::TooLarge,
            PortError::Limit => AbiError::Limit,
            // All ports of a guest belong to its runner.
            PortError::OtherRunner => AbiError::Busy,
        }
    }
}

/// Waits for `work`, unless the task is cancelled.
async fn or_cancelled<T>(cancel: &Token, work: impl Future<Output = T>) -> Result<T, AbiError> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = cancel.cancelled() => Err(AbiError::Cancelled),
    }
}

/// How long a call may block the thread of a guest that runs: see [`epoch::Running`].
fn moment() -> Moment {
    if epoch::signals() {
        Moment::Tick
    } else {
        Moment::Timed
    }
}

impl Host {
    fn port(&mut self, port: &Resource<GuestPort>) -> wasmtime::Result<Arc<Port>> {
        Ok(self.table().get(port)?.0.clone())
    }

    /// Takes a port out of the guest's table, which refuses while a pollable of it exists.
    pub(super) fn take_port(
        &mut self,
        port: Resource<GuestPort>,
    ) -> wasmtime::Result<Result<Port, Resource<GuestPort>>> {
        let rep = port.rep();
        match self.table().delete(port) {
            Ok(GuestPort(port)) => match Arc::into_inner(port) {
                Some(port) => {
                    self.context.ports.held = self.context.ports.held.saturating_sub(1);
                    Ok(Ok(port))
                }
                None => Err(wasmtime::Error::msg("a port is in use")),
            },
            Err(_) => Ok(Err(Resource::new_own(rep))),
        }
    }

    pub(super) fn push_port(&mut self, port: Port) -> wasmtime::Result<Resource<GuestPort>> {
        port.adopt(self.context.ports.in_flight());
        let port = self.table().push(GuestPort(Arc::new(port)))?;
        self.context.ports.held = self.context.ports.held.saturating_add(1);
        Ok(port)
    }

    /// Takes the ports and regions of a message out of the guest's table; returns all of
    /// them if one cannot be taken.
    fn take_message(
        &mut self,
        message: AbiMessage,
    ) -> wasmtime::Result<Result<Message, AbiUnsent>> {
        let AbiMessage {
            data,
            regions,
            ports,
        } = message;
        let refused = |error, regions, ports| {
            Ok(Err(AbiUnsent {
                error,
                regions,
                ports,
            }))
        };
        if data.len() > Message::MAX_DATA
            || regions.len() > Message::MAX_REGIONS
            || ports.len() > Message::MAX_PORTS
        {
            return refused(AbiError::TooLarge, regions, ports);
        }
        for region in &regions {
            if !self.may_move(region)? {
                return refused(AbiError::Busy, regions, ports);
            }
        }
        let mut taken: Vec<Port> = Vec::with_capacity(ports.len());
        let mut left = ports.into_iter();
        for port in left.by_ref() {
            // It cannot be the port that is sent through: the ABI has lent that one.
            match self.take_port(port)? {
                Ok(port) => taken.push(port),
                Err(port) => {
                    let mut back = Vec::new();
                    for port in taken {
                        back.push(self.push_port(port)?);
                    }
                    back.push(port);
                    back.extend(left);
                    return refused(AbiError::Busy, regions, back);
                }
            }
        }
        let regions = regions.into_iter();
        let regions = regions.map(|region| self.give_away(region));
        let mut message = Message::new(data);
        message.regions = regions.collect::<wasmtime::Result<_>>()?;
        message.ports = taken;
        Ok(Ok(message))
    }

    /// Handles for ports and regions that were received, or returned, in the same order.
    fn take_in_all(&mut self, regions: Vec<Region>, ports: Vec<Port>) -> wasmtime::Result<Handles> {
        let regions = regions.into_iter().map(|region| self.take_in(region));
        let regions = regions.collect::<wasmtime::Result<_>>()?;
        let ports = ports.into_iter().map(|port| self.push_port(port));
        Ok((regions, ports.collect::<wasmtime::Result<_>>()?))
    }

    /// Whether it may receive nothing more, because of what it holds.
    fn has_too_much(&self) -> bool {
        self.context.ports.held > MAX_HELD || self.limiter.holds_too_many()
    }

    fn sent(&mut self, sent: Result<(), Unsent>) -> wasmtime::Result<Result<(), AbiUnsent>> {
        match sent {
            Ok(()) => Ok(Ok(())),
            Err(Unsent { error, message }) => {
                let (regions, ports) = self.take_in_all(message.regions, message.ports)?;
                Ok(Err(AbiUnsent {
                    error: error.into(),
                    regions,
                    ports,
                }))
            }
        }
    }

    fn received(
        &mut self,
        received: Result<Message, PortError>,
    ) -> wasmtime::Result<Result<AbiMessage, AbiError>> {
        match received {
            Err(error) => Ok(Err(error.into())),
            Ok(Message {
                data,
                regions,
                ports,
                ..
            }) => {
                let (regions, ports) = self.take_in_all(regions, ports)?;
                Ok(Ok(AbiMessage {
                    data: data.into(),
                    regions,
                    ports,
                }))
            }
        }
    }
}

impl PortsHost for Host {
    fn channel(
        &mut self,
        capacity: u32,
    ) -> wasmtime::Result<Result<(Resource<GuestPort>, Resource<GuestPort>), AbiError>> {
        if self.context.ports.held.saturating_add(2) > MAX_HELD {
            return Ok(Err(AbiError::Limit));
        }
        match self.context.ports.transport.channel(capacity) {
            Ok((one, other)) => Ok(Ok((self.push_port(one)?, self.push_port(other)?))),
            Err(error) => Ok(Err(error.into())),
        }
    }

    fn parent(&mut self) -> wasmtime::Result<Option<Resource<GuestPort>>> {
        match self.context.ports.parent.take() {
            Some(port) => self.push_port(port).map(Some),
            None => Ok(None),
        }
    }
}

impl HostPort for Host {
    async fn send(
        &mut self,
        port: Resource<GuestPort>,
        message: AbiMessage,
    ) -> wasmtime::Result<Result<(), AbiUnsent>> {
        let through = self.port(&port)?;
        let mut message = match self.take_message(message)? {
            Ok(message) => message,
            Err(refused) => return Ok(Err(refused)),
        };
        let cancel = self.context.cancel.clone();
        loop {
            match through.try_send_of(message, self.context.ports.in_flight()) {
                Err(unsent) if unsent.error == PortError::WouldBlock => message = unsent.message,
                sent => return self.sent(sent),
            }
            // Waiting with the event loop takes longer than most replies.
            if self.blocking && through.has_room_soon(moment()) {
                continue;
            }
            let error = match or_cancelled(&cancel, through.room()).await {
                Ok(true) => continue,
                Ok(false) => AbiError::Closed,
                Err(error) => error,
            };
            let unsent = Unsent {
                error: PortError::Closed,
                message,
            };
            let sent = self.sent(Err(unsent))?;
            return Ok(sent.map_err(|unsent| AbiUnsent { error, ..unsent }));
        }
    }

    fn try_send(
        &mut self,
        port: Resource<GuestPort>,
        message: AbiMessage,
    ) -> wasmtime::Result<Result<(), AbiUnsent>> {
        let through = self.port(&port)?;
        let in_flight = self.context.ports.in_flight().clone();
        match self.take_message(message)? {
            Ok(message) => self.sent(through.try_send_of(message, &in_flight)),
            Err(refused) => Ok(Err(refused)),
        }
    }

    async fn receive(
        &mut self,
        port: Resource<GuestPort>,
    ) -> wasmtime::Result<Result<AbiMessage, AbiError>> {
        if self.has_too_much() {
            return Ok(Err(AbiError::Limit));
        }
        let from = self.port(&port)?;
        if self.blocking {
            match from.receive_soon(moment()) {
                Err(PortError::WouldBlock) => {}
                received => return self.received(received),
            }
        }
        let cancel = self.context.cancel.clone();
        match or_cancelled(&cancel, from.receive()).await {
            Ok(received) => self.received(received),
            Err(error) => Ok(Err(error)),
        }
    }

    fn try_receive(
        &mut self,
        port: Resource<GuestPort>,
    ) -> wasmtime::Result<Result<AbiMessage, AbiError>> {
        if self.has_too_much() {
            return Ok(Err(AbiError::Limit));
        }
        let received = self.port(&port)?.try_receive();
        self.received(received)
    }

    fn subscribe(&mut self, port: Resource<GuestPort>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table(), port)
    }

    fn close(&mut self, port: Resource<GuestPort>) -> wasmtime::Result<()> {
        settle();
        self.port(&port)?.close();
        Ok(())
    }

    fn drop(&mut self, port: Resource<GuestPort>) -> wasmtime::Result<()> {
        settle();
        self.table().delete(port)?;
        self.context.ports.held = self.context.ports.held.saturating_sub(1);
        Ok(())
    }
}

#[async_trait::async_trait]
impl Pollable for GuestPort {
    async fn ready(&mut self) {
        self.0.readable().await;
    }
}
