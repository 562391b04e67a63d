//! From a task file's bytes to code. Here everything happens that reads what
//! somebody else wrote: text, sections, types, functions.
//!
//! Invariant: [`compile`] is the same function wherever it runs, so a task is
//! refused in the same words.

use super::code::{Code, Meta};
use super::componentize::componentize;
use super::engine::{self, EngineError};
use super::imports::{self, Uses};
use super::load::LoadError;
use super::source::{self, Shape};
use bytes::Bytes;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::borrow::Cow;
use std::sync::OnceLock;
use wasmtime::{Engine, OutOfMemory};

/// Task files up to this size are compiled on one thread: what starting others
/// takes is as long.
pub(crate) const SMALL: usize = 64 << 10;

/// Who compiles.
pub(crate) trait Compiler: Send + Sync {
    /// Compiles a task file whose BLAKE3 is `digest`. Blocks for as long as that
    /// takes. The code's description is what was asked for.
    fn compile(
        &self,
        source: &Bytes,
        digest: &blake3::Hash,
        metered: bool,
    ) -> Result<Code, LoadError>;

    /// Gives up what is being compiled, where that is possible; the rest is
    /// refused.
    fn close(&self) {}
}

/// Compiles on the calling thread, and on others as far as the system gives them.
#[derive(Default)]
pub(crate) struct InProcess([OnceLock<Engine>; 4]);

impl InProcess {
    fn engine(&self, metered: bool, parallel: bool) -> Result<&Engine, EngineError> {
        let slot = &self.0[usize::from(metered) + 2 * usize::from(parallel)];
        match slot.get() {
            Some(engine) => Ok(engine),
            None => {
                let engine = engine::compiler(metered, parallel)?;
                Ok(slot.get_or_init(|| engine))
            }
        }
    }
}

/// Threads to compile on, none where there are none. Not those of rayon's global pool:
/// where that cannot start, every later use of it in the program panics.
fn threads(source: &[u8]) -> Option<ThreadPool> {
    if source.len() <= SMALL {
        return None;
    }
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let named = |number| format!("wrun-compile-{number}");
    let pool = ThreadPoolBuilder::new()
        .num_threads(count)
        .thread_name(named);
    pool.build().ok().filter(|_| count > 1)
}

impl Compiler for InProcess {
    fn compile(
        &self,
        source: &Bytes,
        digest: &blake3::Hash,
        metered: bool,
    ) -> Result<Code, LoadError> {
        let (elf, meta) = match threads(source) {
            Some(pool) => {
                let engine = self.engine(metered, true)?;
                pool.install(|| with(engine, source, digest, metered))?
            }
            None => with(self.engine(metered, false)?, source, digest, metered)?,
        };
        Code::new(&elf, &meta).map_err(|source| LoadError::System { source })
    }
}

/// Compiles with an engine of its own.
pub(crate) fn compile(
    source: &[u8],
    digest: &blake3::Hash,
    metered: bool,
    parallel: bool,
) -> Result<(Vec<u8>, Meta), LoadError> {
    with(
        &engine::compiler(metered, parallel)?,
        source,
        digest,
        metered,
    )
}

fn with(
    engine: &Engine,
    bytes: &[u8],
    digest: &blake3::Hash,
    metered: bool,
) -> Result<(Vec<u8>, Meta), LoadError> {
    let made = compilable(engine, bytes).and_then(|(shape, uses, binary)| {
        let elf = match shape {
            Shape::CommandModule => engine.precompile_module(&binary),
            Shape::Component | Shape::CommandComponent | Shape::CoreModule => {
                engine.precompile_component(&binary)
            }
        };
        Ok((elf.map_err(invalid)?, shape, uses))
    });
    let (elf, shape, uses) = made.map_err(LoadError::tamed)?;
    let meta = Meta {
        talks: uses.ports,
        regions: uses.regions,
        listens: uses.listens,
        ..Meta::new(shape, metered, digest, bytes.len() as u64)
    };
    Ok((elf, meta))
}

/// What the compiler gets for a task file: binary, with everything it imports
/// provided, and a component where it was a core module with the world's
/// functions. With them, what it imports that workers are made for.
pub(super) fn compilable<'a>(
    engine: &Engine,
    bytes: &'a [u8],
) -> Result<(Shape, Uses, Cow<'a, [u8]>), LoadError> {
    let binary = source::to_binary(bytes)?;
    let facts = source::facts(&binary)?;
    let shape = source::shape(&facts)?;
    let uses = imports::uses(&facts);
    if shape != Shape::CoreModule {
        return Ok((shape, uses, binary));
    }
    // The module first: the encoder's errors about an invalid one are not about
    // what is wrong with it.
    wasmtime::Module::validate(engine, &binary).map_err(invalid)?;
    Ok((shape, uses, componentize(&binary, &facts)?.into()))
}

fn invalid(error: wasmtime::Error) -> LoadError {
    if error.is::<OutOfMemory>() {
        return LoadError::OutOfMemory;
    }
    LoadError::Invalid {
        message: source::one_line(&format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> LoadError {
        let digest = blake3::hash(text.as_bytes());
        compile(text.as_bytes(), &digest, false, false).expect_err("no task")
    }

    #[test]
    fn refusals_survive_a_journey_and_taming() {
        let long = format!(
            r#"(module (func (export "_start") (call ${})))"#,
            "x".repeat(9_000)
        );
        let nested = r#"(module (func (export "a\n\1b[31m")) (func (export "b\u{202e}")))"#;
        for text in [
            "",
            "letter",
            "(module (func",
            "(module (func (export \"_start\") (drop)))",
            "(module (func (export \"run\")))",
            r#"(module (import "env" "mystery" (func)) (func (export "run")))"#,
            &long,
            nested,
        ] {
            let error = refusal(text);
            let words = error.to_string();
            let bytes = postcard::to_allocvec(&error).expect("encodes");
            assert!(bytes.len() < 16 << 10, "{} bytes", bytes.len());
            let back: LoadError = postcard::from_bytes(&bytes).expect("decodes");
            let back = back.tamed();
            assert_eq!(back.to_string(), words);
            assert_eq!(
                std::mem::discriminant(&back),
                std::mem::discriminant(&error)
            );
            assert!(!words.contains(char::is_control), "{words:?}");
        }
    }

    #[test]
    fn what_a_compiler_has_no_business_to_say_does_not_travel() {
        assert!(postcard::to_allocvec(&LoadError::Precompiled).is_err());
        // All that there is, by number: the first nine and no more.
        for number in 9..0x80 {
            assert!(postcard::from_bytes::<LoadError>(&[number, 0, 0, 0, 0]).is_err());
        }
    }
}
