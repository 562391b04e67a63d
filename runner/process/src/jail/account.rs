//! The account of the walls, written while they are set up.
//!
//! Invariant: with [`Jail::Strict`], a required layer that is not enforced is an error as
//! soon as it is recorded.

use super::plan::Plan;
use std::fmt;
use std::io;
use wrun_types::config::Jail;
use wrun_types::jail_report::{JailReport, Layer, LayerReport, LayerState};

/// Cap on a detail, in bytes.
const MAX_DETAIL: usize = 256;

/// The jail cannot be set up as requested.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error(
        "cannot set up the strict jail: {} is {}: {}",
        .0.layer, .0.state.name(), .0.detail
    )]
    Missing(LayerReport),
    #[error("cannot run as user {uid} and group {gid}: {why}")]
    Identity { uid: u32, gid: u32, why: String },
    /// A task was granted something that its worker's jail has no room for.
    #[error("the worker was started without room for {0}")]
    NotPlanned(&'static str),
    #[error("{what}: {source}")]
    System {
        what: &'static str,
        source: io::Error,
    },
}

/// The state of one wall, with a description.
#[derive(Debug)]
pub(super) struct Stand {
    pub(super) state: LayerState,
    pub(super) detail: String,
}

impl Stand {
    pub(super) fn enforced(detail: impl Into<String>) -> Self {
        Stand {
            state: LayerState::Enforced,
            detail: detail.into(),
        }
    }

    pub(super) fn partial(detail: impl Into<String>) -> Self {
        Stand {
            state: LayerState::Partial,
            detail: detail.into(),
        }
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Stand {
            state: LayerState::Unavailable,
            detail: detail.into(),
        }
    }

    /// Enforced with this description, or unavailable with that of the error.
    pub(super) fn of<E: fmt::Display>(result: Result<(), E>, what: &str) -> Self {
        match result {
            Ok(()) => Stand::enforced(what),
            Err(error) => Stand::unavailable(error.to_string()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Account {
    mode: Jail,
    absent: Vec<Layer>,
    layers: Vec<LayerReport>,
}

impl Account {
    pub(super) fn new(plan: &Plan) -> Self {
        Account {
            mode: plan.mode,
            #[cfg(any(test, feature = "test-hooks"))]
            absent: plan.absent.clone(),
            #[cfg(not(any(test, feature = "test-hooks")))]
            absent: Vec::new(),
            layers: Vec::new(),
        }
    }

    /// Whether a layer is to be treated as if the kernel did not support it.
    pub(super) fn is_absent(&self, layer: Layer) -> bool {
        self.absent.contains(&layer)
    }

    /// Sets up one wall, unless it is absent, and records it. Returns whether it is
    /// complete.
    pub(super) fn put_up(
        &mut self,
        layer: Layer,
        wall: impl FnOnce() -> Stand,
    ) -> Result<bool, JailError> {
        let stand = if self.is_absent(layer) {
            Stand::unavailable("left out by a test")
        } else {
            wall()
        };
        self.note(layer, stand)
    }

    /// Records the state of a wall.
    fn note(&mut self, layer: Layer, stand: Stand) -> Result<bool, JailError> {
        let mut detail = stand.detail;
        detail.truncate(detail.floor_char_boundary(MAX_DETAIL));
        let report = LayerReport::new(layer, stand.state, detail);
        let enforced = report.state == LayerState::Enforced;
        if self.mode == Jail::Strict && layer.is_required() && !enforced {
            return Err(JailError::Missing(report));
        }
        self.layers.push(report);
        Ok(enforced)
    }

    pub(super) fn finish(mut self) -> JailReport {
        self.layers.sort_by_key(|report| report.layer);
        JailReport::new(self.layers)
    }
}
