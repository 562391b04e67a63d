//! Describes a task file without compiling or running it.

use super::code::{self, Code};
use super::componentize::componentize;
use super::load::read;
use super::load_error::LoadError;
use super::pair;
use super::source::{self, Facts, Shape};
use super::support;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use wrun_types::error::Error;

/// What a task file declares; see [`inspect`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// Bytes of the file.
    pub size: u64,
    /// BLAKE3 of the file, in hexadecimal.
    pub digest: String,
    /// The shape of the guest; the error says why it cannot be run.
    pub shape: Result<Shape, String>,
    /// For a compiled artifact: the version that compiled it, and its source.
    pub compiled: Option<String>,
    /// The grants that it needs to use all that it imports.
    pub grants: Vec<Grant>,
    facts: Facts,
}

/// The kinds of grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Grant {
    /// A directory (`Task::dir`).
    Dir,
    /// An environment variable (`Task::env`).
    Env,
    /// A TCP address (`Task::allow_tcp`).
    Tcp,
    /// A host that it may send HTTP requests to (`Task::allow_http`).
    Http,
    /// A task that it may start (`Task::task`).
    Task,
}

/// Reads a task file of at most `max_size` bytes and describes it.
///
/// # Errors
///
/// The file cannot be read, or is not WebAssembly. A WebAssembly file that is not a task is
/// not an error: see [`Inspection::shape`].
pub fn inspect(path: impl AsRef<Path>, max_size: u64) -> Result<Inspection, Error> {
    let path = path.as_ref();
    let inspected = read(path, max_size).and_then(|bytes| inspect_bytes(&bytes));
    inspected.map_err(|error| error.of_file(path))
}

/// Describes the bytes of a task file.
pub(super) fn inspect_bytes(bytes: &[u8]) -> Result<Inspection, LoadError> {
    let size = bytes.len() as u64;
    let digest = blake3::hash(bytes).to_hex().to_string();
    if code::is_artifact(bytes) {
        let of = |for_threads| {
            let part = pair::part(bytes, for_threads);
            part.and_then(Code::from_bytes).map_err(LoadError::Artifact)
        };
        let code = of(true)?;
        let meta = &code.meta;
        let modes = if pair::is_pair(bytes) {
            of(false)?;
            "both modes"
        } else if meta.checks.epochs {
            "thread mode"
        } else {
            "process mode"
        };
        return Ok(Inspection {
            size,
            digest,
            shape: Ok(meta.shape),
            compiled: Some(format!(
                "by wrun {} for {modes}{}, from {} bytes with BLAKE3 {}",
                meta.wrun,
                if meta.checks.metered { ", metered" } else { "" },
                meta.source_len,
                meta.source
            )),
            grants: Vec::new(),
            facts: Facts::default(),
        });
    }
    let binary = source::to_binary(bytes)?;
    let facts = source::facts(&binary)?;
    let types = match support::check(&binary, &facts) {
        Ok(types) => Ok(types),
        // It is WebAssembly.
        Err(refusal @ LoadError::Unsupported { .. }) => Err(refusal),
        Err(error) => return Err(error),
    };
    let shape = source::shape(&facts).and_then(|shape| {
        let types = types?;
        match shape {
            Shape::CoreModule => drop(componentize(&binary, &facts)?),
            Shape::Component if !is_run(&types) => {
                return Err(LoadError::Componentize {
                    message: "run is not a func(list<u8>) -> result<list<u8>, string>".into(),
                });
            }
            _ => {}
        }
        Ok(shape)
    });
    Ok(Inspection {
        size,
        digest,
        shape: shape.map_err(|error| error.to_string()),
        compiled: None,
        grants: grants(&facts),
        facts,
    })
}

/// Whether a component's `run` has the world's type.
fn is_run(types: &wasmparser::types::Types) -> bool {
    use wasmparser::PrimitiveValType::{String, U8};
    use wasmparser::component_types::{
        ComponentDefinedType, ComponentEntityType, ComponentValType,
    };

    let is_bytes = |ty: &ComponentValType| match ty {
        ComponentValType::Type(id) => matches!(
            &types[*id],
            ComponentDefinedType::List {
                element: ComponentValType::Primitive(U8),
                ..
            }
        ),
        ComponentValType::Primitive(_) => false,
    };
    let Some(run) = types.component_item_for_export("run") else {
        return false;
    };
    let ComponentEntityType::Func(id) = run.ty else {
        return false;
    };
    let run = &types[id];
    let [(_, input)] = &*run.params else {
        return false;
    };
    let Some(ComponentValType::Type(result)) = run.result else {
        return false;
    };
    match &types[result] {
        ComponentDefinedType::Result {
            ok: Some(ok),
            err: Some(ComponentValType::Primitive(String)),
            ..
        } => is_bytes(input) && is_bytes(ok) && !run.async_,
        _ => false,
    }
}

fn grants(facts: &Facts) -> Vec<Grant> {
    let imports = |part: &str| {
        facts
            .imports
            .iter()
            .any(|import| import.name.contains(part))
    };
    let mut grants = Vec::new();
    if imports("wasi:filesystem/") || imports("wasi_snapshot_preview1.path_") {
        grants.push(Grant::Dir);
    }
    if imports("wasi:cli/environment") || imports("wasi_snapshot_preview1.environ_") {
        grants.push(Grant::Env);
    }
    if imports("wasi:sockets/tcp") {
        grants.push(Grant::Tcp);
    }
    if imports("wasi:http/outgoing-handler") {
        grants.push(Grant::Http);
    }
    if imports("wrun:task/tasks") {
        grants.push(Grant::Task);
    }
    grants
}

impl Inspection {
    /// All of it as JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "size": self.size,
            "digest": self.digest,
            "shape": self.shape.as_ref().ok(),
            "refused": self.shape.as_ref().err(),
            "compiled": self.compiled,
            "component": self.facts.component,
            "imports": self.facts.imports,
            "exports": self.facts.exports,
            "memories": self.facts.memories,
            "tables": self.facts.tables,
            "functions": self.facts.functions,
            "start_function": self.facts.start_function,
            "grants": self.grants,
        })
    }

    /// Names and kinds of what it imports, in order.
    pub fn imports(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.facts
            .imports
            .iter()
            .map(|it| (it.name.as_str(), it.kind))
    }

    /// Names and kinds of what it exports, in order.
    pub fn exports(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.facts
            .exports
            .iter()
            .map(|it| (it.name.as_str(), it.kind))
    }

    /// Initial and, if declared, maximum bytes of each linear memory.
    pub fn memories(&self) -> impl Iterator<Item = (u64, Option<u64>)> {
        self.facts
            .memories
            .iter()
            .map(|it| (it.initial, it.maximum))
    }

    /// Number of functions defined in all core modules together.
    pub fn functions(&self) -> u64 {
        self.facts.functions
    }

    /// Whether instantiating runs guest code.
    pub fn has_start_function(&self) -> bool {
        self.facts.start_function
    }
}
