//! The WebAssembly features that wrun supports. A task that needs others is refused when it
//! is loaded, with a message of wrun: the engine's own would be about the engine's
//! settings.
//!
//! Invariant: a binary that passes [`check`] is valid, and no instantiation of it is
//! refused for its declarations, except for limits of the task.

use super::engine::{self, WIDE_MEMORY};
use super::load_error::LoadError;
use super::source::{self, Facts};
use wasmparser::types::Types;
use wasmparser::{Validator, WasmFeatures};

/// Proposals by their well-known names, with advice.
const PROPOSALS: &[(WasmFeatures, &str, &str)] = &[
    (
        WasmFeatures::LEGACY_EXCEPTIONS,
        "the legacy exceptions proposal",
        "build it with the exceptions of WebAssembly 3.0 (exnref), or without exceptions",
    ),
    (
        WasmFeatures::SHARED_EVERYTHING_THREADS,
        "the shared-everything-threads proposal",
        NO_THREADS,
    ),
    (
        WasmFeatures::STACK_SWITCHING,
        "the stack switching proposal",
        "build it without",
    ),
    (
        WasmFeatures::CUSTOM_PAGE_SIZES,
        "the custom page sizes proposal",
        "build it with pages of 64 KiB",
    ),
    (
        WasmFeatures::CUSTOM_DESCRIPTORS,
        "the custom descriptors proposal",
        "build it without",
    ),
    (
        WasmFeatures::MEMORY_CONTROL,
        "the memory control proposal",
        "build it without",
    ),
    (
        WasmFeatures::WIDE_ARITHMETIC,
        "the wide arithmetic proposal",
        "build it without",
    ),
    (
        WasmFeatures::COMPACT_IMPORTS,
        "the compact import section proposal",
        "build it without",
    ),
    (
        WasmFeatures::CM_ASYNC,
        "the asynchronous calls of WASI 0.3",
        "build it for WASI 0.2",
    ),
    (
        WasmFeatures::CM_ASYNC_STACKFUL,
        "the asynchronous calls of WASI 0.3",
        "build it for WASI 0.2",
    ),
    (
        WasmFeatures::CM_MORE_ASYNC_BUILTINS,
        "the asynchronous calls of WASI 0.3",
        "build it for WASI 0.2",
    ),
    (
        WasmFeatures::CM_ERROR_CONTEXT,
        "the error contexts of WASI 0.3",
        "build it for WASI 0.2",
    ),
    (
        WasmFeatures::CM_THREADING,
        "the threads of components",
        NO_THREADS,
    ),
];

const NO_THREADS: &str = "a task has one thread; build it without threads";

/// Refuses binaries that are not supported or not valid.
pub(super) fn check(binary: &[u8], facts: &Facts) -> Result<Types, LoadError> {
    if facts.memories.iter().any(|memory| memory.shared) {
        return Err(LoadError::Unsupported {
            what: "a shared memory".into(),
            hint: NO_THREADS.into(),
        });
    }
    if let Some(memory) = facts.memories.iter().find(|it| it.initial > WIDE_MEMORY) {
        return Err(LoadError::Unsupported {
            what: format!(
                "a memory of {}",
                bytesize::ByteSize(memory.initial).display().iec()
            ),
            hint: format!("one memory has {} GiB at most", WIDE_MEMORY >> 30),
        });
    }
    Validator::new_with_features(engine::FEATURES)
        .validate_all(binary)
        .map_err(|error| match error.missing_wasm_feature() {
            Some(feature) => unsupported(feature),
            None => source::invalid(error),
        })
}

fn unsupported(feature: WasmFeatures) -> LoadError {
    let known = PROPOSALS
        .iter()
        .find(|(proposal, ..)| feature.intersects(*proposal));
    let (what, hint) = match known {
        Some((_, what, hint)) => ((*what).to_owned(), *hint),
        None => {
            let names: Vec<String> = feature
                .iter_names()
                .map(|(name, _)| name.to_lowercase().replace('_', "-"))
                .collect();
            (
                format!("a proposal ({})", names.join(", ")),
                "build it without",
            )
        }
    };
    LoadError::Unsupported {
        what,
        hint: hint.to_owned(),
    }
}

/// The compiler's error about a valid binary: something it has not implemented, or one of
/// its own limits.
#[cfg(feature = "compile")]
pub(super) fn not_compiled(message: &str) -> LoadError {
    let message = source::one_line(message);
    // Its settings are of no use to the reader.
    let what = if message.contains("Config::") {
        "something".to_owned()
    } else {
        format!("something (the compiler says: {message})")
    };
    LoadError::Unsupported {
        what,
        hint: "build it without".to_owned(),
    }
}
