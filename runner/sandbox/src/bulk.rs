//! Bulk instructions in pieces. The engine looks at the clock before an instruction, and
//! one `memory.fill` can be of gigabytes: seconds in which neither a deadline nor another
//! task gets its turn. So each `memory.fill` and `memory.copy` that may be larger than a
//! [`PIECE`] is preceded by a call that does all of it but the last piece:
//!
//! ```text
//! local.tee $n   local.get $n   i32.const PIECE   i32.gt_u
//! if (param i32 i32 i32) (result i32 i32 i32)   call $pieces   end
//! memory.fill
//! ```
//!
//! The other bulk instructions are small: those on tables because of their limit, those on
//! segments because the segments are in the file.
//!
//! Invariants: the added code never traps, and writes nothing if the instruction would
//! trap; so a trap is the instruction's own, at its position, with memory unchanged. A
//! valid binary stays valid, or becomes too large for the engine. If code has moved,
//! [`Offsets`] map back to the task's own.

mod code;
mod offsets;

use super::load_error::LoadError;
use super::source::invalid;
use code::{Code, add, greater, piece, sub};
pub(crate) use offsets::Offsets;
use offsets::{Text, too_large};
use std::borrow::Cow;
use std::collections::BTreeMap;
use wasm_encoder::{BlockType, Encode, Function, Instruction as I, ValType};
use wasmparser::{BinaryReader, CodeSectionReader, FunctionSectionReader, Operator, TypeRef};

/// Bytes that are written between two checks of the clock: microseconds, or some tens of them
/// if the pages are new.
const PIECE: i32 = 64 << 10;

const HEADER: usize = 8;
/// Sections of modules.
const CUSTOM: u8 = 0;
const TYPE: u8 = 1;
const IMPORT: u8 = 2;
const FUNCTION: u8 = 3;
const MEMORY: u8 = 5;
const CODE: u8 = 10;
/// Sections of components.
const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;

/// Splits the bulk instructions of a valid module or component into pieces.
pub(super) fn in_pieces(binary: Cow<'_, [u8]>) -> Result<(Cow<'_, [u8]>, Offsets), LoadError> {
    let changed = if wasmparser::Parser::is_core_wasm(&binary) {
        module(&binary, 0)?
    } else {
        component(&binary, 0)?
    };
    Ok(match changed {
        None => (binary, Offsets::default()),
        Some(text) => {
            let offsets = text.offsets();
            (text.bytes.into(), offsets)
        }
    })
}

/// A section, and the position of its content in the whole binary.
struct Section<'a> {
    id: u8,
    at: usize,
    content: &'a [u8],
    /// Including its id and length.
    start: usize,
    whole: &'a [u8],
}

/// The sections of the module or component that begins at `at`.
fn sections(binary: &[u8], at: usize) -> Result<Vec<Section<'_>>, LoadError> {
    let mut reader = BinaryReader::new(binary.get(HEADER..).unwrap_or_default(), at + HEADER);
    let mut sections = Vec::new();
    while !reader.eof() {
        let start = reader.original_position();
        let id = reader.read_u8().map_err(invalid)?;
        let len = reader.read_var_u32().map_err(invalid)?;
        let from = reader.original_position();
        let content = reader.read_bytes(len as usize).map_err(invalid)?;
        let whole = &binary[start - at..reader.original_position() - at];
        sections.push(Section {
            id,
            at: from,
            content,
            start,
            whole,
        });
    }
    Ok(sections)
}

/// The component with its modules changed; `None` if there is nothing to change.
fn component(binary: &[u8], at: usize) -> Result<Option<Text>, LoadError> {
    let mut text = Text::default();
    text.copy(at, binary.get(..HEADER).unwrap_or_default());
    let mut changed = false;
    for section in sections(binary, at)? {
        let content = match section.id {
            CORE_MODULE => module(section.content, section.at)?,
            COMPONENT => component(section.content, section.at)?,
            _ => None,
        };
        match content {
            None => text.copy(section.start, section.whole),
            Some(content) => {
                changed = true;
                text.section(section.id, content)?;
            }
        }
    }
    Ok(changed.then_some(text))
}

/// An instruction that may be large, by its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bulk {
    Fill { memory: u32 },
    Copy { to: u32, from: u32 },
}

/// The items of a module that its code refers to.
#[derive(Default)]
struct Module {
    /// Number of parameters of each type; `None` if it is not a function type.
    types: Vec<Option<u32>>,
    /// Types of imported and own functions.
    functions: Vec<u32>,
    imported: usize,
    /// Whether each memory has 64-bit addresses.
    memories: Vec<bool>,
    /// The instructions found, with the functions that replace them.
    helpers: BTreeMap<Bulk, u32>,
    /// The types of those functions, with their numbers.
    signatures: BTreeMap<[bool; 3], u32>,
}

/// The module with its functions changed; `None` if there is nothing to change.
fn module(binary: &[u8], at: usize) -> Result<Option<Text>, LoadError> {
    let sections = sections(binary, at)?;
    let mut module = Module::default();
    let mut code = None;
    for section in &sections {
        let reader = BinaryReader::new(section.content, section.at);
        match section.id {
            TYPE => module.read_types(reader)?,
            IMPORT => module.read_imports(reader)?,
            FUNCTION => {
                for function in FunctionSectionReader::new(reader).map_err(invalid)? {
                    module.functions.push(function.map_err(invalid)?);
                }
            }
            MEMORY => {
                for memory in wasmparser::MemorySectionReader::new(reader).map_err(invalid)? {
                    module.memories.push(memory.map_err(invalid)?.memory64);
                }
            }
            CODE => code = Some(module.code(reader)?),
            _ => {}
        }
    }
    let (Some((bodies, mut code)), false) = (code, module.helpers.is_empty()) else {
        return Ok(None);
    };
    let mut text = Text::default();
    text.copy(at, binary.get(..HEADER).unwrap_or_default());
    for section in &sections {
        match section.id {
            TYPE => {
                let more: Vec<u8> = module.signatures_encoded();
                text.section(TYPE, longer(section, module.signatures.len(), &more)?)?;
            }
            FUNCTION => {
                let mut more = Vec::new();
                for helper in module.helpers_in_order() {
                    module.signature_of(helper).encode(&mut more);
                }
                text.section(FUNCTION, longer(section, module.helpers.len(), &more)?)?;
            }
            CODE => {
                let mut content = Text::default();
                content.number(bodies + module.helpers.len())?;
                content.append(std::mem::take(&mut code));
                for helper in module.helpers_in_order() {
                    module.helper(helper).encode(&mut content.bytes);
                }
                text.section(CODE, content)?;
            }
            // The positions in functions that it states are no longer valid.
            CUSTOM if is_about_code(section.content) => {}
            _ => text.copy(section.start, section.whole),
        }
    }
    Ok(Some(text))
}

fn is_about_code(custom: &[u8]) -> bool {
    let mut reader = BinaryReader::new(custom, 0);
    reader
        .read_string()
        .is_ok_and(|name| name.starts_with("metadata.code."))
}

/// A section of items with more items added at its end.
fn longer(section: &Section<'_>, count: usize, more: &[u8]) -> Result<Text, LoadError> {
    let mut reader = BinaryReader::new(section.content, section.at);
    let items = reader.read_var_u32().map_err(invalid)? as usize;
    let from = reader.original_position();
    let mut text = Text::default();
    text.number(items + count)?;
    text.copy(from, &section.content[from - section.at..]);
    text.bytes.extend_from_slice(more);
    Ok(text)
}

impl Module {
    fn read_types(&mut self, reader: BinaryReader<'_>) -> Result<(), LoadError> {
        for group in wasmparser::TypeSectionReader::new(reader).map_err(invalid)? {
            for ty in group.map_err(invalid)?.into_types() {
                self.types.push(match ty.composite_type.inner {
                    wasmparser::CompositeInnerType::Func(ty) => {
                        u32::try_from(ty.params().len()).ok()
                    }
                    _ => None,
                });
            }
        }
        Ok(())
    }

    fn read_imports(&mut self, reader: BinaryReader<'_>) -> Result<(), LoadError> {
        let reader = wasmparser::ImportSectionReader::new(reader).map_err(invalid)?;
        for import in reader.into_imports() {
            match import.map_err(invalid)?.ty {
                TypeRef::Func(ty) | TypeRef::FuncExact(ty) => {
                    self.functions.push(ty);
                    self.imported += 1;
                }
                TypeRef::Memory(memory) => self.memories.push(memory.memory64),
                _ => {}
            }
        }
        Ok(())
    }

    /// The number of functions in the code section, and the functions, changed.
    fn code(&mut self, reader: BinaryReader<'_>) -> Result<(usize, Text), LoadError> {
        let mut text = Text::default();
        let mut count = 0;
        for body in CodeSectionReader::new(reader).map_err(invalid)? {
            let body = body.map_err(invalid)?;
            let changed = self.body(&body, self.imported + count)?;
            let body = match changed {
                Some(changed) => changed,
                None => {
                    let mut same = Text::default();
                    same.copy(body.range().start, body.as_bytes());
                    same
                }
            };
            text.number(body.bytes.len())?;
            text.append(body);
            count += 1;
        }
        Ok((count, text))
    }

    /// A function, changed; `None` if there is nothing to change.
    fn body(
        &mut self,
        body: &wasmparser::FunctionBody<'_>,
        index: usize,
    ) -> Result<Option<Text>, LoadError> {
        let sites = self.sites(body)?;
        if sites.is_empty() {
            return Ok(None);
        }
        let start = body.range().start;
        let bytes = body.as_bytes();
        let mut locals = body.get_locals_reader().map_err(invalid)?;
        let groups = locals.get_count();
        let groups_at = locals.original_position();
        let parameters = self
            .functions
            .get(index)
            .and_then(|ty| *self.types.get(*ty as usize)?);
        let mut count = parameters.unwrap_or_default();
        for _ in 0..groups {
            let (more, _) = locals.read().map_err(invalid)?;
            count = count.saturating_add(more);
        }
        let code_at = locals.original_position();

        let mut text = Text::default();
        let scratch: Vec<bool> = [false, true]
            .into_iter()
            .filter(|wide| {
                sites
                    .iter()
                    .any(|(_, bulk)| self.length_is_wide(*bulk) == *wide)
            })
            .collect();
        text.number(groups as usize + scratch.len())?;
        text.copy(groups_at, &bytes[groups_at - start..code_at - start]);
        for wide in &scratch {
            1_u32.encode(&mut text.bytes);
            value_type(*wide).encode(&mut text.bytes);
        }
        let mut copied = code_at;
        for (site, bulk) in sites {
            text.copy(copied, &bytes[copied - start..site - start]);
            copied = site;
            let wide = self.length_is_wide(bulk);
            let place = scratch
                .iter()
                .position(|it| *it == wide)
                .unwrap_or_default();
            let local = count.saturating_add(u32::try_from(place).unwrap_or_default());
            let function = self.helper_for(bulk)?;
            for instruction in [
                I::LocalTee(local),
                I::LocalGet(local),
                piece(wide),
                greater(wide),
                I::If(BlockType::FunctionType(self.signature_of(bulk))),
                I::Call(function),
                I::End,
            ] {
                instruction.encode(&mut text.bytes);
            }
        }
        text.copy(copied, &bytes[copied - start..]);
        Ok(Some(text))
    }

    /// The instructions of a function that may be large, with their positions.
    fn sites(&self, body: &wasmparser::FunctionBody<'_>) -> Result<Vec<(usize, Bulk)>, LoadError> {
        let mut sites = Vec::new();
        // They all begin with this byte; most functions do not contain it.
        if !body.as_bytes().contains(&0xfc) {
            return Ok(sites);
        }
        let mut reader = body.get_operators_reader().map_err(invalid)?;
        // The value on top of the stack if it is a constant.
        let mut constant = None;
        while !reader.eof() {
            let (operator, at) = reader.read_with_offset().map_err(invalid)?;
            let bulk = match operator {
                Operator::MemoryFill { mem } => Some(Bulk::Fill { memory: mem }),
                Operator::MemoryCopy { dst_mem, src_mem } => Some(Bulk::Copy {
                    to: dst_mem,
                    from: src_mem,
                }),
                _ => None,
            };
            let small = constant.is_some_and(|length| length <= PIECE as u64);
            if let Some(bulk) = bulk.filter(|_| !small) {
                sites.push((at, bulk));
            }
            constant = match operator {
                Operator::I32Const { value } => Some(u64::from(value.cast_unsigned())),
                Operator::I64Const { value } => Some(value.cast_unsigned()),
                _ => None,
            };
        }
        Ok(sites)
    }

    fn is_wide(&self, memory: u32) -> bool {
        self.memories
            .get(memory as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Whether each operand of the instruction has 64 bits.
    fn shape(&self, bulk: Bulk) -> [bool; 3] {
        match bulk {
            Bulk::Fill { memory } => {
                let wide = self.is_wide(memory);
                [wide, false, wide]
            }
            Bulk::Copy { to, from } => {
                let (to, from) = (self.is_wide(to), self.is_wide(from));
                [to, from, to && from]
            }
        }
    }

    fn length_is_wide(&self, bulk: Bulk) -> bool {
        self.shape(bulk)[2]
    }

    /// The function that executes the instruction in pieces.
    fn helper_for(&mut self, bulk: Bulk) -> Result<u32, LoadError> {
        let number = |len: usize| u32::try_from(len).map_err(|_| too_large());
        let signature = number(self.types.len() + self.signatures.len())?;
        self.signatures.entry(self.shape(bulk)).or_insert(signature);
        let function = number(self.functions.len() + self.helpers.len())?;
        Ok(*self.helpers.entry(bulk).or_insert(function))
    }

    /// The number of its type.
    fn signature_of(&self, bulk: Bulk) -> u32 {
        let signature = self.signatures.get(&self.shape(bulk));
        signature.copied().unwrap_or_default()
    }

    fn signatures_encoded(&self) -> Vec<u8> {
        let mut signatures: Vec<_> = self.signatures.iter().collect();
        signatures.sort_by_key(|(_, number)| **number);
        let mut bytes = Vec::new();
        for (shape, _) in signatures {
            bytes.push(0x60);
            for _ in ["parameters", "results"] {
                3_u32.encode(&mut bytes);
                for wide in shape {
                    value_type(*wide).encode(&mut bytes);
                }
            }
        }
        bytes
    }

    fn helpers_in_order(&self) -> Vec<Bulk> {
        let mut helpers: Vec<_> = self.helpers.iter().collect();
        helpers.sort_by_key(|(_, number)| **number);
        helpers.into_iter().map(|(bulk, _)| *bulk).collect()
    }

    /// Takes the operands of the instruction, executes all but the last piece, and returns
    /// the operands for the rest; returns them unchanged if the instruction would trap.
    fn helper(&self, bulk: Bulk) -> Function {
        const LENGTH: u32 = 2;
        let [first, second, wide] = self.shape(bulk);
        let mut code = Code(Function::new([]));
        match bulk {
            Bulk::Fill { memory } => {
                code.is_within(0, wide, memory, first);
                code.add(&[I::If(BlockType::Empty), I::Loop(BlockType::Empty)]);
                code.add(&[I::LocalGet(0), I::LocalGet(1), piece(wide)]);
                code.add(&[I::MemoryFill(memory)]);
                code.step(0, first);
                code.next_piece(wide);
                code.add(&[I::End, I::End]);
            }
            Bulk::Copy { to, from } => {
                let copy = I::MemoryCopy {
                    src_mem: from,
                    dst_mem: to,
                };
                code.is_within(0, wide, to, first);
                code.is_within(1, wide, from, second);
                code.add(&[I::I32And, I::If(BlockType::Empty)]);
                if to == from {
                    // Bytes must be read before they are overwritten: from the end.
                    code.add(&[I::LocalGet(0), I::LocalGet(1), greater(wide)]);
                    code.add(&[I::If(BlockType::Empty), I::Loop(BlockType::Empty)]);
                    code.add(&[I::LocalGet(LENGTH), piece(wide), sub(wide)]);
                    code.add(&[I::LocalSet(LENGTH)]);
                    for local in [0, 1] {
                        code.add(&[I::LocalGet(local), I::LocalGet(LENGTH), add(wide)]);
                    }
                    code.add(&[piece(wide), copy.clone()]);
                    code.add(&[I::LocalGet(LENGTH), piece(wide), greater(wide)]);
                    code.add(&[I::BrIf(0), I::End, I::Else]);
                }
                code.add(&[I::Loop(BlockType::Empty)]);
                code.add(&[I::LocalGet(0), I::LocalGet(1), piece(wide), copy]);
                code.step(0, first);
                code.step(1, second);
                code.next_piece(wide);
                code.add(&[I::End, I::End]);
                if to == from {
                    code.add(&[I::End]);
                }
            }
        }
        code.add(&[I::LocalGet(0), I::LocalGet(1), I::LocalGet(LENGTH), I::End]);
        code.0
    }
}

fn value_type(wide: bool) -> ValType {
    if wide { ValType::I64 } else { ValType::I32 }
}

#[cfg(test)]
mod tests;
