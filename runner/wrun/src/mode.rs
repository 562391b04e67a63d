//! The parts of each mode: a compiler and an executor. Without the feature `process` there
//! is thread mode alone.

use crate::thread::ThreadExecutor;
use std::sync::Arc;
#[cfg(feature = "process")]
use wrun_process::{ChildCompiler, ProcessExecutor};
use wrun_sandbox::executor::Executor;
use wrun_sandbox::region::Ledger;
use wrun_sandbox::{Compiler, InProcess, Loader};
use wrun_types::config::{Config, Mode};
use wrun_types::error::Error;
#[cfg(not(feature = "process"))]
use wrun_types::error::ErrorKind;

/// The compiler: a child process in process mode, and if compiling has limits.
#[cfg(feature = "process")]
pub(crate) fn compiler(config: &Config) -> Result<Box<dyn Compiler>, Error> {
    let in_a_child = match config.mode {
        Mode::Thread => ChildCompiler::with_limits(config)?,
        Mode::Process => Some(ChildCompiler::new(config)?),
    };
    Ok(match in_a_child {
        Some(compiler) => Box::new(compiler),
        None => Box::new(InProcess::new(config.compile_budget)),
    })
}

/// The compiler.
#[cfg(not(feature = "process"))]
pub(crate) fn compiler(config: &Config) -> Result<Box<dyn Compiler>, Error> {
    if config.compile_budget.memory.is_some() {
        return Err(without_processes("a limit on the memory for compiling"));
    }
    Ok(Box::new(InProcess::new(config.compile_budget)))
}

/// The executor.
pub(crate) fn executor(loader: Arc<Loader>, config: &Config) -> Result<Arc<dyn Executor>, Error> {
    match config.mode {
        Mode::Thread => {
            let ledger = Arc::new(Ledger::new(config.region_memory, false));
            let slots = config.max_running + config.max_children;
            Ok(Arc::new(ThreadExecutor::new(
                loader,
                slots,
                config.preemption,
                ledger,
            )?))
        }
        #[cfg(feature = "process")]
        Mode::Process => Ok(Arc::new(ProcessExecutor::new(loader, config)?)),
        #[cfg(not(feature = "process"))]
        Mode::Process => Err(without_processes("process mode")),
    }
}

#[cfg(not(feature = "process"))]
fn without_processes(what: &str) -> Error {
    let why = format!("{what} requires the feature \"process\" of wrun, which is off");
    Error::new(ErrorKind::NoWorker, why)
}
