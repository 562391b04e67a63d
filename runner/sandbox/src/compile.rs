//! From a task file's bytes to code. All code that parses untrusted input is called here:
//! text, sections, types, functions.
//!
//! Invariant: [`compile`] is the same function wherever it runs, so a refusal has the same
//! message.

use super::bulk::{self, Offsets};
use super::code::{Code, Meta};
use super::componentize::componentize;
use super::engine::{self, Checks, EngineError, Kind};
use super::imports::{self, Uses};
use super::load_error::LoadError;
use super::source::{self, Shape};
use super::support;
use bytes::Bytes;
use std::borrow::Cow;
use wasmtime::Engine;

/// Task files up to this size are compiled on one thread: starting others would take as
/// long.
pub const SMALL: usize = 64 << 10;

/// Compiles task files.
pub trait Compiler: Send + Sync {
    /// Compiles a task file whose BLAKE3 is `digest`. Blocks until it is done. The
    /// description of the code matches the arguments.
    fn compile(
        &self,
        source: &Bytes,
        digest: &blake3::Hash,
        checks: Checks,
    ) -> Result<Code, LoadError>;

    /// Abandons running compilations, if possible; later ones are refused.
    fn close(&self) {}
}

/// Compiles with a new engine.
pub fn compile(
    source: Cow<'_, [u8]>,
    digest: &blake3::Hash,
    checks: Checks,
    parallel: bool,
) -> Result<(Vec<u8>, Meta), LoadError> {
    with(
        |kind| engine::compiler(kind, parallel),
        source,
        digest,
        checks,
    )
}

/// Compiles with that engine.
pub(super) fn with(
    engine: impl FnOnce(Kind) -> Result<Engine, EngineError>,
    source: Cow<'_, [u8]>,
    digest: &blake3::Hash,
    checks: Checks,
) -> Result<(Vec<u8>, Meta), LoadError> {
    compiled(engine, source, digest, checks).map_err(LoadError::tamed)
}

fn compiled(
    engine: impl FnOnce(Kind) -> Result<Engine, EngineError>,
    source: Cow<'_, [u8]>,
    digest: &blake3::Hash,
    checks: Checks,
) -> Result<(Vec<u8>, Meta), LoadError> {
    let Compilable {
        shape,
        uses,
        wide,
        binary,
        offsets,
    } = compilable(&source)?;
    let meta = Meta {
        talks: uses.ports,
        regions: uses.regions,
        wide,
        observes_cancellation: uses.observes_cancellation,
        offsets,
        ..Meta::new(shape, checks, digest, source.len() as u64)
    };
    let changed = match binary {
        Cow::Owned(binary) => Some(binary),
        Cow::Borrowed(_) => None,
    };
    // Parts that are not for the compiler are freed before it takes most of its memory.
    let binary = changed.map_or(source, Cow::Owned);
    let engine = engine(Kind { checks, wide })?;
    Ok((native(&engine, shape, &binary)?, meta))
}

#[cfg(feature = "compile")]
fn native(engine: &Engine, shape: Shape, binary: &[u8]) -> Result<Vec<u8>, LoadError> {
    let elf = match shape {
        Shape::CommandModule => engine.precompile_module(binary),
        Shape::Component | Shape::CommandComponent | Shape::CoreModule | Shape::HttpComponent => {
            engine.precompile_component(binary)
        }
    };
    elf.map_err(not_compiled)
}

#[cfg(not(feature = "compile"))]
fn native(_: &Engine, _: Shape, _: &[u8]) -> Result<Vec<u8>, LoadError> {
    Err(LoadError::NoCompiler)
}

/// A task file as the compiler gets it.
pub(super) struct Compilable<'a> {
    pub(super) shape: Shape,
    /// The imports that a worker must provide for.
    uses: Uses,
    /// It has a memory that can outgrow 4 GiB.
    wide: bool,
    /// Valid, with everything it imports provided, and converted to a component if it was a
    /// core module with the world's functions. Borrowed if it is the unchanged task file.
    pub(super) binary: Cow<'a, [u8]>,
    /// To offsets in the task's own binary, or in the component made of it.
    offsets: Offsets,
}

/// Prepares a task file for the compiler.
pub(super) fn compilable(bytes: &[u8]) -> Result<Compilable<'_>, LoadError> {
    let binary = source::to_binary(bytes)?;
    let facts = source::facts(&binary)?;
    let shape = source::shape(&facts)?;
    support::check(&binary, &facts)?;
    let binary = match shape {
        Shape::CoreModule => componentize(&binary, &facts)?.into(),
        _ => binary,
    };
    let (binary, offsets) = bulk::in_pieces(binary)?;
    Ok(Compilable {
        offsets,
        shape,
        uses: imports::uses(&facts),
        wide: facts.is_wide(),
        binary,
    })
}

#[cfg(feature = "compile")]
fn not_compiled(error: wasmtime::Error) -> LoadError {
    if error.is::<wasmtime::OutOfMemory>() {
        return LoadError::OutOfMemory;
    }
    support::not_compiled(&format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> LoadError {
        let digest = blake3::hash(text.as_bytes());
        let checks = Checks {
            metered: false,
            epochs: true,
        };
        compile(text.as_bytes().into(), &digest, checks, false).expect_err("no task")
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
        // All variants, by number: the first twelve. The last two say that the program of the
        // child has no compiler, or no HTTP.
        assert!(matches!(
            postcard::from_bytes(&[10]),
            Ok(LoadError::NoCompiler)
        ));
        assert!(matches!(postcard::from_bytes(&[11]), Ok(LoadError::NoHttp)));
        for number in 12..0x80 {
            assert!(postcard::from_bytes::<LoadError>(&[number, 0, 0, 0, 0]).is_err());
        }
    }
}
