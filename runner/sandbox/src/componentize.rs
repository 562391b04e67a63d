//! From a core module with the world's functions to its component.
//!
//! Invariant: the guest's own custom sections that describe a world are never decoded; the
//! host's own world is used.

use super::abi;
use super::load_error::LoadError;
use super::source::{Facts, invalid, one_line};
use std::sync::OnceLock;

/// Makes a component from a core module that exports the world's functions.
pub(crate) fn componentize(binary: &[u8], facts: &Facts) -> Result<Vec<u8>, LoadError> {
    for name in ["memory", "cabi_realloc"] {
        let standard = format!(
            "cm32p2_{}",
            match name {
                "cabi_realloc" => "realloc",
                other => other,
            }
        );
        if !facts.exports(name) && !facts.exports(&standard) {
            return Err(LoadError::MissingExport { name: name.into() });
        }
    }
    let bad = |error: anyhow::Error| LoadError::Componentize {
        message: one_line(&format!("{error:#}")),
    };
    // Never the guest's own description: decoding it can recurse without end, and it is not
    // needed.
    let (resolve, world) = world()?;
    let mut module = without_claims(binary)?;
    wit_component::embed_component_metadata(
        &mut module,
        resolve,
        *world,
        wit_component::StringEncoding::UTF8,
    )
    .map_err(bad)?;
    let mut encoder = wit_component::ComponentEncoder::default()
        .module(&module)
        .map_err(bad)?
        .validate(true);
    if facts
        .imports
        .iter()
        .any(|import| import.name.starts_with("wasi_snapshot_preview1."))
    {
        encoder = encoder
            .adapter(
                wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME,
                wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
            )
            .map_err(bad)?;
    }
    encoder.encode().map_err(bad)
}

/// The module without custom sections that could mislead the encoder: those that claim to
/// describe a world, producers, and names that do not parse. They do not change what the
/// module does, and a false one is not a reason to refuse it.
fn without_claims(binary: &[u8]) -> Result<Vec<u8>, LoadError> {
    const HEADER: usize = 8;
    let mut kept = binary.get(..HEADER).unwrap_or_default().to_vec();
    let body = binary.get(HEADER..).unwrap_or_default();
    let mut reader = wasmparser::BinaryReader::new(body, 0);
    while !reader.eof() {
        let start = reader.current_position();
        let id = reader.read_u8().map_err(invalid)?;
        let len = reader.read_var_u32().map_err(invalid)? as usize;
        let content = reader.read_bytes(len).map_err(invalid)?;
        if id != 0 || !is_claim(content) {
            kept.extend_from_slice(&body[start..reader.current_position()]);
        }
    }
    Ok(kept)
}

fn is_claim(custom_section: &[u8]) -> bool {
    let mut reader = wasmparser::BinaryReader::new(custom_section, 0);
    let Ok(name) = reader.read_string() else {
        return true;
    };
    match name {
        "producers" => true,
        "name" => !names_parse(wasmparser::BinaryReader::new(
            &custom_section[reader.current_position()..],
            0,
        )),
        _ => name.starts_with("component-type"),
    }
}

fn names_parse(reader: wasmparser::BinaryReader<'_>) -> bool {
    use wasmparser::Name;
    wasmparser::NameSectionReader::new(reader)
        .into_iter()
        .all(|name| match name {
            Ok(
                Name::Function(names)
                | Name::Type(names)
                | Name::Table(names)
                | Name::Memory(names)
                | Name::Global(names)
                | Name::Element(names)
                | Name::Data(names)
                | Name::Tag(names),
            ) => names.into_iter().all(|naming| naming.is_ok()),
            Ok(_) => true,
            Err(_) => false,
        })
}

/// The packages that the world depends on, in order.
const WIT_DEPS: [(&str, &str); 6] = [
    ("io.wit", include_str!("../wit/deps/io/io.wit")),
    ("clocks.wit", include_str!("../wit/deps/clocks/clocks.wit")),
    ("random.wit", include_str!("../wit/deps/random/random.wit")),
    (
        "filesystem.wit",
        include_str!("../wit/deps/filesystem/filesystem.wit"),
    ),
    (
        "sockets.wit",
        include_str!("../wit/deps/sockets/sockets.wit"),
    ),
    ("cli.wit", include_str!("../wit/deps/cli/cli.wit")),
];
const WORLD_WIT: &str = include_str!("../wit/world.wit");

/// `wit/`, parsed once.
fn world() -> Result<&'static (wit_parser::Resolve, wit_parser::WorldId), LoadError> {
    static WORLD: OnceLock<Result<(wit_parser::Resolve, wit_parser::WorldId), String>> =
        OnceLock::new();
    let parse = || -> Result<_, String> {
        let mut resolve = wit_parser::Resolve::default();
        for (path, text) in WIT_DEPS {
            let mut sources = wit_parser::SourceMap::default();
            sources.push_str(path, text);
            push(&mut resolve, sources)?;
        }
        let mut sources = wit_parser::SourceMap::default();
        sources.push_str("world.wit", WORLD_WIT);
        for interface in abi::INTERFACES {
            sources.push_str(&format!("{}.wit", interface.name), interface.wit);
        }
        let package = push(&mut resolve, sources)?;
        let world = resolve
            .select_world(&[package], Some("task"))
            .map_err(|error| format!("{error:#}"))?;
        Ok((resolve, world))
    };
    WORLD
        .get_or_init(parse)
        .as_ref()
        .map_err(|message| LoadError::Componentize {
            message: message.clone(),
        })
}

fn push(
    resolve: &mut wit_parser::Resolve,
    sources: wit_parser::SourceMap,
) -> Result<wit_parser::PackageId, String> {
    let group = sources.parse().map_err(|(_, error)| error.to_string())?;
    resolve
        .push_group(group)
        .map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::facts;

    /// A guest that embeds a world whose packages depend on each other in a circle:
    /// decoding it recurses until the stack overflows.
    #[test]
    fn a_guests_own_world_is_not_decoded() {
        let text = r#"(module
            (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16))
            (func (export "run") (param i32 i32) (result i32) (i32.const 0)))"#;
        let mut module = wat::parse_str(text).expect("valid");
        let (resolve, world) = world().expect("ours");
        let utf8 = wit_component::StringEncoding::UTF8;
        wit_component::embed_component_metadata(&mut module, resolve, *world, utf8)
            .expect("embeds");
        let name = b"wrun:task/ports";
        let at = module
            .windows(name.len())
            .position(|window| window == name)
            .expect("the world names ports");
        module[at + 7] = b'o';
        let facts = facts(&module).expect("valid");
        componentize(&module, &facts).expect("the lie is dropped");
    }
}
