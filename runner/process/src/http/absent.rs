//! Without the feature `http`: there are no requests.

use super::Wrong;
use crate::wire::{Order, Part, RequestHead, ResponseHead, WorkerSays};
use wrun_sandbox::http::Exchange;

/// There is none.
pub(crate) struct Requesting(Exchange);

/// There is none.
pub(crate) struct Responding(Exchange);

/// There is none.
pub(crate) struct Answering(Exchange);

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
