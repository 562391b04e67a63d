//! Both modes side by side: what isolation costs a task, and what it buys.

mod page;
mod results;
mod summary;

pub use results::{
    CostRow, Environment, Fault, FaultRow, Finding, Floor, Measure, Policy, Results, Seen, Subject,
    Transport, Unit, Verdict,
};
pub use summary::Summary;
