//! What the limits of a task allow in a run, by the shape of its artifact.

use super::artifact::Artifact;
use super::source::Shape;
use wrun_types::limits::{Limit, Limits};

/// The budgets of a run, from its limits and its artifact.
pub trait Budgets {
    /// The budget of an output stream; `captured` ones always have one.
    fn output_budget(&self, captured: bool) -> Option<u64>;

    /// Bytes that one call may pass to the host, which allocates them before it sees them.
    fn host_call(&self, shape: Shape, captured: bool, regions: bool) -> u64;

    /// The value of the limit that ended a task: bytes, elements, instances, units of fuel,
    /// or nanoseconds. `None` if it was not one of these: a child's parent has a deadline,
    /// too.
    fn value(&self, limit: Limit, artifact: &Artifact, captured: bool) -> Option<u64>;

    /// The budget of the input.
    fn input_budget(&self, shape: Shape) -> Option<u64>;
}

impl Budgets for Limits {
    fn output_budget(&self, captured: bool) -> Option<u64> {
        match (self.max_output, captured) {
            (Some(max), _) => Some(max),
            (None, true) => Some(Limits::CAPTURE_DEFAULT),
            (None, false) => None,
        }
    }

    fn host_call(&self, shape: Shape, captured: bool, regions: bool) -> u64 {
        let mut budget = Limits::HOST_CALL;
        if !shape.prints_output() {
            // It returns nothing larger than its memory.
            let output = self.output_budget(captured).unwrap_or(self.max_memory);
            budget = budget.max(output.min(self.max_memory));
        }
        if regions {
            // A window counts as if it were copied, and can be all of the memory.
            budget = budget.max(self.max_memory);
        }
        budget
    }

    fn value(&self, limit: Limit, artifact: &Artifact, captured: bool) -> Option<u64> {
        let shape = artifact.shape();
        match limit {
            Limit::Output => self.output_budget(captured),
            Limit::Input => self.input_budget(shape),
            Limit::HostCall => Some(self.host_call(shape, captured, artifact.has_regions())),
            other => self.plain(other),
        }
    }

    fn input_budget(&self, shape: Shape) -> Option<u64> {
        match self.max_input {
            Some(max) => Some(max),
            None if shape.prints_output() => None,
            None => Some(Limits::INPUT_DEFAULT),
        }
    }
}
