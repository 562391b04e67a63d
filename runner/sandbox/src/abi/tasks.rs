//! `wrun:task/tasks`: child tasks, which the runner starts.

use super::bindings::wrun::task::tasks::{
    Host as TasksHost, HostChild, Outcome as AbiOutcome, SpawnError as AbiError, Unstarted,
};
use super::ports::GuestPort;
use crate::InputKind;
use crate::host::Host;
use crate::port::Port;
use crate::services::{Notification, ServiceRequest, ServiceResponse, Services, SpawnError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use tokio_util::sync::CancellationToken;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wrun_types::outcome::Outcome;
use wrun_types::report::Access;
use wrun_types::spec::MAX_TASK_NAME;

/// A child in a guest's table.
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub struct GuestChild {
    id: u64,
    services: Arc<dyn Services>,
    /// Cancelled once it has ended, if that was requested.
    ended: CancellationToken,
    /// Whether that was requested.
    watched: AtomicBool,
    killed: bool,
}

impl From<SpawnError> for AbiError {
    fn from(error: SpawnError) -> Self {
        match error {
            SpawnError::NotGranted => AbiError::NotGranted,
            SpawnError::Limit => AbiError::Limit,
            SpawnError::TooLarge => AbiError::TooLarge,
        }
    }
}

impl From<Outcome> for AbiOutcome {
    fn from(end: Outcome) -> Self {
        match end {
            Outcome::Completed(output) => AbiOutcome::Completed(output.into_bytes().into()),
            Outcome::Failed(message) => AbiOutcome::Failed(message),
            Outcome::Exited(code) => AbiOutcome::Exited(code),
            Outcome::Trapped(trap) => AbiOutcome::Trapped(trap.message),
            Outcome::LimitExceeded(limit) => AbiOutcome::LimitExceeded(limit.name().to_owned()),
            Outcome::Crashed(crash) => AbiOutcome::Crashed(crash.to_string()),
            // Cancelled, or an outcome that this version does not know.
            _ => AbiOutcome::Cancelled,
        }
    }
}

impl GuestChild {
    /// Sends one request and keeps its response: a guest that polls comes back, and each
    /// time would be another request. The request is sent now, because the guest may have
    /// released the child before a spawned future is polled.
    fn watch(&self) {
        if self.watched.swap(true, Ordering::Relaxed) {
            return;
        }
        let (services, id) = (self.services.clone(), self.id);
        let ended = self.ended.clone();
        let mut request = Box::pin(async move {
            services.request(ServiceRequest::Ended(id)).await;
            ended.cancel();
        });
        let mut now = Context::from_waker(Waker::noop());
        if request.as_mut().poll(&mut now).is_pending() {
            tokio::spawn(request);
        }
    }
}

impl Drop for GuestChild {
    fn drop(&mut self) {
        if self.id != 0 {
            self.services.notify(Notification::Release(self.id));
        }
    }
}

impl TasksHost for Host {
    async fn spawn(
        &mut self,
        name: String,
        input: Vec<u8>,
        port: Option<Resource<GuestPort>>,
    ) -> wasmtime::Result<Result<Resource<GuestChild>, Unstarted>> {
        if name.len() > MAX_TASK_NAME {
            self.denials.note(Access::Task, &name);
            let error = AbiError::NotGranted;
            return Ok(Err(Unstarted { error, port }));
        }
        let services = self.context.services.clone();
        // Steps that can fail without an effect come before the child.
        let child = self.push(GuestChild {
            id: 0,
            services: services.clone(),
            ended: CancellationToken::new(),
            watched: AtomicBool::new(false),
            killed: false,
        });
        let Some(child) = child else {
            let error = AbiError::Limit;
            return Ok(Err(Unstarted { error, port }));
        };
        let port = match port {
            None => None,
            Some(port) => match self.take_port(port)? {
                Ok(port) => Some(Box::new(port)),
                Err(port) => {
                    self.table().delete(child)?;
                    let (error, port) = (AbiError::Busy, Some(port));
                    return Ok(Err(Unstarted { error, port }));
                }
            },
        };
        let request = ServiceRequest::Spawn {
            name: name.clone(),
            len: input.len() as u64,
            input: InputKind::Bytes(input.into()),
            port,
        };
        let (error, port): (_, Option<Box<Port>>) = match services.request(request).await {
            ServiceResponse::Spawned(id) => {
                self.table().get_mut(&child)?.id = id;
                return Ok(Ok(child));
            }
            ServiceResponse::NotSpawned { error, port } => (error, port),
            _ => (SpawnError::Limit, None),
        };
        if error == SpawnError::NotGranted {
            self.denials.note(Access::Task, &name);
        }
        self.table().delete(child)?;
        let port = port.map(|port| self.push_port(*port)).transpose()?;
        let error = error.into();
        Ok(Err(Unstarted { error, port }))
    }
}

impl HostChild for Host {
    fn id(&mut self, child: Resource<GuestChild>) -> wasmtime::Result<u64> {
        Ok(self.table().get(&child)?.id)
    }

    async fn wait(&mut self, child: Resource<GuestChild>) -> wasmtime::Result<AbiOutcome> {
        let child = self.table().get(&child)?;
        let (services, id) = (child.services.clone(), child.id);
        match services.request(ServiceRequest::End(id)).await {
            ServiceResponse::End(end) => Ok(end.into()),
            _ => Err(wasmtime::Error::msg("the runner has no such child")),
        }
    }

    fn kill(&mut self, child: Resource<GuestChild>) -> wasmtime::Result<()> {
        let child = self.table().get_mut(&child)?;
        if !std::mem::replace(&mut child.killed, true) {
            child.services.notify(Notification::Kill(child.id));
        }
        Ok(())
    }

    fn subscribe(
        &mut self,
        child: Resource<GuestChild>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table(), child)
    }

    fn drop(&mut self, child: Resource<GuestChild>) -> wasmtime::Result<()> {
        self.table().delete(child)?;
        Ok(())
    }
}

#[async_trait::async_trait]
impl Pollable for GuestChild {
    async fn ready(&mut self) {
        self.watch();
        self.ended.cancelled().await;
    }
}
