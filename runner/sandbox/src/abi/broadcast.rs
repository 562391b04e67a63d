//! `wrun:task/broadcast`: channels to all other members, passed on by the runner.

use super::bindings::wrun::task::broadcast::{BroadcastError as AbiError, Host as BroadcastHost};
use super::ports::{GuestPort, MAX_HELD};
use crate::host::Host;
use crate::locks::MAX_NAME;
use crate::services::{ServiceRequest, ServiceResponse};
use wasmtime::component::Resource;

impl BroadcastHost for Host {
    async fn open(
        &mut self,
        name: String,
    ) -> wasmtime::Result<Result<Resource<GuestPort>, AbiError>> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Ok(Err(AbiError::BadName));
        }
        if self.context.ports.held() >= MAX_HELD {
            return Ok(Err(AbiError::Limit));
        }
        let services = self.context.services.clone();
        match services.request(ServiceRequest::Join(name)).await {
            ServiceResponse::Joined(port) => Ok(Ok(self.push_port(port)?)),
            _ => Ok(Err(AbiError::Limit)),
        }
    }
}
