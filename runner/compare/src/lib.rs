//! Both modes side by side: what isolation costs a task, and what it buys.
//!
//! [`Comparison`] has the settings, [`Comparison::run`] measures, [`Results`] are the
//! findings: rows of cost, each beside the minimum that the same can cost on this machine,
//! measured in turns with it; and rows of isolation, for faults that were injected while
//! other tasks ran. [`Results::to_html`] makes a page of them.

#![forbid(unsafe_code)]

mod bench;
mod comparison;
mod cost;
mod environment;
mod fitness;
mod hint;
mod isolation;
pub mod measure;
mod number;
mod page;
mod results;
mod rounds;
mod run;
mod scratch;
mod sorted;
mod summary;

pub use comparison::{Comparison, Step};
#[doc(hidden)]
pub use hint::{denial, hint};
pub use isolation::inject;
#[doc(hidden)]
pub use isolation::{FaultTarget, inject_at};
pub use number::Unit;
pub use results::{
    CostRow, Environment, Fault, FaultRow, Finding, Floor, Measure, Policy, Requests, Results,
    Seen, Subject, Transport, Verdict,
};
pub use summary::Summary;

/// The work of [`wrun::worker_hook`], in a program that also compares: [`Comparison::run`]
/// and [`inject`] start this program again. Call it first in `main`.
pub fn worker_hook() {
    wrun::measure::process::hook(&[measure::ROLE, isolation::ROLE]);
}
