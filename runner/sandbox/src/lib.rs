//! Everything between a task file and its outcome that does not depend on where
//! the task runs: recognising, compiling, caching, linking, limiting, running.
//!
//! May use the plain data of the crate root; must not depend on the executors. Invariant:
//! this module cannot distinguish thread mode from process mode.

#![expect(
    missing_docs,
    rustdoc::private_intra_doc_links,
    clippy::len_without_is_empty,
    clippy::new_without_default,
    clippy::result_unit_err,
    reason = "no public API: wrun documents what it re-exports"
)]

mod abi;
mod artifact;
#[cfg(feature = "measure")]
mod bare;
#[cfg(all(feature = "measure", feature = "http"))]
mod bare_http;
pub mod blocking;
pub mod broadcast;
mod budgets;
mod bulk;
mod cache;
mod code;
mod compile;
mod componentize;
pub mod deadline;
mod denials;
mod engine;
mod epoch;
pub mod executor;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod host;
pub mod http;
mod imports;
mod in_process;
#[cfg(feature = "measure")]
mod injecting;
mod input;
mod inspect;
mod limits;
mod linker;
mod load;
mod load_error;
pub mod lock_table;
pub mod locks;
mod makings;
mod names;
mod pair;
pub mod port;
pub mod region;
mod run;
mod run_result;
pub mod services;
mod sink;
mod source;
mod standard;
mod steps;
pub mod stop;
mod support;
mod sync;
pub mod token;
mod trap_site;
mod trapped;
pub mod turn;
mod warm_instance;

pub use artifact::{Artifact, Compiled};
#[cfg(feature = "measure")]
pub use bare::{Bare, BareError, Held};
#[cfg(all(feature = "measure", feature = "http"))]
pub use bare_http::{WholeRequest, WholeResponse};
pub use budgets::Budgets;
pub use code::{Code, CodeError, MAX_FILE};
pub use compile::{Compiler, SMALL, compile};
pub use engine::{
    Allocation, Checks, EngineError, Kind, max_pool_slots, runtime, single_threaded_runtime,
};
pub use host::{Granted, OnProgress, Ports, Progress, TaskContext};
pub use in_process::InProcess;
pub use input::{InputKind, Source};
pub use inspect::{Grant, Inspection, inspect};
pub use load::{Loader, read};
pub use load_error::LoadError;
pub use pair::join;
pub use run::{OnThread, PrepareError, Prepared, Run, RunError, run};
pub use run_result::RunResult;
pub use sink::{CHUNK, Sink};
pub use source::Shape;
pub use trap_site::trap_site;
pub use warm_instance::WarmInstance;
