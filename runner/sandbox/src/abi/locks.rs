//! `wrun:task/locks`: named locks, which the runner holds.

use super::bindings::wrun::task::locks::{
    Host as LocksHost, HostLock, LockError as AbiError, Mode as AbiMode,
};
use crate::host::Host;
use crate::lock_table::{LockMode, Ticket};
use crate::locks::MAX_NAME;
use crate::services::{Notification, ServiceRequest, ServiceResponse, Services};
use std::sync::Arc;
use wasmtime::component::Resource;

/// A lock in a guest's table.
#[expect(unreachable_pub, reason = "the bindings re-export it")]
pub struct GuestLock {
    /// `None` until the lock is held.
    ticket: Option<Ticket>,
    services: Arc<dyn Services>,
}

impl Drop for GuestLock {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.services.notify(Notification::Unlock(ticket));
        }
    }
}

impl LocksHost for Host {
    async fn request(
        &mut self,
        name: String,
        mode: AbiMode,
        if_available: bool,
    ) -> wasmtime::Result<Result<Option<Resource<GuestLock>>, AbiError>> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Ok(Err(AbiError::BadName));
        }
        let services = self.context.services.clone();
        // Steps that can fail come before the lock.
        let Some(lock) = self.push(GuestLock {
            ticket: None,
            services: services.clone(),
        }) else {
            return Ok(Err(AbiError::Limit));
        };
        let cancel = self.context.cancel.clone();
        // A cancelled task must not wait for a lock.
        let at_once = if_available || cancel.is_cancelled();
        let request = services.request(ServiceRequest::Lock {
            name,
            mode: match mode {
                AbiMode::Exclusive => LockMode::Exclusive,
                AbiMode::Shared => LockMode::Shared,
            },
            if_available: at_once,
        });
        let response = tokio::select! {
            biased;
            response = request => Some(response),
            () = cancel.cancelled(), if !at_once => None,
        };
        let refused = match response {
            Some(ServiceResponse::Locked(ticket)) => {
                self.table().get_mut(&lock)?.ticket = Some(ticket);
                return Ok(Ok(Some(lock)));
            }
            Some(ServiceResponse::NotAvailable) if if_available => Ok(None),
            None | Some(ServiceResponse::NotAvailable) => Err(AbiError::Cancelled),
            Some(_) => Err(AbiError::Limit),
        };
        self.table().delete(lock)?;
        Ok(refused)
    }
}

impl HostLock for Host {
    fn drop(&mut self, lock: Resource<GuestLock>) -> wasmtime::Result<()> {
        self.table().delete(lock)?;
        Ok(())
    }
}
