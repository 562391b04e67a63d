//! Without the feature `http`: there are no requests.

use std::future::pending;
use wrun_types::limits::Limit;

/// There is none.
#[derive(Debug)]
pub enum Exchange {}

/// Nor is one answered.
pub(crate) struct Handling(Exchange);

pub(crate) struct Over;

impl Exchange {
    pub fn of_warm_up() -> Option<Self> {
        None
    }
}

impl Handling {
    pub(crate) fn new(exchange: Exchange, _input: Option<u64>, _output: Option<u64>) -> Self {
        Handling(exchange)
    }

    pub(crate) fn over(&self) -> Over {
        match self.0 {}
    }
}

impl Over {
    pub(crate) fn limit(&self) -> Option<Limit> {
        None
    }

    pub(crate) async fn exceeded(&self) -> Limit {
        pending().await
    }
}
