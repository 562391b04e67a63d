//! Both modes side by side: what isolation costs a task, and what it buys.

mod isolation;
mod results;
mod summary;

pub(crate) use isolation::be_sacrificed;
pub use isolation::inject;
#[doc(hidden)]
pub use isolation::{Place, inject_at};
pub use results::{
    CostRow, Environment, Fault, FaultRow, Finding, Floor, Measure, Policy, Results, Seen, Subject,
    Transport, Unit, Verdict,
};
pub use summary::Summary;
