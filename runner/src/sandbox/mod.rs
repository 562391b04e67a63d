//! Everything between a task file and its outcome that does not depend on where
//! the task runs: recognising, compiling, caching, linking, limiting, running.
//!
//! May use the plain data of the crate root; must not know the executors.
//! Invariant: this module cannot tell thread mode from process mode.

mod abi;
mod acting;
mod ahead;
mod artifact;
mod bare;
mod budgets;
mod bulk;
mod cache;
mod code;
mod compile;
mod componentize;
mod denials;
mod engine;
mod epoch;
mod fate;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod host;
mod imports;
mod in_process;
mod input;
mod inspect;
mod limits;
mod linker;
mod load;
mod load_error;
mod makings;
mod names;
mod run;
mod sink;
mod source;
mod standard;
mod support;

pub use abi::Progress;
pub(crate) use abi::{Ports, TaskContext};
pub(crate) use ahead::Ahead;
pub use artifact::{Artifact, Compiled};
pub(crate) use bare::{Bare, BareError, Held};
pub(crate) use code::{Code, CodeError, MAX_FILE};
pub(crate) use compile::{Compiler, SMALL, compile};
pub(crate) use engine::{
    Allocation, EngineError, Kind, max_pool_slots, runtime, single_threaded_runtime,
};
pub(crate) use fate::{Ending, Fate};
pub(crate) use host::Granted;
pub(crate) use in_process::InProcess;
pub(crate) use input::Source;
pub use inspect::{Inspection, inspect};
pub(crate) use load::{Loader, read};
pub(crate) use load_error::LoadError;
pub(crate) use run::{PrepareError, Prepared, Run, RunError, run};
pub(crate) use sink::{CHUNK, Sink};
pub use source::Shape;
