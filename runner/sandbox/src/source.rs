//! From untrusted bytes to a guest that can be run: its shape, whether everything it
//! imports exists, and, for a core module with the world's functions, its component.
//!
//! All input here is hostile: nothing panics, nothing allocates more than a small multiple
//! of the input.

use super::imports;
use super::load_error::LoadError;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use wasmparser::{ComponentExternalKind, ExternalKind, Parser, Payload, TypeRef};

/// Maximum nesting of components; the cost of compiling them grows with its square.
const MAX_DEPTH: usize = 32;
/// Maximum of modules and components inside a component.
const MAX_NESTED: usize = 1_000;
/// Maximum size of WAT text: parsed, it takes about eighty times its size.
const MAX_TEXT: usize = 8 << 20;
/// Characters of a guest's name that messages show.
pub(super) const MAX_NAME: usize = 200;

/// The shapes of guest that wrun accepts. All are used in the same way: bytes in, outcome
/// and bytes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Shape {
    /// A component that exports the world's `run`.
    Component,
    /// A component that exports `wasi:cli/run`: a WASI 0.2 command.
    CommandComponent,
    /// A core module with `_start`: a WASI 0.1 command.
    CommandModule,
    /// A core module that exports `run` by its canonical-ABI name.
    CoreModule,
    /// A component that exports `wasi:http/incoming-handler`: it answers a request.
    HttpComponent,
}

impl Shape {
    /// For people: `component`, `command (WASI 0.2)`, ...
    pub fn describe(self) -> &'static str {
        match self {
            Shape::Component => "component exporting run",
            Shape::CommandComponent => "command (WASI 0.2 component)",
            Shape::CommandModule => "command (WASI 0.1 core module)",
            Shape::CoreModule => "core module exporting run",
            Shape::HttpComponent => "HTTP handler (wasi:http component)",
        }
    }

    /// True for the shapes whose output is stdout and whose status is an exit
    /// code.
    pub fn is_command(self) -> bool {
        matches!(self, Shape::CommandComponent | Shape::CommandModule)
    }

    /// True for a component that answers an HTTP request.
    pub fn is_http(self) -> bool {
        self == Shape::HttpComponent
    }

    /// True for the shapes whose output is what they print.
    pub fn prints_output(self) -> bool {
        self.is_command() || self.is_http()
    }
}

/// One import or export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Extern {
    /// `module.name`, or a component's extern name.
    pub name: String,
    pub kind: &'static str,
}

/// A linear memory as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Initial size in bytes.
    pub initial: u64,
    /// Maximum size in bytes; `None` if the module does not declare one.
    pub maximum: Option<u64>,
    pub shared: bool,
    /// Whether its addresses have 64 bits.
    pub memory64: bool,
}

/// The declarations in the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Facts {
    pub component: bool,
    pub imports: Vec<Extern>,
    pub exports: Vec<Extern>,
    /// Over all nested modules.
    pub memories: Vec<Memory>,
    /// Initial elements of each table.
    pub tables: Vec<u64>,
    pub functions: u64,
    pub start_function: bool,
}

impl Facts {
    /// Whether it has a memory that can outgrow 4 GiB.
    pub(super) fn is_wide(&self) -> bool {
        self.memories
            .iter()
            .any(|memory| memory.memory64 && memory.maximum.is_none_or(|maximum| maximum > 4 << 30))
    }

    pub(super) fn exports(&self, name: &str) -> bool {
        self.exports.iter().any(|export| export.name == name)
    }
}

/// Bytes that were recognised as WebAssembly; text is converted to binary.
pub(crate) fn to_binary<'a>(bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    if bytes.starts_with(b"\0asm") {
        return Ok(Cow::Borrowed(bytes));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err(LoadError::NotWasm);
    };
    let first = text.trim_start();
    if !(first.starts_with('(') || first.starts_with(";;")) {
        return Err(LoadError::NotWasm);
    }
    if bytes.len() > MAX_TEXT {
        return Err(LoadError::Text {
            message: format!("text has at most {} MiB; use the binary", MAX_TEXT >> 20),
        });
    }
    #[cfg(not(feature = "wat"))]
    return Err(LoadError::Text {
        message: "this program was built without the text format; use the binary".to_owned(),
    });
    #[cfg(feature = "wat")]
    match wat::parse_str(text) {
        Ok(binary) => Ok(Cow::Owned(binary)),
        Err(error) => {
            // Several lines with a drawing of the position; keep the message and the position.
            let full = error.to_string();
            let what = full.lines().next().unwrap_or_default();
            let place = full
                .lines()
                .find_map(|line| line.trim().strip_prefix("--> <anon>:"))
                .unwrap_or("?");
            Err(LoadError::Text {
                message: format!("line {place}: {what}"),
            })
        }
    }
}

/// Reads the declarations of a binary.
pub(crate) fn facts(binary: &[u8]) -> Result<Facts, LoadError> {
    let mut facts = Facts::default();
    let mut depth = 0_usize;
    let mut nested = 0_usize;
    for payload in Parser::new(0).parse_all(binary) {
        let payload = payload.map_err(invalid)?;
        if let Some((items, bytes)) = items(&payload)
            && items as usize > bytes
        {
            return Err(LoadError::Invalid {
                message: format!("a section of {bytes} bytes says that it has {items} items"),
            });
        }
        match payload {
            Payload::Version { encoding, .. } if depth == 0 => {
                facts.component = encoding == wasmparser::Encoding::Component;
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                depth += 1;
                nested += 1;
                if depth > MAX_DEPTH || nested > MAX_NESTED {
                    return Err(LoadError::Invalid {
                        message: "modules and components are nested too deeply or too often".into(),
                    });
                }
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ImportSection(section) if depth == 0 => {
                for import in section.into_imports() {
                    let import = import.map_err(invalid)?;
                    facts.imports.push(Extern {
                        name: format!("{}.{}", import.module, import.name),
                        kind: import_kind(&import.ty),
                    });
                }
            }
            Payload::ExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    facts.exports.push(Extern {
                        name: export.name.to_owned(),
                        kind: export_kind(export.kind),
                    });
                }
            }
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import.map_err(invalid)?;
                    facts.imports.push(Extern {
                        name: import.name.name.to_owned(),
                        kind: component_kind(import.ty.kind()),
                    });
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(invalid)?;
                    facts.exports.push(Extern {
                        name: export.name.name.to_owned(),
                        kind: component_kind(export.kind),
                    });
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    let memory = memory.map_err(invalid)?;
                    let page = 1_u64 << memory.page_size_log2.unwrap_or(16).min(63);
                    facts.memories.push(Memory {
                        initial: memory.initial.saturating_mul(page),
                        maximum: memory.maximum.map(|pages| pages.saturating_mul(page)),
                        shared: memory.shared,
                        memory64: memory.memory64,
                    });
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    facts.tables.push(table.map_err(invalid)?.ty.initial);
                }
            }
            Payload::FunctionSection(section) => facts.functions += u64::from(section.count()),
            Payload::StartSection { .. } => facts.start_function = true,
            _ => {}
        }
    }
    Ok(facts)
}

/// The number of items that a section declares, and its bytes. Each item takes at least a
/// byte; their reader allocates room for as many as are declared.
fn items(payload: &Payload<'_>) -> Option<(u32, usize)> {
    macro_rules! sections {
        ($($section:ident)*) => {
            match payload {
                $(Payload::$section(section) => Some((section.count(), section.range().len())),)*
                _ => None,
            }
        };
    }
    sections! {
        TypeSection ImportSection FunctionSection TableSection MemorySection TagSection
        GlobalSection ExportSection ElementSection DataSection
        InstanceSection CoreTypeSection ComponentInstanceSection ComponentAliasSection
        ComponentTypeSection ComponentCanonicalSection ComponentImportSection
        ComponentExportSection
    }
}

pub(super) fn invalid(error: wasmparser::BinaryReaderError) -> LoadError {
    LoadError::Invalid {
        message: error.to_string(),
    }
}

fn import_kind(ty: &TypeRef) -> &'static str {
    match ty {
        TypeRef::Func(_) | TypeRef::FuncExact(_) => "func",
        TypeRef::Table(_) => "table",
        TypeRef::Memory(_) => "memory",
        TypeRef::Global(_) => "global",
        TypeRef::Tag(_) => "tag",
    }
}

fn export_kind(kind: ExternalKind) -> &'static str {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => "func",
        ExternalKind::Table => "table",
        ExternalKind::Memory => "memory",
        ExternalKind::Global => "global",
        ExternalKind::Tag => "tag",
    }
}

fn component_kind(kind: ComponentExternalKind) -> &'static str {
    match kind {
        ComponentExternalKind::Module => "module",
        ComponentExternalKind::Func => "func",
        ComponentExternalKind::Value => "value",
        ComponentExternalKind::Type => "type",
        ComponentExternalKind::Instance => "instance",
        ComponentExternalKind::Component => "component",
    }
}

fn exports_instance(facts: &Facts, prefix: &str) -> bool {
    let mut names = facts.exports.iter().map(|export| &export.name);
    names.any(|name| name.starts_with(prefix))
}

/// The shape, if everything it imports is provided.
pub(crate) fn shape(facts: &Facts) -> Result<Shape, LoadError> {
    let shape = if facts.component {
        if facts.exports("run") {
            Shape::Component
        } else if exports_instance(facts, "wasi:http/incoming-handler@0.2.") {
            // Before a command: a handler that is built as a program has a `run` which does
            // nothing.
            if !cfg!(feature = "http") {
                return Err(LoadError::NoHttp);
            }
            Shape::HttpComponent
        } else if exports_instance(facts, "wasi:cli/run@0.2.") {
            Shape::CommandComponent
        } else {
            return Err(no_entry(
                facts,
                "a task component exports run, wasi:cli/run@0.2 or wasi:http/incoming-handler@0.2",
            ));
        }
    } else if facts.exports("run") || facts.exports("cm32p2||run") {
        Shape::CoreModule
    } else if facts.exports("_start") {
        Shape::CommandModule
    } else {
        return Err(no_entry(facts, "a task module exports run, or _start"));
    };
    imports::check(facts, shape)?;
    Ok(shape)
}

fn no_entry(facts: &Facts, wanted: &'static str) -> LoadError {
    let mut exports: Vec<String> = facts
        .exports
        .iter()
        .map(|export| shown(&export.name))
        .take(5)
        .collect();
    if facts.exports.len() > exports.len() {
        exports.push("...".to_owned());
    }
    let exports = if exports.is_empty() {
        "nothing".to_owned()
    } else {
        exports.join(", ")
    };
    LoadError::NoEntry {
        wanted: wanted.into(),
        exports,
    }
}

/// A guest's name in a message: on one line, of bounded length, without characters that
/// reverse or hide the text beside it.
pub(crate) fn shown(name: &str) -> String {
    let mut chars = name.chars();
    let mut shown: String = chars
        .by_ref()
        .take(MAX_NAME)
        .map(|c| match c {
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' => {
                '\u{fffd}'
            }
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect();
    if chars.next().is_some() {
        shown.push_str("...");
    }
    shown
}

/// An error's text on one line, of bounded length.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.truncate(line.floor_char_boundary(2_000));
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::componentize::componentize;

    fn load(wat: &str) -> Result<Shape, LoadError> {
        let binary = to_binary(wat.as_bytes())?;
        shape(&facts(&binary)?)
    }

    #[test]
    fn shapes_are_recognised() {
        let start = r#"(module (func (export "_start")))"#;
        assert_eq!(load(start).expect("command"), Shape::CommandModule);
        let run = r#"(module (func (export "run")))"#;
        assert_eq!(load(run).expect("core"), Shape::CoreModule);
        assert!(matches!(load("(module)"), Err(LoadError::NoEntry { .. })));
        assert!(matches!(
            load("(component)"),
            Err(LoadError::NoEntry { .. })
        ));
    }

    #[cfg(feature = "http")]
    #[test]
    fn a_handler_that_is_also_a_program_is_a_handler() {
        let both = r#"(component
            (instance $none)
            (export "wasi:cli/run@0.2.6" (instance $none))
            (export "wasi:http/incoming-handler@0.2.12" (instance $none)))"#;
        assert_eq!(load(both).expect("a handler"), Shape::HttpComponent);
        let program = both.replace("incoming-handler", "types");
        assert_eq!(load(&program).expect("a command"), Shape::CommandComponent);
    }

    #[test]
    fn a_section_has_no_more_items_than_bytes() {
        // An import section of three bytes that declares 800,000 imports.
        let lies = b"\0asm\x01\0\0\0\x02\x03\x80\xea\x30";
        match facts(lies) {
            Err(LoadError::Invalid { message }) => {
                assert!(message.ends_with("it has 800000 items"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_missing_import_is_named() {
        let module = r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func))
            (import "env" "mystery" (func))
            (import "env" "more" (func))
            (func (export "_start")))"#;
        match load(module) {
            Err(LoadError::UnknownImport { name, .. }) => assert_eq!(name, "env.mystery"),
            other => panic!("{other:?}"),
        }
        let module =
            r#"(module (import "wrun:task/later@0.1.0" "spawn" (func)) (func (export "run")))"#;
        match load(module) {
            Err(LoadError::UnknownImport { name, hint }) => {
                assert_eq!(name, "wrun:task/later@0.1.0.spawn");
                assert!(hint.contains("does not provide it"), "{hint}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_wasm_is_said_to_be_none() {
        assert!(matches!(to_binary(b""), Err(LoadError::Empty)));
        assert!(matches!(to_binary(b"hello"), Err(LoadError::NotWasm)));
        assert!(matches!(to_binary(&[0xff; 64]), Err(LoadError::NotWasm)));
        match to_binary(b"(module\n  (func $x (oops)))") {
            Err(LoadError::Text { message }) => {
                assert!(message.starts_with("line 2:"), "{message}")
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nesting_and_text_are_bounded() {
        // Nested components, each with a header and one section.
        let mut nested = b"\0asm\x0d\0\x01\0".to_vec();
        for _ in 0..MAX_DEPTH {
            let mut outer = b"\0asm\x0d\0\x01\0\x04".to_vec();
            let mut len = nested.len();
            while len >= 0x80 {
                outer.push((len & 0x7f) as u8 | 0x80);
                len >>= 7;
            }
            outer.push(len as u8);
            outer.extend(&nested);
            nested = outer;
            facts(&nested).expect("deep enough for anybody");
        }
        let mut deeper = b"\0asm\x0d\0\x01\0\x04".to_vec();
        deeper.extend([
            (nested.len() & 0x7f) as u8 | 0x80,
            (nested.len() >> 7) as u8,
        ]);
        deeper.extend(&nested);
        assert!(matches!(facts(&deeper), Err(LoadError::Invalid { .. })));
        let text = format!("(module{})", " ".repeat(MAX_TEXT));
        assert!(matches!(
            to_binary(text.as_bytes()),
            Err(LoadError::Text { .. })
        ));
    }

    #[test]
    fn names_cannot_forge_lines() {
        assert_eq!(shown("a\nwrun: b\u{202e}"), "a\u{fffd}wrun: b\u{fffd}");
        assert_eq!(shown(&"x".repeat(300)).len(), MAX_NAME + 3);
    }

    #[test]
    fn truncation_never_panics() {
        let binary = to_binary(ECHO.as_bytes()).expect("valid").into_owned();
        for len in 0..binary.len() {
            let cut = &binary[..len];
            let _ = to_binary(cut).and_then(|binary| {
                let facts = facts(&binary)?;
                shape(&facts)?;
                componentize(&binary, &facts)
            });
        }
    }

    const ECHO: &str = r#"(module
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16))
        (func (export "run") (param i32 i32) (result i32)
            (i32.store (i32.const 4) (local.get 0))
            (i32.store (i32.const 8) (local.get 1))
            (i32.const 0)))"#;

    #[test]
    fn a_core_module_becomes_a_component() {
        let binary = to_binary(ECHO.as_bytes()).expect("valid");
        let facts_of_core = facts(&binary).expect("valid");
        let component = componentize(&binary, &facts_of_core).expect("encodes");
        let facts_of_component = facts(&component).expect("valid");
        assert_eq!(shape(&facts_of_component).expect("task"), Shape::Component);
    }

    #[test]
    fn a_lying_custom_section_is_ignored() {
        let text = ECHO.replace(
            "(memory",
            r#"(@custom "component-type" "\ff\ff\ff lies") (memory"#,
        );
        let binary = to_binary(text.as_bytes()).expect("valid");
        let facts = facts(&binary).expect("valid");
        componentize(&binary, &facts).expect("encodes without the lie");
    }

    #[test]
    fn a_missing_canonical_export_is_our_own_error() {
        let text = ECHO.replace("cabi_realloc", "other");
        let binary = to_binary(text.as_bytes()).expect("valid");
        let facts = facts(&binary).expect("valid");
        match componentize(&binary, &facts) {
            Err(LoadError::MissingExport { name }) => assert_eq!(name, "cabi_realloc"),
            other => panic!("{other:?}"),
        }
    }
}
