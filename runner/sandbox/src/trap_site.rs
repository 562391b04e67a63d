//! The instruction onto which a guest's program counter is moved to end it: a module of this
//! process, compiled once.

use super::engine::EngineError;
use wrun_sys::preempt::TrapSite;

/// The trap of this process.
///
/// # Errors
///
/// It cannot be compiled, or guests cannot be made to trap on this processor.
#[cfg(feature = "compile")]
pub fn trap_site() -> Result<&'static TrapSite, EngineError> {
    use std::sync::OnceLock;
    use wasmtime::{Engine, Module};

    static SITE: OnceLock<TrapSite> = OnceLock::new();
    if let Some(site) = SITE.get() {
        return Ok(site);
    }
    let refused = |error: wasmtime::Error| EngineError::Engine(format!("{error:#}"));
    let module = Module::new(&Engine::default(), TrapSite::MODULE).map_err(refused)?;
    let site = TrapSite::of(module);
    let site = site.ok_or(EngineError::NoSignal("that needs a processor of x86-64"))?;
    Ok(SITE.get_or_init(|| site))
}

/// The trap of this process.
///
/// # Errors
///
/// Always: this build compiles nothing.
#[cfg(not(feature = "compile"))]
pub fn trap_site() -> Result<&'static TrapSite, EngineError> {
    Err(EngineError::NoSignal(
        "that needs wrun's feature \"compile\"",
    ))
}
