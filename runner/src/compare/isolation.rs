//! What each mode holds.

use super::results::{Fault, Finding};
use crate::builder::Builder;
use crate::config::Mode;
use crate::error::Error;
use std::ops::ControlFlow;

pub(super) fn measure(
    _builder: &Builder,
    _wanted: &[(Fault, Mode)],
    _found: &mut dyn FnMut(Fault, Mode, Finding) -> ControlFlow<()>,
) -> Result<(), Error> {
    Ok(())
}

impl Fault {
    /// All of them, in the order of tables.
    pub const ALL: [Fault; 0] = [];

    /// The name in results and for `--only`.
    pub fn name(self) -> &'static str {
        "fault"
    }
}
