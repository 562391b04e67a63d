//! Without the feature `http`: there are no requests.

use super::Wrong;
use crate::wire::{ExchangeId, FetchHead, Order, Part, RequestHead, ResponseHead, WorkerSays};
use std::convert::Infallible;
use std::sync::Arc;
use wrun_sandbox::http::{Exchange, FetchError};
use wrun_sandbox::services::TaskServices;

/// There is none.
pub(crate) struct Requesting(Exchange);

/// There is none.
pub(crate) struct Responding(Exchange);

/// There is none.
pub(crate) struct Answering(Exchange);

/// There is none.
pub(crate) struct Unsent(Infallible);

/// Of none.
pub(crate) struct Fetching;

/// Takes none.
pub(crate) struct Fetches;

/// Has none.
pub(crate) struct Fetched;

impl Fetching {
    pub(crate) fn new() -> Self {
        Fetching
    }

    pub(crate) fn begin(&mut self, unsent: Unsent) -> WorkerSays {
        match unsent.0 {}
    }

    pub(crate) async fn next(&mut self) -> WorkerSays {
        std::future::pending().await
    }

    pub(crate) fn fetched(
        &mut self,
        _exchange: ExchangeId,
        _response: Result<ResponseHead, FetchError>,
    ) -> Result<(), Wrong> {
        Ok(())
    }

    pub(crate) fn part(&mut self, _exchange: ExchangeId, _part: Part) -> Result<(), Wrong> {
        Ok(())
    }
}

impl Fetches {
    pub(crate) fn new(_task_id: u64, _services: Arc<dyn TaskServices>) -> (Self, Fetched) {
        (Fetches, Fetched)
    }

    pub(crate) fn begin(&mut self, _exchange: ExchangeId, _head: FetchHead) -> Result<(), Wrong> {
        Err("its runner was built without HTTP")
    }

    pub(crate) fn part(&mut self, _exchange: ExchangeId, _part: Part) -> Result<(), Wrong> {
        Err("its runner was built without HTTP")
    }

    pub(crate) fn is_quiet(&self) -> bool {
        true
    }
}

impl Fetched {
    pub(crate) async fn next(&mut self) -> Option<Order> {
        None
    }

    pub(crate) fn sent(&self) {}
}

impl Requesting {
    pub(crate) fn new(
        exchange: Exchange,
        _task_id: u64,
        _max_output: Option<u64>,
    ) -> (RequestHead, Self, Responding) {
        match exchange {}
    }

    pub(crate) async fn next(&mut self) -> Order {
        match self.0 {}
    }

    pub(crate) fn sent(&self) {
        match self.0 {}
    }
}

impl Responding {
    pub(crate) fn head(&mut self, _head: ResponseHead) -> Result<(), Wrong> {
        match self.0 {}
    }

    pub(crate) fn part(&mut self, _part: Part) -> Result<bool, Wrong> {
        match self.0 {}
    }

    pub(crate) fn is_whole(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn is_quiet(&self) -> bool {
        match self.0 {}
    }
}

impl Answering {
    pub(crate) fn new(_head: RequestHead) -> Result<(Exchange, Self), Wrong> {
        Err("this worker was built without HTTP")
    }

    pub(crate) async fn next(&mut self) -> Option<WorkerSays> {
        match self.0 {}
    }

    pub(crate) fn heed(&mut self, _part: Part) -> Result<(), Wrong> {
        match self.0 {}
    }

    pub(crate) fn is_over(&self) -> bool {
        match self.0 {}
    }
}
