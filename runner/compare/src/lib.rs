//! Both modes side by side: what isolation costs a task, and what it buys.
//!
//! [`Comparison`] says what to compare, [`Comparison::run`] measures, [`Results`] is
//! what it found: rows of cost, each beside the least that the same can cost on this
//! machine, measured in turns with it; and rows of isolation, of faults that were
//! really injected while other tasks ran. [`Results::to_html`] makes a page of them.

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
pub use isolation::{Place, inject_at};
pub use number::Unit;
pub use results::{
    CostRow, Environment, Fault, FaultRow, Finding, Floor, Measure, Policy, Results, Seen, Subject,
    Transport, Verdict,
};
pub use summary::Summary;

/// What [`wrun::worker_hook`] does, in a program that compares, too: the programs that
/// [`Comparison::run`] and [`inject`] start are this one. Call it first thing in `main`.
pub fn worker_hook() {
    wrun::measure::process::hook(&[measure::ROLE, isolation::ROLE]);
}
